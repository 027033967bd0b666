"""Runs in folders, finished or not, as the report finds and reads them."""

import json
import pathlib
import shutil
import time

import pytest
from helpers import ROOT

import report as report_program
import train as train_program
from charlm.errors import DivergedError
from charlm.reporting.runs import find_runs, read_run, short_names
from charlm.reporting.types import Run as ReadRun
from charlm.runs import run as run_module
from charlm.runs.run import open_run


@pytest.fixture
def folder(run: run_module.Run, tmp_path: pathlib.Path) -> pathlib.Path:
  """A folder with runs at several depths, a broken one, and other folders."""
  runs = tmp_path / "sweep"
  for name in ("a,b", 'deep/er/"it\'s" <b>', "deep/[c]"):
    shutil.copytree(run.path, runs / name)
  (runs / "texts" / "old").mkdir(parents=True)
  broken = shutil.copytree(run.path, runs / "cut")
  (broken / "config.json").write_text('{"format": 6, "corp')
  return runs


def _names(spec: object) -> list[str]:
  return [run.path.name for run in find_runs(str(spec))[0]]


def test_runs_are_found_at_any_depth(folder: pathlib.Path) -> None:
  runs, left_out = find_runs(str(folder))
  assert [run.path.name for run in runs] == ["a,b", '"it\'s" <b>']
  # One line each for what is broken, and one for all that is no run.
  pattern, cut, empty = sorted(left_out, key=lambda line: line[0] == "n")
  assert empty == f"no run in {folder}/texts"
  assert "cut/config.json: " in pattern + cut
  assert "[c]: TensorFlow reads" in pattern + cut


def test_folders_and_globs_are_named_together(folder: pathlib.Path) -> None:
  one, other = folder / "a,b", '"it\'s" <b>'
  assert _names(one) == ["a,b"]
  assert _names(f"{one}\n{folder}/deep") == ["a,b", other]
  assert _names(f"{folder}/d*,{folder}/deep/er") == [other]
  assert _names("english") == ["english"]


@pytest.mark.parametrize(
  ("args", "message"),
  [
    (["empty"], "there is no run in empty: train one"),
    (["no*"], "no* matches no folder: give another"),
    (["cut"], "cut/config.json"),
    (["a,b", "--run_dir=deep"], "unexpected argument a,b"),
    (["a,b", "--baseline=none"], "such as --baseline="),
  ],
)
def test_a_report_without_a_run_is_refused_in_one_line(
  folder: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture[str],
  args: list[str],
  message: str,
) -> None:
  monkeypatch.chdir(folder)
  (folder / "empty").mkdir()
  assert report_program.main(["report.py", *args]) == 2
  err = capsys.readouterr().err
  assert message in err
  assert err.count("\n") == 1
  assert not (folder / "report.html").exists()


def _read(run: run_module.Run, *records: dict, **start: int) -> ReadRun:
  """Writes metrics of a run, and returns what the report reads."""
  usual = {"split": "eval", "loss": 2.0, "seconds": 60.0}
  lines = [json.dumps(usual | record) + "\n" for record in records]
  run.metrics_path.write_text("".join(lines))
  if start:
    (run.path / "starts.jsonl").write_text(json.dumps(start) + "\n")
  return read_run(run, "a")


def test_the_state_of_a_run_is_read_off_its_metrics(
  run: run_module.Run,
) -> None:
  now, end = time.time(), {"last_step": 9, "num_weights": 5}
  assert _read(run)["state"] == "running"  # has just begun
  late = {"step": 5, "time": now}
  assert _read(run, late)["state"] == "finished"  # of an older commit
  read = _read(run, late, **end)
  assert (read["state"], read["step"], read["last_step"]) == ("running", 5, 9)
  assert (read["num_weights"], read["minutes"]) == (5, 1)
  assert _read(run, late | {"time": now - 3600}, **end)["state"] == "stopped"
  done = _read(run, {"step": 5, "loss": 1.5}, {"step": 9, "loss": 1.75}, **end)
  assert done["state"] == "finished"
  # Without a valid text, the losses are of the last step, as eval.py's.
  assert (done["valid_loss"], done["eval_loss"]) == (None, 1.75)
  bad = {"step": 9, "split": "train", "loss": float("nan")}
  assert _read(run, late, bad, **end)["state"] == "diverged"
  curve = [{"step": i, "loss": 1 / i} for i in range(1, 1001)]
  thin = _read(run, *curve)["curves"]["eval"]
  assert len(thin["steps"]) == 100
  assert thin["steps"][-1] == 1000


@pytest.mark.usefixtures("quick_evaluations")
def test_a_training_that_diverges_is_shown_until_it_is_resumed(
  train_args: list[str], tmp_path: pathlib.Path
) -> None:
  flags = ["--run_dir=" + str(tmp_path / "run"), "--learning_rate=1e38"]
  code = train_program.main([*train_args, *flags])
  assert code == DivergedError.exit_code
  run = open_run(tmp_path / "run")
  assert read_run(run, "a")["state"] == "diverged"


@pytest.mark.parametrize("name", ["adam", "byte", "288d677/lstm"])
def test_runs_of_older_commits_are_read(name: str) -> None:
  run = read_run(open_run(ROOT / "tests" / "old_runs" / name), name)
  assert run["state"] == "finished"
  assert run["num_weights"] is None
  assert run["eval_loss"] > 1
  assert (run["valid_loss"] is None) == (name == "byte")


def test_runs_have_the_shortest_names_that_differ() -> None:
  names = short_names(["/a/one/run", "/a/two/run", "b"])
  assert names == ["one/run", "two/run", "b"]
  assert short_names(["/a/run/"]) == ["run"]
  assert short_names(["run", "run"]) == ["run", "run"]
