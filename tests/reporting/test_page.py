"""The report as a page, as JSON, and in a browser."""

import json
import pathlib
import re
import shutil

import numpy as np
import pytest
from helpers import Once, evaluating_quickly, result_of
from playwright.sync_api import Browser

import charlm
import eval as eval_program
import report as report_program
from charlm.reporting import result
from charlm.reporting.numbers import short_names
from charlm.reporting.page import color_of, draw_curves, page
from charlm.reporting.result import Result
from charlm.reporting.types import Expectations, Numbers
from charlm.runs.checkpoints import find_checkpoint
from charlm.runs.run import Run


def _report(*args: str) -> int:
  return report_program.main(["report.py", *args])


@pytest.fixture(scope="session")
def numbers(
  trained_run: pathlib.Path,
  short_run: pathlib.Path,
  corpus_path: pathlib.Path,
  once: Once,
) -> Numbers:
  """A report's numbers for two runs."""

  def write(path: pathlib.Path) -> None:
    other = path.with_name("other <run>")
    shutil.copytree(short_run, other)
    runs, corpus = f"--run_dir={trained_run},{other}", f"--corpus={corpus_path}"
    with evaluating_quickly():
      assert _report(runs, corpus, "--format=json", f"--output={path}") == 0

  text = once("report.json", write).read_text()
  return json.loads(text, parse_constant=pytest.fail)


def test_the_page_is_self_contained_and_shows_the_numbers(
  numbers: Numbers,
) -> None:
  text = page(numbers)
  assert not re.search(r"<(link|img|iframe)|src=|@import|url\(http", text)
  assert "other &lt;run&gt;" in text
  assert "Kneser-Ney, order 8" in text
  assert "<svg" in text
  score = numbers["groups"][0]["runs"][0]["eval_score"]
  assert f"<td>{score['log_perplexity']:.4f}</td>" in text


@pytest.mark.usefixtures("quick_evaluations")
def test_the_report_agrees_with_the_other_programs(
  numbers: Numbers,
  trained_run: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
) -> None:
  (group,) = numbers["groups"]
  names = [run["name"] for run in group["runs"]]
  assert names == ["trained", "other <run>"]
  for run in group["runs"]:
    points = run["curves"]["eval"]
    loss = run["eval_score"]["log_perplexity"]
    assert points[-1]["loss"] == pytest.approx(loss)
    assert points[-1]["characters"] == run["step"] * 24 * 20
    assert 0 < points[0]["seconds"] <= points[-1]["seconds"]
  args = ["eval.py", f"--run_dir={trained_run}", "--json"]
  assert eval_program.main(args) == 0
  score = json.loads(capsys.readouterr().out)
  assert score.items() >= group["runs"][0]["eval_score"].items()
  assert 0 <= numbers["memorised"] <= 1
  assert numbers["first"] == "trained"
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


def test_runs_have_the_shortest_names_that_differ() -> None:
  names = short_names(["/a/one/run", "/a/two/run", "b"])
  assert names == ["one/run", "two/run", "b"]
  assert short_names(["/a/run/"]) == ["run"]
  assert short_names(["run", "run"]) == ["run", "run"]


@pytest.mark.parametrize(("number", "markers"), [(1, 1), (2, 0)])
def test_a_single_point_is_visible(number: int, markers: int) -> None:
  points = [
    {"step": i, "characters": i, "seconds": i, "loss": 2.0}
    for i in range(number)
  ]
  curves = {"train": [], "valid": [], "eval": points}
  svg = draw_curves([[{"curves": curves}]], "character")
  # A line through two points needs no marker.
  assert len(re.findall(f"<use [^>]*{color_of(0)}", svg)) == markers


@pytest.fixture
def unscored(monkeypatch: pytest.MonkeyPatch) -> None:
  """Reports on runs with a checkpoint without loading their models."""

  def score(run: Run, name: str, checkpoint: str, **_: object) -> Result:
    find_checkpoint(run, checkpoint)
    run.eval_text()
    return result_of(name, [1, 3])

  monkeypatch.setattr(result, "score_run", score)


@pytest.mark.usefixtures("unscored")
def test_complete_runs_are_found_once_each(
  trained_run: pathlib.Path,
  tmp_path: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
) -> None:
  shutil.copytree(trained_run, tmp_path / "a,b")
  other = shutil.copytree(trained_run, tmp_path / "other")
  # A training that has just started.
  begun = shutil.copytree(trained_run, tmp_path / "begun")
  shutil.rmtree(begun / "checkpoints")
  shutil.rmtree(begun / "best")
  (tmp_path / "no run").mkdir()
  cut_off = shutil.copytree(trained_run, tmp_path / "cut off")
  (cut_off / "eval.txt").write_text("the ki")
  assert _report("--format=json", f"--run_dir={other}, {tmp_path}/*") == 0
  out, err = capsys.readouterr()
  (group,) = json.loads(out)["groups"]
  assert sorted(run["name"] for run in group["runs"]) == ["a,b", "other"]
  assert err.count("left out") == 2
  assert json.loads(out)["first"] == "other"
  for bad, words in (
    (begun, "has no checkpoint latest"),
    (f"{tmp_path}/no*", "matches no folder of a run"),
  ):
    assert _report("--format=json", f"--run_dir={bad}") == 2
    assert words in capsys.readouterr().err


@pytest.mark.release
def test_a_browser_shows_the_expected_characters(
  numbers: Numbers, tmp_path: pathlib.Path, browser: Browser
) -> None:
  (tmp_path / "page.html").write_text(page(numbers), "utf-8")
  tab = browser.new_page()
  errors = []
  tab.on("pageerror", lambda error: errors.append(error))
  tab.goto((tmp_path / "page.html").as_uri())
  for name in ("Settings", "Loss by character"):
    assert tab.get_by_role("heading", name=name).is_visible()
  # A blank chart would compress to a few kilobytes.
  assert len(tab.locator("svg").screenshot()) > 5_000
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
  assert errors == []
  tab.close()


@pytest.mark.usefixtures("unscored")
def test_only_a_report_is_overwritten(
  trained_run: pathlib.Path,
  tmp_path: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
) -> None:
  thesis = tmp_path / "thesis.html"
  thesis.write_text("<!DOCTYPE html>\n<title>My thesis</title>\n" + "x" * 999)
  run = f"--run_dir={trained_run}"
  assert _report(run, f"--output={thesis}") == 2
  assert "thesis.html is not a report" in capsys.readouterr().err
  for kind in ("json", "html", "json"):
    output = f"--output={tmp_path}/report"
    assert _report(run, f"--format={kind}", output) == 0
