"""The report as a page, as JSON, and in a browser."""

import json
import pathlib
import re
import shutil

import numpy as np
import pytest
from helpers import Once, evaluating_quickly
from playwright.sync_api import Browser, Page

import charlm
import eval as eval_program
import report as report_program
from charlm.reporting.page import page
from charlm.reporting.types import Expectations, Numbers
from charlm.system import process


def _report(*args: str) -> int:
  return report_program.main(["report.py", *args])


@pytest.fixture(scope="session")
def numbers(
  trained_run: pathlib.Path,
  short_run: pathlib.Path,
  corpus_path: pathlib.Path,
  once: Once,
) -> Numbers:
  """A report's numbers for two runs, which are scored."""

  def write(path: pathlib.Path) -> None:
    other = path.with_name("other <run>")
    shutil.copytree(short_run, other)
    runs, corpus = f"--run_dir={trained_run},{other}", f"--corpus={corpus_path}"
    flags = [runs, corpus, "--score=all", "--format=json"]
    with evaluating_quickly():
      assert _report(*flags, f"--output={path}") == 0

  text = once("report.json", write).read_text()
  return json.loads(text, parse_constant=pytest.fail)


def test_the_page_is_self_contained_and_shows_the_numbers(
  numbers: Numbers,
) -> None:
  text = page(numbers)
  assert not re.search(r"<(link|img|iframe)|src=|@import|url\(http", text)
  assert "other &lt;run&gt;" in text
  assert "other <run>" not in text
  assert "Kneser-Ney, order 8" in text
  run = numbers["groups"][0]["runs"][0]
  assert f"<td>{run['eval_loss']:.4f}</td>" in text


@pytest.mark.usefixtures("quick_evaluations")
def test_the_report_agrees_with_the_other_programs(
  numbers: Numbers,
  trained_run: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
) -> None:
  (group,) = numbers["groups"]
  names = [run["name"] for run in group["runs"]]
  assert names == ["trained", "other <run>"]
  for run, scored in zip(group["runs"], numbers["scored"], strict=True):
    curve = run["curves"]["eval"]
    score = scored["eval_score"]["log_perplexity"]
    assert run["eval_loss"] == pytest.approx(score)
    assert curve["losses"][-1] == pytest.approx(score, abs=1e-4)
    assert run["characters_per_step"] == 24 * 20
    assert scored["step"] == run["step"] == run["last_step"]
    assert run["num_weights"] == charlm.load(trained_run).model.count_params()
  args = ["eval.py", f"--run_dir={trained_run}", "--json"]
  assert eval_program.main(args) == 0
  score = json.loads(capsys.readouterr().out)
  assert score.items() >= numbers["scored"][0]["eval_score"].items()
  assert 0 <= numbers["memorised"] <= 1
  xz, trained = numbers["baselines"][-2:]
  assert (xz["name"], trained["name"]) == ("xz", "trained")
  heat_map = numbers["heat_map"]
  assert [entry["run"] for entry in heat_map["runs"]] == names
  text = (trained_run / "eval.txt").read_text()
  assert heat_map["text"] == text[:10_000]
  assert heat_map["num_characters"] == len(text)
  _check_expectations(heat_map["runs"][0], text[:10_000], trained_run)


def _check_expectations(
  entry: Expectations, text: str, run: pathlib.Path
) -> None:
  """Compares the report's expected characters with the model's."""
  model = charlm.load(run)
  for i in (0, 1, 700, len(text) - 2):  # in several chunks
    probs = model.next(text[: i + 1])
    best = np.argsort(-probs, kind="stable")[:5]
    assert entry["expected"][i] == [model.vocabulary[j] for j in best]
    reported = entry["probabilities"][i]
    np.testing.assert_allclose(reported, probs[best], atol=1e-4)
    nats = -np.log(probs[model.vocabulary.index(text[i + 1])])
    assert entry["nats"][i] == pytest.approx(nats, abs=1e-3)


