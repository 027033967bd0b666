"""The report as a file, and as a browser shows it."""

import dataclasses
import hashlib
import html.parser
import json
import math
import pathlib
import re
import shutil

import numpy as np
import pytest
from helpers import Once, run_program
from playwright.sync_api import Browser, Page

import charlm
import eval as eval_program
import report as report_program
from charlm.model.language_model import GRULM
from charlm.reporting import result
from charlm.reporting.figures import color_of, draw_curves
from charlm.reporting.numbers import curves, report_numbers, short_names
from charlm.reporting.page import _coloured
from charlm.runs.records import read_records
from charlm.runs.run_dir import RunDir

_UNIT = {"stream": {"unit": "character"}}
_FIRST = {
  "first": "run",
  "groups": [{"runs": [{"name": "run", "scores": _UNIT}]}],
}
_VOID = {"meta", "path", "use", "br", "image"}


@pytest.fixture(scope="session")
def page(
  trained_run: pathlib.Path,
  short_run: pathlib.Path,
  corpus_path: pathlib.Path,
  once: Once,
) -> pathlib.Path:
  """A report on two runs."""

  def write(path: pathlib.Path) -> None:
    other = path.with_name("other <run>")
    shutil.copytree(short_run, other)
    args = ["report.py", f"--run_dir={trained_run},{other}"]
    args += [f"--corpus={corpus_path}", f"--output={path}"]
    assert report_program.main(args) == 0

  return once("page.html", write)


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
  assert not re.search(r"<(link|img|iframe)|src=|@import|url\(http", text)
  assert "other &lt;run&gt;" in text
  assert re.findall("<h2>(.*?)</h2>", text) == [
    "Ranking",
    "Learning curves",
    "Scores",
    "Baselines",
    "Loss by kind of character, place and context",
    "Samples",
    "Runs",
    "Passages with the highest loss",
    "Loss by character",
  ]
  # Curves of both runs and of each, and the loss by context.
  assert text.count("<svg") == 4
  for unit in ("nats", "bits"):
    assert text.count(f"<!-- {unit} per character -->") == 4
  # A heading among the samples, and one among the entries.
  assert text.count("<h3>trained</h3>") == text.count("<h3>other ") == 2
  assert text.count("<section>") == 2
  assert text.count("of the train text") == 2  # the first run's samples
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
  ("step", "loss"), [(2**63 - 1, 3.4e38), (0, -3.4e38), (1, 1e20)]
)
def test_metrics_of_any_size_are_drawn(
  step: int, loss: float, tmp_path: pathlib.Path
) -> None:
  path = tmp_path / "metrics.jsonl"
  record = {"step": step, "split": "eval", "loss": loss}
  for more in ("", json.dumps(record | {"step": 7, "loss": 2.5})):
    path.write_text(f"{json.dumps(record)}\n{more}")
    records = read_records(path)
    assert len(records) == 1 + bool(more)
    scores = {"stream": {"unit": "character"}}
    run = {"curves": curves(records, 100), "scores": scores}
    assert "<svg" in draw_curves([run], [0])


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
  code = report_program.main(args)
  err = capsys.readouterr().err
  if length < 2:
    assert (code, err.count("\n")) == (2, 1)
    assert "eval.txt has fewer than two characters" in err
  else:
    assert (code, err) == (0, "")


def test_costs_of_any_size_are_coloured() -> None:
  entries = [
    {"character": char, "nats": nats}
    for char, nats in zip("abcd", [0, 5.9, 1e3, 3e38], strict=True)
  ]
  page = _coloured({"characters": entries, **_FIRST})
  shades = re.findall(r'class="l(\d)">(\w)<', page)
  assert shades == [("0", "a"), ("7", "b"), ("7", "c"), ("7", "d")]


def test_control_characters_are_shown() -> None:
  entries = [{"character": char, "nats": 0.0} for char in "\0\r\n\t\x1b<"]
  page = _coloured({"characters": entries, **_FIRST})
  shown = re.findall(r"<i[^>]*>([^<]*)</i>", page)
  assert shown == ["\u2400", "\u240d", "\n", "\t", "\u241b", "&lt;"]


