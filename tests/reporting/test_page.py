"""The report as a file, and as a browser shows it."""

import hashlib
import html.parser
import json
import pathlib
import re
import shutil

import numpy as np
import pytest
from helpers import run_program, score_of
from playwright.sync_api import Browser

import report as report_binary
from charlm.reporting.page import Result, _coloured, _curves, _short_names
from charlm.runs.metrics import read_records

_VOID = {"meta", "path", "use", "br", "image"}


@pytest.fixture(scope="module")
def page(
  trained_run: pathlib.Path,
  short_run: pathlib.Path,
  corpus_path: pathlib.Path,
  tmp_path_factory: pytest.TempPathFactory,
) -> pathlib.Path:
  """A report on two runs."""
  folder = tmp_path_factory.mktemp("report")
  other = folder / "other <run>"
  shutil.copytree(short_run, other)
  path = folder / "page.html"
  args = ["report.py", f"--run_dir={trained_run},{other}"]
  args += [f"--corpus={corpus_path}", f"--output={path}"]
  assert report_binary.main(args) == 0
  return path


class _Tags(html.parser.HTMLParser):
  """Checks that what is opened is closed."""

  def __init__(self) -> None:
    super().__init__()
    self.open: list[str] = []

  def handle_starttag(self, tag: str, attrs: list) -> None:
    if tag not in _VOID:
      self.open.append(tag)

  def handle_endtag(self, tag: str) -> None:
    if tag not in _VOID:
      assert self.open.pop() == tag


def test_the_page_stands_alone_and_is_whole(page: pathlib.Path) -> None:
  text = page.read_text("utf-8")
  tags = _Tags()
  tags.feed(text)
  assert tags.open == []
  assert not re.search(r"<(script|link|img|iframe)|@import|url\(http", text)
  assert "other &lt;run&gt;" in text
  titles = ("Learning curves", "Differences", "Baselines", "Loss by character")
  for title in titles:
    assert f"<h2>{title}</h2>" in text
  assert text.count("Kneser-Ney, order") == 8
  # Both runs by three protocols.
  assert len(re.findall(r"<td>(?:stream|lines|windows of 256)</td>", text)) == 6


def test_runs_may_have_any_names_and_equal_ones_do_not_differ(
  trained_run: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  # The first is mathematics to matplotlib, and the second begins such, and is
  # none of a legend's names.
  names = ["$a_b_c$", "_x^{<b>& 莎士比亚 \u05e9\u05dc\u05d5\u05dd"]
  for name in names:
    shutil.copytree(trained_run, tmp_path / name)
  # Metrics that are cut off do no harm.
  with (tmp_path / names[0] / "metrics.jsonl").open("a") as file:
    file.write('{"step": 7')
  result = run_program(
    "report.py", f"--run_dir={','.join(names)}", cwd=tmp_path
  )
  assert (result.returncode, result.stderr) == (0, "")
  text = (tmp_path / "report.html").read_text("utf-8")
  curves = text.partition("Learning curves")[2].partition("<svg")[0]
  assert re.findall("</span> (.*?)[,.]", curves) == [*map(html.escape, names)]
  row = "<td>+0.0000</td><td>+0.0000 to +0.0000</td><td>no</td>"
  assert row in text
  tags = _Tags()
  tags.feed(text)
  assert tags.open == []


@pytest.mark.parametrize(
  ("step", "loss", "sound"),
  [
    (10**30, 1.0, False),
    (1, 1.7e308, False),
    (2**63 - 1, 3.4e38, True),
    (0, -3.4e38, True),
    (1, 1e20, True),
  ],
)
def test_metrics_of_any_size_are_drawn(
  step: int, loss: float, sound: bool, tmp_path: pathlib.Path
) -> None:
  path = tmp_path / "metrics.jsonl"
  record = {"step": step, "split": "eval", "loss": loss}
  for more in ("", json.dumps(record | {"step": 7, "loss": 2.5})):
    path.write_text(f"{json.dumps(record)}\n{more}")
    records = read_records(path)
    assert len(records) == sound + bool(more)
    result = Result("run", 1, 1, records, "", {})
    assert ("<svg" in _curves([result])) == bool(records)


@pytest.mark.parametrize("length", [0, 1, 2, 3])
def test_a_short_text_is_reported_on_or_refused(
  length: int,
  trained_run: pathlib.Path,
  corpus_path: pathlib.Path,
  tmp_path: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
) -> None:
  shutil.copytree(trained_run, tmp_path / "run")
  text, config = "the"[:length], tmp_path / "run" / "config.json"
  (tmp_path / "run" / "eval.txt").write_text(text)
  fields = json.loads(config.read_text())
  fields["eval_sha256"] = hashlib.sha256(text.encode()).hexdigest()
  config.write_text(json.dumps(fields))
  args = ["report.py", f"--run_dir={tmp_path}/run", f"--corpus={corpus_path}"]
  args.append(f"--output={tmp_path}/page.html")
  code = report_binary.main(args)
  err = capsys.readouterr().err
  if length < 2:
    assert (code, err.count("\n")) == (2, 1)
    assert "eval.txt has fewer than two characters" in err
  else:
    assert (code, err) == (0, "")


def test_costs_of_any_size_are_coloured() -> None:
  costs = np.array([0, 5.9, 1e3, 3e38], np.float32)
  score = score_of(costs)
  page = _coloured(Result("run", 1, 1, [], "-abcd", {"stream": score}))
  shades = re.findall(r"90% (\d+)%\)\">(\w+)", page)
  assert shades == [("100", "a"), ("60", "bcd")]


def test_runs_have_the_shortest_names_that_differ() -> None:
  names = _short_names(["/a/one/run", "/a/two/run", "b"])
  assert names == ["one/run", "two/run", "b"]
  assert _short_names(["/a/run/"]) == ["run"]
  assert _short_names(["run", "run"]) == ["run", "run"]


def test_the_coloured_text_is_the_scored_one(
  page: pathlib.Path, trained_run: pathlib.Path
) -> None:
  last = page.read_text("utf-8").rpartition("<pre>")[2].partition("</pre>")[0]
  text = html.unescape(re.sub(r"<[^>]+>", "", last))
  assert text == (trained_run / "eval.txt").read_text()[1:]


def test_another_corpus_is_refused(
  trained_run: pathlib.Path,
  tmp_path: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
) -> None:
  (tmp_path / "other.txt").write_text("to be or not to be\n" * 99)
  args = ["report.py", f"--run_dir={trained_run}"]
  args += [f"--corpus={tmp_path}/other.txt", f"--output={tmp_path}/page.html"]
  assert report_binary.main(args) == 2
  assert "is not the corpus of" in capsys.readouterr().err
  assert not (tmp_path / "page.html").exists()


def test_a_browser_shows_it(page: pathlib.Path, browser: Browser) -> None:
  tab = browser.new_page(viewport={"width": 1100, "height": 3000})
  errors = []
  tab.on("pageerror", lambda error: errors.append(error))
  tab.goto(page.as_uri())
  assert tab.get_by_role("heading", name="Learning curves").is_visible()
  curves = tab.locator("svg").screenshot()
  # One colour packs to a few kilobytes.
  assert len(curves) > 20_000
  assert tab.locator("table").count() >= 6
  for table in tab.locator("table").all():
    assert table.bounding_box()["width"] < 1100
  assert errors == []
  tab.close()
