"""A trainer whose folder is taken away ends, and writes to no other's."""

import contextlib
import pathlib
import shutil
import signal
import time
from collections.abc import Iterator

import pytest
from helpers import Program

import train as train_program


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


@pytest.mark.usefixtures("quick_evaluations")
def test_a_run_that_another_trainer_has_taken_over_is_left_alone(
  train_args: list[str],
  tmp_path: pathlib.Path,
) -> None:
  run = tmp_path / "run"
  every = ["--checkpoint_every_steps=60", "--eval_every_steps=60"]
  with _paused([*train_args, *every], run) as step:
    shutil.rmtree(run)
    second = [*train_args, f"--run_dir={run}", f"--epochs={step // 12 + 6}"]
    assert train_program.main(second) == 0
    files = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
  assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == files
