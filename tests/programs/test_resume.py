"""Runs that are stopped, killed, moved or extended."""

import json
import os
import pathlib
import re
import shutil
import signal
import time
from collections.abc import Callable

import pytest
import soak
from helpers import Program, metrics
from soak import numbers

import train as train_program
from charlm.runs import metrics as metrics_module
from charlm.runs.checkpoints import Checkpoints
from charlm.runs.run import Run
from charlm.training.announce import Screen

pytestmark = pytest.mark.usefixtures("quick_evaluations")


def test_an_extended_run_equals_an_uninterrupted_one(
  start: Callable[..., int],
  short_run: pathlib.Path,
  trained_run: pathlib.Path,
  tmp_path: pathlib.Path,
) -> None:
  shutil.copytree(short_run, tmp_path / "run")
  assert start("--epochs=3") == 0
  extended = numbers(tmp_path / "run")
  # The end of the first run, step 12, has a record of its own.
  (between,) = (
    r for r in extended if r["step"] == 12 and r["split"] == "train"
  )
  unbroken = numbers(trained_run)
  assert [r for r in extended if r["step"] not in (12, 20)] == [
    r for r in unbroken if r["step"] not in (12, 20)
  ]
  assert [r for r in extended if r["split"] == "eval"] == [
    r for r in unbroken if r["split"] == "eval"
  ]
  assert between["loss"] > 0


def test_a_finished_run_repeats_its_report_and_names_changed_software(
  start: Callable[..., int],
  trained_run: pathlib.Path,
  tmp_path: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
) -> None:
  moved = shutil.copytree(trained_run, tmp_path / "run")
  starts = moved / "starts.jsonl"
  record = json.loads(starts.read_text())
  assert start("--epochs=3") == 0
  out, err = capsys.readouterr()
  assert "trained to step 36\neval loss " in out
  assert err == ""
  assert numbers(moved) == numbers(trained_run)
  version = record["versions"]["tensorflow"]
  record["versions"]["tensorflow"] = "2.20.0"
  record["intra_op_threads"] = 7
  starts.write_text(json.dumps(record) + "\n")
  assert start("--epochs=3") == 0
  err = capsys.readouterr().err
  assert err.count("\n") == 1
  assert f"tensorflow (2.20.0 before, {version} now)" in err
  assert "intra_op_threads (7 before" in err
  assert "numpy" not in err


def test_a_run_stopped_by_signals_resumes_to_the_same_result(
  train_args: list[str], tmp_path: pathlib.Path
) -> None:
  args = [*train_args, "--checkpoint_every_steps=10000", "--epochs=1000"]
  args += ["--eval_every_steps=100000"]
  stopped = [*args, f"--run_dir={tmp_path}/stopped"]
  step = 0
  for number in (signal.SIGTERM, signal.SIGINT):
    # Counts only steps of training: a start may repeat an evaluation first.
    records = len(metrics(tmp_path / "stopped", "train"))
    with Program(*stopped) as process:
      while len(metrics(tmp_path / "stopped", "train")) == records:
        assert process.poll() is None
        time.sleep(0.02)
      process.send_signal(number)
      out, _ = process.communicate()
    assert process.returncode == 128 + number
    before = step
    (shown,) = re.findall(r"stopped after step ([\d,]+)", out)
    step = int(shown.replace(",", ""))
    assert before < step < 12_000
    assert _newest(tmp_path / "stopped") == step >= 10
  epochs = f"--epochs={step // 12 + 1}"
  assert train_program.main([*stopped, epochs]) == 0
  unbroken = tmp_path / "unbroken"
  assert train_program.main([*args, f"--run_dir={unbroken}", epochs]) == 0
  assert numbers(tmp_path / "stopped") == numbers(unbroken)


def test_a_tilde_stands_for_the_home_directory(
  train_args: list[str],
  corpus_path: pathlib.Path,
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  monkeypatch.setenv("HOME", str(tmp_path))
  monkeypatch.chdir(tmp_path)
  args = [*train_args, "--run_dir=~/run", "--epochs=0"]
  assert train_program.main(args) == 0
  assert {path.name for path in tmp_path.iterdir()} == {"run"}


def _newest(run_dir: pathlib.Path) -> int:
  paths = (run_dir / "checkpoints").glob("ckpt-*.index")
  return max((int(path.stem.split("-")[1]) for path in paths), default=0)


def test_a_short_soak(
  corpus_path: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  flags = [*soak.FLAGS, f"--corpus={corpus_path}", "--epochs=8"]
  flags += ["--eval_lines=50", "--seq_length=20", "--batch_size=24"]
  flags += ["--eval_every_steps=60", "--valid_lines=20", "--num_replicas=1"]
  flags += ["--embedding_dim=8", "--rnn_units=16", "--num_layers=1"]
  # The first checkpoint precedes the first metrics: later kills find it whole.
  flags.append("--checkpoint_every_steps=5")
  kills = soak.soak(
    flags, tmp_path, num_kills=1, seed=1, max_delay=0.5, start=Program
  )
  assert len(kills) == 1


def test_a_run_moved_during_training_stops_and_can_be_resumed(
  train_args: list[str], trained_run: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  args = [*train_args, "--epochs=3"]
  before, after = tmp_path / "before", tmp_path / "after"
  with Program(*args, f"--run_dir={before}") as process:
    while not _newest(before):
      assert process.poll() is None
      time.sleep(0.01)
    before.rename(after)
    _, err = process.communicate()
  assert process.returncode == 4
  assert "before was moved" in err
  assert err.count("\n") == 1
  assert not before.exists()
  assert train_program.main([*args, f"--run_dir={after}"]) == 0
  assert numbers(after) == numbers(trained_run)


def test_a_stop_that_cannot_save_exits_with_4(
  start: Callable[..., int],
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture[str],
) -> None:
  def stop_and_fail(bar: Screen, step: int, *numbers: float) -> None:
    if step > 12:
      os.kill(os.getpid(), signal.SIGTERM)
      monkeypatch.setattr(Checkpoints, "_save", lambda *args: False)

  monkeypatch.setattr(Screen, "show_progress", stop_and_fail)
  assert start("--epochs=3") == 4
  out = capsys.readouterr().out
  assert "stopped after step" in out
  assert "run the same command" not in out
  monkeypatch.undo()
  assert start("--epochs=3") == 0


def test_a_stop_writes_the_metrics_that_a_full_disk_had_no_space_for(
  start: Callable[..., int],
  short_run: pathlib.Path,
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  append, refused = metrics_module.append_lines, []

  def appending(path: pathlib.Path, lines: bytes) -> None:
    if lines and not refused:
      refused.append(lines)
      signal.raise_signal(signal.SIGTERM)  # before the next record
      raise OSError("No space left on device")
    append(path, lines)

  monkeypatch.setattr(metrics_module, "append_lines", appending)
  # The step is saved, so no later start would write its record.
  assert start() == 128 + signal.SIGTERM
  assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == refused[0]
  assert start() == 0
  soak.assert_equal_runs(tmp_path / "run", short_run)


def test_a_start_that_cannot_be_logged_continues(
  start: Callable[..., int],
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture[str],
) -> None:
  def fail(run: Run, record: dict) -> None:
    raise OSError("No space left on device")

  monkeypatch.setattr(Run, "log_start", fail)
  assert start("--epochs=0") == 0
  assert "this start could not be logged (OSError)" in capsys.readouterr().err