def test_runs_have_the_shortest_names_that_differ() -> None:
  names = short_names(["/a/one/run", "/a/two/run", "b"])
  assert names == ["one/run", "two/run", "b"]
  assert short_names(["/a/run/"]) == ["run"]
  assert short_names(["run", "run"]) == ["run", "run"]


def test_the_coloured_text_is_the_scored_one(
  page: pathlib.Path, trained_run: pathlib.Path
) -> None:
  last = page.read_text("utf-8").rpartition('<pre id="text">')[2]
  last = last.partition("</pre>")[0]
  text = html.unescape(re.sub(r"<[^>]+>", "", last))
  assert text == (trained_run / "eval.txt").read_text()[1:]


@pytest.mark.parametrize(
  ("names", "units"),
  [
    (["trained"], {"character"}),
    (["bytes"], {"byte"}),
    (["trained", "bytes"], {"character or byte", "character", "byte"}),
  ],
)
def test_each_score_names_its_unit(
  names: list[str],
  units: set[str],
  trained_run: pathlib.Path,
  tmp_path: pathlib.Path,
) -> None:
  # The text has one byte a character: a run of bytes can have this model, too.
  shutil.copytree(trained_run, tmp_path / "trained")
  run = shutil.copytree(trained_run, tmp_path / "bytes")
  config = json.loads((run / "config.json").read_text()) | {"unit": "byte"}
  (run / "config.json").write_text(json.dumps(config))
  paths = ",".join(str(tmp_path / name) for name in names)
  output = tmp_path / "page.html"
  args = ["report.py", f"--run_dir={paths}", f"--output={output}"]
  assert report_program.main(args) == 0
  # The table of all runs has bits per byte, whatever the unit.
  text = output.read_text("utf-8").replace("bits per byte", "")
  # In headers, notes, passages and on axes; the table of all runs has a column.
  found = re.findall(r"(?:nats|bits|bits\)) per (\w+(?: or \w+)?)", text)
  assert set(found) == units | {"unit"}
  seen = re.findall(r"(\w+s(?: or \w+s)?) (?:seen, m|before the p)", text)
  assert set(seen) == {re.sub("(character|byte)", r"\1s", x) for x in units}
  cells = re.findall(r"<td>(character|byte)</td>", text)
  assert set(cells) == units - {"character or byte"}


def test_a_run_of_an_earlier_version_has_no_wall_time() -> None:
  records = [{"step": s, "split": "eval", "loss": 2.0} for s in (1, 2)]
  records[1]["seconds"] = 8.5
  points = curves(records, characters_per_step=100)["eval"]
  assert [point["characters"] for point in points] == [100, 200]
  assert [point["seconds"] for point in points] == [None, 8.5]
  run = {"curves": {"train": [], "eval": points}, "scores": _UNIT}
  # A line of two points by characters, and by wall time a single one, which has
  # a marker.
  dated = [{**point, "seconds": 8.0} for point in points]
  both = {"curves": {"train": [], "eval": dated}, "scores": _UNIT}
  mixed, whole = (draw_curves([r], [0]) for r in (run, both))
  assert mixed.count("<use") > whole.count("<use")
  undated = [{**point, "seconds": None} for point in points]
  none = {"curves": {"train": [], "eval": undated}, "scores": _UNIT}
  assert "not recorded" in draw_curves([none], [0])
  assert "not recorded" not in mixed


def test_a_single_point_is_visible() -> None:
  drawn = []
  for steps in ([3], [3, 4]):
    records = [{"step": s, "split": "eval", "loss": 2.0} for s in steps]
    run = {"curves": curves(records, 100), "scores": _UNIT}
    drawn.append(draw_curves([run], [0]).count("<use"))
  # A marker in each panel; the others are the ticks of the axes.
  assert drawn[0] > drawn[1]