def _copies(
  sweep: pathlib.Path, folder: pathlib.Path, number: int
) -> pathlib.Path:
  """Makes a sweep of runs with curves of 200 points; without checkpoints."""
  (source, *_) = (sweep / "runs" / "rates").iterdir()
  config = json.loads((source / "config.json").read_text())
  valid = {"split": "valid", "sample": 500 * "a", "time": 0}
  for i in range(number):
    run = folder / f"run {i}"
    run.mkdir(parents=True)
    for name in ("vocabulary.json", "starts.jsonl"):
      shutil.copy(source / name, run)
    changed = {"seed": i % 5, "learning_rate": 0.01 * (1 + i // 5)}
    (run / "config.json").write_text(json.dumps(config | changed))
    records = [
      record | {"step": step, "loss": 1 + i / 100 + 1 / step, "seconds": step}
      for step in range(1, 201)
      for record in (valid, {"split": "train"})
    ]
    records.append(records[-1] | {"split": "eval"})
    lines = [json.dumps(record) + "\n" for record in records]
    (run / "metrics.jsonl").write_text("".join(lines))
  return folder


@pytest.mark.parametrize(
  ("number", "size"), [(20, 1_000_000), (200, 3_000_000)]
)
def test_a_page_of_many_runs_is_small(
  sweep: pathlib.Path, tmp_path: pathlib.Path, number: int, size: int
) -> None:
  runs, path = _copies(sweep, tmp_path / "runs", number), tmp_path / "a.html"
  assert _report(str(runs), f"--output={path}") == 0
  text = path.read_text()
  assert text.count("<details><summary>run ") == number
  assert len(text) < size


def test_following_writes_the_page_anew_as_runs_train(
  sweep: pathlib.Path,
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  runs, path = _copies(sweep, tmp_path / "runs", 5), tmp_path / "a.html"
  metrics = runs / "run 3" / "metrics.jsonl"
  whole, seen = metrics.read_text(), []
  metrics.write_text(whole.splitlines()[0] + "\n")

  def sleep(seconds: float) -> None:
    seen.append(path.read_text())
    metrics.write_text(whole)

  monkeypatch.setattr(process.time, "sleep", sleep)
  flags = ["--follow", "--idle_timeout=0", f"--output={path}"]
  assert _report(str(runs), *flags) == 0
  first, second = seen
  assert "<td>stopped</td>" in first
  assert "<td>stopped</td>" not in second
  assert "location.reload()" in first
  assert "location.reload()" not in path.read_text()


@pytest.fixture
def tab(browser: Browser) -> Page:
  """A tab that has seen no error when the test ends."""
  tab, errors = browser.new_page(), []
  tab.on("pageerror", lambda error: errors.append(error))
  yield tab
  assert errors == []
  tab.close()


@pytest.mark.release
def test_a_browser_draws_a_sweep_and_names_its_runs(
  sweep: pathlib.Path, tmp_path: pathlib.Path, tab: Page
) -> None:
  path = tmp_path / "a.html"
  assert (
    _report(str(_copies(sweep, tmp_path / "r", 40)), f"--output={path}") == 0
  )
  tab.goto(path.as_uri())
  # Of 8 settings, the best 6 have colours; a click picks others.
  rows = tab.locator(".settings tbody tr")
  assert rows.count() == 8
  grey = tab.locator(".wide svg path[stroke='var(--grey)']")
  assert grey.count() == 2
  rows.nth(7).click()
  tab.mouse.move(0, 0)
  assert grey.count() == 7
  chart = tab.locator(".wide svg").first
  chart.scroll_into_view_if_needed()
  box = chart.bounding_box()
  tab.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
  tip = tab.locator(".wide .tip").inner_text()
  assert re.match(r"learning_rate 0\.\d+\nsteps \d+\nloss 1", tip)
  assert re.search(r"^run run \d+: 1\.\d{4}$", tip, re.MULTILINE)
  assert tab.locator(".settings tr.at").count() == 1
  before = chart.inner_html()
  for name in ("minutes", "characters", "log x", "log y", "train loss"):
    tab.locator(".wide").get_by_role("button", name=name).click()
    now = chart.inner_html()
    assert now != before
    assert "NaN" not in now
    before = now
  assert tab.get_by_role("heading", name="Loss by learning_rate").is_visible()
  # Narrow screens scroll the table, not the page.
  tab.set_viewport_size({"width": 400, "height": 800})
  assert tab.evaluate("document.documentElement.scrollWidth") == 400


@pytest.mark.release
def test_a_browser_shows_the_expected_characters(
  numbers: Numbers, tmp_path: pathlib.Path, tab: Page
) -> None:
  (tmp_path / "page.html").write_text(page(numbers), "utf-8")
  tab.goto((tmp_path / "page.html").as_uri())
  for name in ("Settings", "Loss by character"):
    assert tab.get_by_role("heading", name=name).is_visible()
  # A blank chart would compress to a few kilobytes.
  assert len(tab.locator(".wide svg").first.screenshot()) > 5_000
  heat_map, box = numbers["heat_map"], tab.locator("#box")
  cells = tab.locator("#text i")
  assert "".join(cells.all_text_contents()) == heat_map["text"]
  assert not box.is_visible()
  cells.nth(8).hover()
  character = heat_map["text"][8]
  entry = heat_map["runs"][0]
  run, first, _, *expected = box.inner_text().splitlines()
  assert run == entry["run"]
  assert first == f"{json.dumps(character)}  {entry['nats'][7]:.2f} nats"
  shown = [json.loads(line.rpartition("  ")[0]) for line in expected]
  assert shown == entry["expected"][7]
  # Compared with itself, a run knows more nowhere.
  red = "rgba(255, 60, 0,"
  assert red in cells.nth(8).evaluate("x => getComputedStyle(x).background")
  tab.select_option("#other", "0")
  color = cells.nth(8).evaluate("x => getComputedStyle(x).backgroundColor")
  assert color.endswith(", 0)")
  tab.select_option("#other", "1")
  cells.nth(9).hover()
  assert box.inner_text().count("expected:") == 2


def test_only_a_report_is_overwritten(
  sweep: pathlib.Path,
  tmp_path: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
) -> None:
  thesis = tmp_path / "thesis.html"
  thesis.write_text("<!DOCTYPE html>\n<title>My thesis</title>\n" + "x" * 999)
  run = str(sweep / "runs")
  assert _report(run, f"--output={thesis}") == 2
  assert "thesis.html is not a report" in capsys.readouterr().err
  for kind in ("json", "html", "csv", "latex", "markdown", "json"):
    output = f"--output={tmp_path}/report"
    assert _report(run, f"--format={kind}", output) == 0
