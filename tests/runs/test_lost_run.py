"""A trainer whose folder is taken away ends, and writes to no other's."""

import contextlib
import dataclasses
import os
import pathlib
import shutil
import signal
import time
from collections.abc import Iterator

import pytest
import soak
from helpers import (
  EXPERIMENT,
  SPLIT,
  VOCAB,
  NumberedCheckpoints,
  Program,
  build_model,
)

import train as train_program
from charlm.config import Config
from charlm.errors import LostRunError
from charlm.runs.metrics import Metrics
from charlm.runs.run_dir import RunDir

_STEPS_PER_EPOCH = 12


@contextlib.contextmanager
def _paused(args: list[str], run: pathlib.Path) -> Iterator[int]:
  """Trains in another process, paused between two saves.

  Yields the step of the last one. Going on, it must find the run to be lost.
  """
  with Program(*args, f"--run_dir={run}", "--epochs=1000") as process:
    while not (step := _newest(run)):
      assert process.poll() is None
      time.sleep(0.005)
    time.sleep(0.05)  # until the save has ended
    process.send_signal(signal.SIGSTOP)
    try:
      yield step
    finally:
      process.send_signal(signal.SIGCONT)
    _, err = process.communicate()
  assert process.returncode == 4
  assert err.startswith(f"train.py: {run}")
  assert " was moved, removed or replaced" in err
  assert err.count("\n") == 1


def _newest(run: pathlib.Path) -> int:
  paths = (run / "checkpoints").glob("ckpt-*.index")
  return max((int(path.stem.split("-")[1]) for path in paths), default=0)


def _files(folder: pathlib.Path) -> dict[pathlib.Path, int]:
  return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def _train(args: list[str], run: pathlib.Path) -> None:
  assert train_program.main([*args, f"--run_dir={run}"]) == 0


@pytest.fixture(scope="module")
def args(train_args: list[str]) -> list[str]:
  return [*train_args, "--checkpoint_every_steps=60", "--eval_every_steps=60"]


def test_a_new_run_in_the_place_of_a_removed_one_is_left_alone(
  args: list[str],
  train_args: list[str],
  trained_run: pathlib.Path,
  tmp_path: pathlib.Path,
) -> None:
  run = tmp_path / "run"
  with _paused([*args, "--seed=1"], run):
    shutil.rmtree(run)
    _train([*train_args, "--epochs=3"], run)
    files = _files(run)
  assert _files(run) == files
  soak.assert_equal_runs(run, trained_run)


def test_a_second_trainer_past_a_removed_lock_is_left_alone(
  args: list[str], tmp_path: pathlib.Path
) -> None:
  run, unbroken = tmp_path / "run", tmp_path / "unbroken"
  with _paused(args, run) as step:
    (run / "lock").unlink()
    second = [*args, f"--epochs={step // 12 + 6}"]
    _train(second, run)
    files = _files(run)
  assert _files(run) == files
  _train(second, unbroken)
  soak.assert_equal_runs(run, unbroken)


def _checkpoints(run: RunDir) -> NumberedCheckpoints:
  return NumberedCheckpoints(run, 1, model=build_model(len(VOCAB), 4, 6))


_MORE_EPOCHS = dataclasses.replace(
  EXPERIMENT, config=Config(embedding_dim=4, rnn_units=6, epochs=99)
)
# What is opened before the run is lost, and what would be written then.
WRITERS = {
  "create": (None, lambda run, _: run.create(EXPERIMENT, VOCAB, SPLIT)),
  "extend": (None, lambda run, _: run.check_resume(_MORE_EPOCHS, 10)),
  "start": (None, lambda run, _: run.log_start({})),
  "clear": (None, lambda run, _: _checkpoints(run)),
  "save": (_checkpoints, lambda _, checkpoints: checkpoints.save(1)),
  "best": (_checkpoints, lambda _, checkpoints: checkpoints.save_best(1)),
  "cut off": (None, lambda run, _: Metrics(run, 0)),
  "metrics": (
    lambda run: Metrics(run, 0),
    lambda _, metrics: metrics.write(1, "eval", {"loss": 1.0}),
  ),
}


@pytest.mark.parametrize("name", WRITERS)
def test_nothing_is_written_to_a_folder_that_is_not_its_own(
  name: str, run: RunDir
) -> None:
  prepare, write = WRITERS[name]
  with run.locked():
    prepared = prepare(run) if prepare else None
    run.path.rename(run.path.parent / "moved")
    files = _other_run(run.path)
    with pytest.raises(LostRunError, match="run was moved"):
      write(run, prepared)
    # Closing a file may not write what is left to a new one.
    if isinstance(prepared, Metrics):
      prepared.close()
  assert _files(run.path) == files


def _other_run(path: pathlib.Path) -> dict[pathlib.Path, int]:
  """Makes a run with a summary and a left-over; returns its files."""
  other = RunDir(path)
  with other.locked():
    other.create(EXPERIMENT, VOCAB, SPLIT)
    Metrics(other, 0).close()
    (path / "checkpoints").mkdir()
    (path / "checkpoints" / "checkpoint.tmp1").touch()
  return _files(path)


def test_a_folder_that_cannot_be_looked_at_is_not_lost(
  run: RunDir, capsys: pytest.CaptureFixture[str]
) -> None:
  with run.locked():
    checkpoints = _checkpoints(run)
    run.path.parent.chmod(0)
    try:
      os.seteuid(os.getuid() or 65534)  # root may look everywhere
      assert not checkpoints.save(1)
    finally:
      os.seteuid(os.getuid())
      run.path.parent.chmod(0o700)
    assert (
      "step 1 could not be saved (PermissionError)" in capsys.readouterr().err
    )
    assert checkpoints.save(1)


def test_a_lock_is_looked_at_once_it_is_held(
  run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
  def replaced_meanwhile(*args: object) -> None:
    (run.path / "lock").unlink()
    (run.path / "lock").touch()

  monkeypatch.setattr("fcntl.flock", replaced_meanwhile)
  with pytest.raises(LostRunError, match="lock was moved"), run.locked():
    pass