def test_many_runs_have_colours_of_their_own() -> None:
  assert len({color_of(index) for index in range(100)}) == 100


def test_runs_are_found_once_each_and_whole(
  trained_run: pathlib.Path,
  tmp_path: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
) -> None:
  shutil.copytree(trained_run, tmp_path / "a,b")
  other = shutil.copytree(trained_run, tmp_path / "other")
  # A training that has just begun.
  begun = shutil.copytree(trained_run, tmp_path / "begun")
  shutil.rmtree(begun / "checkpoints")
  shutil.rmtree(begun / "best")
  # One of a format that is not read any more.
  old = shutil.copytree(trained_run, tmp_path / "old")
  (old / "config.json").write_text('{"format": 1}')
  args = ["report.py", "--format=json"]
  for spec, names in (
    (f"{tmp_path}/a,b", ["a,b"]),
    (f"{other}, {tmp_path}/*", ["a,b", "other"]),
  ):
    assert report_program.main([*args, f"--run_dir={spec}"]) == 0
    out, err = capsys.readouterr()
    (group,) = json.loads(out)["groups"]
    assert sorted(run["name"] for run in group["runs"]) == names
    assert err.count("left out") == 2 * ("*" in spec)
  assert json.loads(out)["first"] == "other"
  assert report_program.main([*args, f"--run_dir={begun}"]) == 2
  assert "has no checkpoint latest" in capsys.readouterr().err


def test_an_error_names_its_run(
  trained_run: pathlib.Path,
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture[str],
) -> None:
  shutil.copytree(trained_run, tmp_path / "bad")
  load = result.load_model

  def load_diverged(run: RunDir, which: str) -> tuple[GRULM, int]:
    model, step = load(run, which)
    if run.path.name == "bad":
      kernel = model.dense.kernel
      kernel.assign(np.full(kernel.shape, 3e38) * np.sign(kernel.numpy()))
    return model, step

  monkeypatch.setattr(result, "load_model", load_diverged)
  runs = f"--run_dir={trained_run},{tmp_path}/bad"
  assert report_program.main(["report.py", runs, "--format=json"]) == 2
  expected = f"report.py: {tmp_path}/bad: the model has diverged"
  assert capsys.readouterr().err.startswith(expected)


def test_only_a_report_is_written_over(
  trained_run: pathlib.Path,
  tmp_path: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
) -> None:
  run = shutil.copytree(trained_run, tmp_path / "run")
  text = (run / "eval.txt").read_bytes()
  args = ["report.py", f"--run_dir={run}"]
  assert report_program.main([*args, f"--output={run}/eval.txt"]) == 2
  assert "eval.txt is no report" in capsys.readouterr().err
  assert (run / "eval.txt").read_bytes() == text
  thesis = tmp_path / "thesis.html"
  thesis.write_text("<!DOCTYPE html>\n<title>My thesis</title>\n" + "x" * 999)
  assert report_program.main([*args, f"--output={thesis}"]) == 2
  assert "thesis.html is no report" in capsys.readouterr().err
  for kind in ("json", "html", "json"):
    more = [f"--format={kind}", f"--output={tmp_path}/report"]
    assert report_program.main([*args, *more]) == 0


def test_another_corpus_is_refused(
  trained_run: pathlib.Path,
  tmp_path: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
) -> None:
  (tmp_path / "other.txt").write_text("to be or not to be\n" * 99)
  args = ["report.py", f"--run_dir={trained_run}"]
  args += [f"--corpus={tmp_path}/other.txt", f"--output={tmp_path}/page.html"]
  assert report_program.main(args) == 2
  assert "is not the corpus of" in capsys.readouterr().err
  assert not (tmp_path / "page.html").exists()


