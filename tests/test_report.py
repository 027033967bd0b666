"""The report as a file, and as a browser shows it."""

import html.parser
import pathlib
import re
import shutil

import pytest
from playwright.sync_api import Browser

import report as report_binary
import train as train_binary
from charlm.reporting.page import _short_names

_VOID = {"meta", "path", "use", "br", "image"}


@pytest.fixture(scope="module")
def page(
  train_args: list[str],
  trained_run: pathlib.Path,
  corpus_path: pathlib.Path,
  tmp_path_factory: pytest.TempPathFactory,
) -> pathlib.Path:
  """A report on two runs."""
  folder = tmp_path_factory.mktemp("report")
  other = folder / "other <run>"
  assert train_binary.main([*train_args, f"--run_dir={other}"]) == 0
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
  for title in ("Learning curves", "Differences", "Yardsticks", "Surprise"):
    assert f"<h2>{title}</h2>" in text
  assert text.count("Kneser-Ney, order") == 8
  # Both runs by three protocols.
  assert len(re.findall(r"<td>(?:stream|lines|windows of 256)</td>", text)) == 6


def test_equal_runs_do_not_differ_and_cut_off_metrics_do_no_harm(
  trained_run: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  for name in ("one", "two"):
    shutil.copytree(trained_run, tmp_path / name)
  with (tmp_path / "one" / "metrics.jsonl").open("a") as file:
    file.write('{"step": 7')
  path = tmp_path / "page.html"
  runs = f"--run_dir={tmp_path}/one,{tmp_path}/two"
  assert report_binary.main(["report.py", runs, f"--output={path}"]) == 0
  row = "<td>+0.0000</td><td>+0.0000 to +0.0000</td><td>no</td>"
  assert row in path.read_text("utf-8")


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
  assert text == (trained_run / "held_out.txt").read_text()[1:]


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
