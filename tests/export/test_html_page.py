"""The page that generates text, as a file and in a browser."""

import pathlib
import re
import shutil
from collections.abc import Callable

import numpy as np
import pytest
from helpers import run_program
from playwright.sync_api import Browser, Page, expect

import charlm
import export as export_program
from charlm.evaluation.evaluator import Evaluator

_ROOT = pathlib.Path(__file__).resolve().parents[2]


def _export(run: pathlib.Path, path: pathlib.Path) -> int:
  args = ["export.py", f"--run_dir={run}", "--format=html", f"--output={path}"]
  return export_program.main(args)


def test_the_page_contains_none_of_the_text_and_loads_nothing(
  short_run: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  run = shutil.copytree(short_run, tmp_path / '<b>"the run"')
  assert _export(run, tmp_path / "my.html") == 0
  page = (tmp_path / "my.html").read_text()
  assert "<h1>&lt;b&gt;&quot;the run&quot;, a model that writes</h1>" in page
  for line in (run / "eval.txt").read_text().splitlines()[:20]:
    assert line not in page
  assert not re.search(r"https?://|@import", page)
  (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)
  assert policy.startswith("default-src 'none';")
  assert "unsafe" not in policy


def test_only_a_gru_or_lstm_is_exported_as_a_page(
  trained: Callable[..., pathlib.Path],
  tmp_path: pathlib.Path,
) -> None:
  layer = f"--layer={_ROOT}/examples/mingru.py:MinGRU"
  run = trained("page_mingru", layer)
  result = run_program(
    "export.py",
    f"--run_dir={run}",
    layer,
    "--format=html",
    f"--output={tmp_path}/my.html",
  )
  assert result.returncode == 2
  (line,) = result.stderr.splitlines()
  assert line.endswith("cannot compute the layer MinGRU: give --format=npz")
  assert not list(tmp_path.iterdir())


@pytest.fixture(
  params=[
    [],
    ["--num_layers=2", "--unit=byte"],
    ["--layer=lstm"],
    ["--layer=lstm", "--num_layers=2", "--rnn_units=17"],
  ],
  ids=" ".join,
)
def run(
  request: pytest.FixtureRequest, trained: Callable[..., pathlib.Path]
) -> pathlib.Path:
  """A run for each layer, number of layers and unit."""
  return trained(f"page {' '.join(request.param)}", *request.param)


@pytest.fixture
def tab(run: pathlib.Path, tmp_path: pathlib.Path, browser: Browser) -> Page:
  """A tab with the run's page, where tests may evaluate code."""
  assert _export(run, tmp_path / "my.html") == 0
  tab = browser.new_page(bypass_csp=True)
  tab.goto((tmp_path / "my.html").as_uri())
  # Runs the worker's code in the page itself.
  tab.evaluate(
    "() => { globalThis.charlm = new Function("
    "read('worker') + '; return { Model, uniform };')();"
    " globalThis.model = new charlm.Model(weights); }"
  )
  yield tab
  tab.close()


def _rounded(run: pathlib.Path) -> charlm.LoadedModel:
  """Returns the run's model with its weights rounded as in its page."""
  model = charlm.load(run)
  weights = [x.astype("f2") for x in model.model.get_weights()]
  model.model.set_weights(weights)
  return model


@pytest.mark.release
def test_a_page_scores_and_samples_like_its_model(
  run: pathlib.Path, tab: Page
) -> None:
  rounded, exact = _rounded(run), charlm.load(run)
  encoding = exact.config.encoding
  text = (run / "eval.txt").read_text(encoding)
  tab.click("#look-tab")
  tab.fill("#given", text)
  expect(tab.locator("#seen i")).to_have_count(len(text))
  expect(tab.locator("#mean")).to_contain_text("mean loss", timeout=60_000)
  found = np.array(tab.evaluate("() => seen.results.map(({ nats }) => nats)"))
  expected = Evaluator(rounded.model).stream(rounded.ids(text))
  assert len(found) == len(text) - 1 > 1000
  np.testing.assert_allclose(found, expected, atol=1e-4)
  mean = Evaluator(exact.model).stream(exact.ids(text)).mean()
  assert f"{found.mean():.4f} nats" in tab.locator("#mean").inner_text()
  assert found.mean() == pytest.approx(mean, abs=1e-3)

  if encoding == "latin-1":  # half a character is shown as U+FFFD
    cells = tab.evaluate(
      "text => cellsOf(entriesOf(text).slice(0, -1))", "a\u00e9\U0001f600"
    )
    assert [cell["text"] for cell in cells] == ["a", "\u00e9", "\ufffd"]
    assert [cell["end"] for cell in cells] == [1, 3, 6]

  # At temperature 0: the most likely character each time.
  tab.click("#write-tab")
  tab.fill("#prefix", "the ")
  tab.fill("#temperature", "0")
  tab.fill("#length", "200")
  tab.click("#start")
  expect(tab.locator("#written i")).to_have_count(204, timeout=20_000)
  drawn = tab.evaluate("() => written.results.map(({ id }) => id)")
  ids = [*rounded.ids("the "), *drawn]
  log_probs = rounded.model(np.array([ids[:-1]])).numpy()[0, 3:]
  best = log_probs[:, 2:].max(axis=1)
  assert np.all(log_probs[np.arange(200), drawn] > best - 2e-4)

  for temperature in (0.7, 1.0):
    counts = tab.evaluate(
      """([ids, temperature]) => {
        for (const id of ids) model.read(id);
        const counts = Array(vocabulary.length).fill(0);
        for (let seed = 0; seed < 10000; seed++) {
          counts[model.draw(temperature, charlm.uniform(seed, 4))] += 1;
        }
        return counts;
      }""",
      [rounded.ids("the ").tolist(), temperature],
    )
    assert counts[:2] == [0, 0]
    weights = rounded.next("the ")[2:].astype(np.float64) ** (1 / temperature)
    expected = 10_000 * weights / weights.sum()
    often = expected >= 5
    squares = (np.array(counts[2:]) - expected)[often] ** 2 / expected[often]
    freedom = often.sum() - 1
    assert squares.sum() < freedom + 4 * (2 * freedom) ** 0.5
    tab.evaluate("() => { globalThis.model = new charlm.Model(weights); }")


@pytest.mark.release
def test_a_user_generates_stops_and_replaces_a_character(
  trained: Callable[..., pathlib.Path], tmp_path: pathlib.Path, browser: Browser
) -> None:
  """With the page's own content policy, and by keyboard."""
  assert _export(trained("short"), tmp_path / "my.html") == 0
  tab = browser.new_page()
  errors = []
  tab.on("pageerror", lambda error: errors.append(error))
  tab.on("console", lambda message: errors.append(message.text))
  tab.goto((tmp_path / "my.html").as_uri())
  written = tab.locator("#written")
  expect(tab.locator("#written i")).to_have_count(500, timeout=20_000)
  first = written.inner_text()
  tab.fill("#seed", "1")
  tab.click("#start")
  expect(tab.locator("#speed")).to_contain_text("a second")
  assert written.inner_text() != first
  tab.fill("#seed", "0")
  tab.click("#start")
  expect(tab.locator("#speed")).to_contain_text("a second")
  assert written.inner_text() == first
  # A continued text equals one that was longer from the start.
  tab.click("#more")
  expect(tab.locator("#written i")).to_have_count(1000)
  longer = written.inner_text()
  tab.fill("#length", "1000")
  tab.click("#start")
  expect(tab.locator("#written i")).to_have_count(1000)
  assert written.inner_text() == longer
  # Stops at once in the middle of a long text.
  tab.fill("#length", "100000")
  tab.click("#start")
  tab.click("#stop")
  stopped = written.inner_text()
  tab.wait_for_timeout(200)
  assert written.inner_text() == stopped
  # Replaces the tenth character by another likely one.
  tab.fill("#length", "50")
  tab.click("#start")
  expect(tab.locator("#written i")).to_have_count(50)
  before = written.inner_text()
  written.focus()
  for _ in range(10):
    tab.keyboard.press("ArrowRight")
  other = tab.locator("#box button").nth(1)
  character = other.inner_text().rpartition("  ")[0]
  character = {"space": " ", "line break": "\n"}.get(character, character)
  other.press("Enter")
  expect(tab.locator("#written i")).to_have_count(110)
  after = written.inner_text()
  assert (after[:9], after[9]) == (before[:9], character)
  # The cursor stays; "Write", pressed again, generates another text.
  assert tab.locator("#written i.at").text_content() == character
  tab.click("#start")
  expect(tab.locator("#written i")).to_have_count(50)
  first = written.inner_text()
  tab.click("#start")
  expect(tab.locator("#speed")).to_contain_text("a second")
  assert written.inner_text() != first
  assert errors == []
  tab.close()


@pytest.mark.release
def test_unknown_empty_and_long_texts_are_handled(
  trained: Callable[..., pathlib.Path], tmp_path: pathlib.Path, browser: Browser
) -> None:
  assert _export(trained("short"), tmp_path / "my.html") == 0
  tab = browser.new_page()
  errors = []
  tab.on("pageerror", lambda error: errors.append(error))
  tab.goto((tmp_path / "my.html").as_uri())
  expect(tab.locator("#written i")).to_have_count(500, timeout=20_000)
  tab.fill("#prefix", "\u03b1 ")
  tab.press("#temperature", "Enter")
  expect(tab.locator("#unknown")).to_have_text(
    "The model has never seen: \u03b1"
  )
  expect(tab.locator("#written")).to_contain_text("\u03b1 ")
  # A text that is cleared while it is scored has no loss.
  tab.click("#look-tab")
  tab.fill("#given", "the king " * 2000)
  tab.wait_for_timeout(350)  # scoring starts after 300 ms
  tab.fill("#given", "")
  tab.wait_for_timeout(1000)
  assert tab.locator("#mean").inner_text() == ""
  tab.click("#write-tab")
  tab.fill("#prefix", "the king " * 20_000)
  tab.fill("#length", "1")
  tab.click("#start")
  expect(tab.locator("#written i")).to_have_count(180_001, timeout=60_000)
  assert errors == []
  tab.close()


@pytest.mark.release
def test_windows_line_breaks_are_scored_unchanged(
  trained: Callable[..., pathlib.Path],
  corpus_path: pathlib.Path,
  tmp_path: pathlib.Path,
  browser: Browser,
) -> None:
  text = corpus_path.read_text().replace("\n", "\r\n")
  (tmp_path / "windows.txt").write_bytes(text.encode())
  flags = ("--raw", f"--corpus={tmp_path / 'windows.txt'}")
  assert _export(trained("page_windows", *flags), tmp_path / "my.html") == 0
  tab = browser.new_page()
  tab.goto((tmp_path / "my.html").as_uri())
  expect(tab.locator("#speed")).to_contain_text("a second", timeout=20_000)
  tab.click("#look-tab")
  tab.fill("#given", text[:500])
  expect(tab.locator("#seen i")).to_have_count(500)
  expect(tab.locator("#mean")).to_contain_text("mean loss", timeout=20_000)
  assert tab.locator("#seen").text_content() == text[:500]
  tab.close()