def test_json_has_the_numbers_of_the_page(
  trained_run: pathlib.Path,
  short_run: pathlib.Path,
  valid_run: pathlib.Path,
  corpus_path: pathlib.Path,
  tmp_path: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
) -> None:
  for run in (short_run, trained_run):
    shutil.copytree(run, tmp_path / "runs" / run.name)
  (tmp_path / "runs" / "none").mkdir()
  record = {"step": 1, "split": "eval", "loss": 1.0, "valid_loss": math.inf}
  with (tmp_path / "runs" / "short" / "metrics.jsonl").open("a") as file:
    file.write(json.dumps(record) + "\n")
  # A text of its own, which begins a group of its own.
  other = shutil.copytree(trained_run, tmp_path / "other")
  (other / "eval.txt").write_text("the king of night")
  digest = hashlib.sha256(b"the king of night").hexdigest()
  config = json.loads((other / "config.json").read_text())
  config["eval_sha256"] = digest
  (other / "config.json").write_text(json.dumps(config))
  args = ["report.py", f"--run_dir={tmp_path}/runs/*,{other}"]
  args += [f"--corpus={corpus_path}", "--format=json"]
  assert report_program.main(args) == 0
  out = capsys.readouterr().out
  numbers = json.loads(out, parse_constant=pytest.fail)
  first, second = numbers["groups"]
  assert second["eval_sha256"] == digest
  assert [run["name"] for run in second["runs"]] == ["other"]
  best, worse = first["runs"]
  assert (best["name"], worse["name"]) == ("trained", "short")
  assert best["difference_to_best"] is None
  losses = [run["scores"]["stream"]["log_perplexity"] for run in first["runs"]]
  difference = worse["difference_to_best"]
  assert difference["mean"] == pytest.approx(losses[1] - losses[0], abs=1e-6)
  low, high = difference["interval"]
  assert low < difference["mean"] < high
  assert difference["excludes_0"] == (low > 0)
  for run in first["runs"]:
    args = ["eval.py", f"--run_dir={tmp_path}/runs/{run['name']}", "--json"]
    assert eval_program.main(args) == 0
    score = json.loads(capsys.readouterr().out)
    assert score.items() >= run["scores"]["stream"].items()
    points = [p for p in run["curves"]["eval"] if p["step"] > 1]
    assert points[-1]["loss"] == pytest.approx(score["log_perplexity"])
    assert points[-1]["characters"] == score["step"] * 24 * 20
    assert 0 < points[0]["seconds"] <= points[-1]["seconds"]
  assert set(numbers["memorised"]) == {"eval_text", "samples"}
  assert [b["name"] for b in numbers["baselines"]][-2:] == [
    "xz",
    numbers["first"],
  ]


def test_equal_characters_of_other_bytes_are_another_text(
  trained_run: pathlib.Path,
) -> None:
  one = result.score_run(RunDir(trained_run), "latest")
  # As Latin-1 in a run of bytes beside UTF-8 in a run of characters.
  other = dataclasses.replace(one, name="bytes", eval_sha256="0" * 64)
  numbers = report_numbers([one, other, one], None)
  hashes = [group["eval_sha256"] for group in numbers["groups"]]
  assert hashes == [one.eval_sha256, "0" * 64]
  assert [len(group["runs"]) for group in numbers["groups"]] == [2, 1]


def test_what_was_expected_is_what_the_model_says(
  trained_run: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
  args = ["report.py", f"--run_dir={trained_run}", "--format=json"]
  assert report_program.main(args) == 0
  entries = json.loads(capsys.readouterr().out)["characters"]
  model = charlm.load(trained_run)
  text = (trained_run / "eval.txt").read_text()
  assert "".join(entry["character"] for entry in entries) == text[1:10_001]
  for i in (0, 1, 700, len(entries) - 1):  # in several pieces
    probs = model.next(text[: i + 1])
    best = np.argsort(-probs, kind="stable")[:5]
    assert entries[i]["expected"] == [model.vocabulary[j] for j in best]
    found = entries[i]["probabilities"]
    np.testing.assert_allclose(found, probs[best], atol=1e-4)
    nats = -np.log(probs[model.vocabulary.index(text[i + 1])])
    assert entries[i]["nats"] == pytest.approx(nats, abs=1e-3)


def test_a_glob_without_a_run_is_refused(
  tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
  assert report_program.main(["report.py", f"--run_dir={tmp_path}/*"]) == 2
  assert "matches no folder of a run" in capsys.readouterr().err


def _check_expectations(tab: Page) -> None:
  """What the model expected appears beside a character, and goes again."""
  entries = json.loads(tab.locator("#characters").inner_text())
  box = tab.locator("#box")
  character = tab.locator("#text i").nth(7)
  for show in (character.hover, lambda: character.dispatch_event("click")):
    assert not box.is_visible()
    show()
    first, _, *expected = box.inner_text().splitlines()
    assert first == f"{json.dumps(entries[7]['character'])}  " + (
      f"{entries[7]['nats']:.2f} nats"
    )
    pairs = [line.removesuffix(" %").rpartition("  ") for line in expected]
    names = [json.loads(name) for name, _, _ in pairs]
    assert names == entries[7]["expected"]
    shares = [float(share) / 100 for _, _, share in pairs]
    assert shares == pytest.approx(entries[7]["probabilities"], abs=6e-4)
    tab.locator("h1").hover()
    tab.locator("#text").dispatch_event("pointerleave")
  assert not box.is_visible()


@pytest.mark.parametrize(
  ("scheme", "width"), [("light", 1100), ("dark", 1100), ("light", 360)]
)
def test_a_browser_shows_it(
  scheme: str,
  width: int,
  page: pathlib.Path,
  trained_run: pathlib.Path,
  browser: Browser,
  capsys: pytest.CaptureFixture[str],
) -> None:
  size = {"width": width, "height": 3000}
  tab = browser.new_page(viewport=size, color_scheme=scheme)
  errors = []
  tab.on("pageerror", lambda error: errors.append(error))
  tab.goto(page.as_uri())
  assert tab.get_by_role("heading", name="Learning curves").is_visible()
  # One colour packs to a few kilobytes.
  assert len(tab.locator("svg").first.screenshot()) > 5_000
  # What is too wide scrolls in a box of its own.
  assert tab.evaluate("document.body.scrollWidth") <= width
  boxes = tab.locator("div:has(> table)")
  wide = boxes.evaluate_all(
    "boxes => boxes.filter(box => box.scrollWidth > box.clientWidth).length"
  )
  assert wide == 0 or width < 1000
  ink, paper = (
    tab.evaluate(f"getComputedStyle(document.body).{name}")
    for name in ("color", "backgroundColor")
  )
  darker = [sum(map(int, re.findall(r"\d+", c)[:3])) for c in (ink, paper)]
  assert (darker[0] < darker[1]) == (scheme == "light")
  # The page shows the numbers that the programs print.
  rows = tab.locator("table").first.locator("tr")
  losses = []
  for i, run in enumerate([trained_run, page.with_name("other <run>")], 1):
    assert eval_program.main(["eval.py", f"--run_dir={run}", "--json"]) == 0
    score = json.loads(capsys.readouterr().out)
    losses.append(score["log_perplexity"])
    cells = rows.nth(i).locator("td").all_inner_texts()
    low, high = score["interval"]
    assert cells[:4] == [
      run.name,
      f"{losses[-1]:.4f}",
      f"{low:.4f} to {high:.4f}",
      f"{score['bits_per_character']:.4f}",
    ]
  assert float(cells[4]) == pytest.approx(losses[1] - losses[0], abs=1e-4)
  _check_expectations(tab)
  assert errors == []
  tab.close()


def test_it_fits_on_paper(page: pathlib.Path, browser: Browser) -> None:
  # A4 within the margins of a browser.
  tab = browser.new_page(viewport={"width": 690, "height": 1000})
  tab.emulate_media(media="print")
  tab.goto(page.as_uri())
  edges = tab.evaluate(
    "[...document.querySelectorAll('table, svg, pre')].map("
    "element => element.getBoundingClientRect().right)"
  )
  assert len(edges) > 10
  assert max(edges) <= 690
  tab.close()
