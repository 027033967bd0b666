"""A run that is killed, or meets a full disk, at an evaluation can be resumed.

A run has two evaluations, the second at its end. At each instant of the second
one, its folder is copied, as a kill would leave it. Each copy must resume to
the same result as the undisturbed run.
"""

import pathlib
import shutil
import signal
from collections.abc import Callable

import pytest
import soak
import tensorflow as tf
from helpers import Once, evaluating_quickly

import train as train_program
from charlm.runs import metrics as metrics_module
from charlm.runs.checkpoints import Checkpoints
from charlm.runs.metrics import Metrics
from charlm.training.loop import ChiefLoop
from charlm.training.trainer import Trainer

_END = 11  # the step


@pytest.fixture(scope="module")
def args(train_args: list[str]) -> list[str]:
  return [*train_args, "--eval_every_steps=6", "--valid_lines=20"]


def _train(args: list[str], run_dir: pathlib.Path) -> int:
  return train_program.main([*args, f"--run_dir={run_dir}"])


def _copy_instants(
  args: list[str], run_dir: pathlib.Path, folder: pathlib.Path
) -> None:
  """Trains, and copies the run at each instant of the last evaluation."""
  write, save = Metrics.write, tf.train.Checkpoint.write
  keep_best, saves = Checkpoints.save_if_best, Checkpoints.save

  def copy(instant: str) -> None:
    shutil.copytree(run_dir, folder / instant)

  def writing(metrics: Metrics, step: int, split: str, values: object) -> None:
    last = (step, split) == (_END, "valid")
    if last:
      copy("scored")
    if split == "eval":
      copy("ended")
    write(metrics, step, split, values)
    if last:
      copy("recorded")

  def saving(checkpoint: tf.train.Checkpoint, path: str) -> None:
    save(checkpoint, path)
    if path.endswith(f"best/ckpt-{_END}"):
      copy("saved as the best, beside the one before")

  def keeping(checkpoints: Checkpoints, step: int, losses: dict) -> bool:
    best = keep_best(checkpoints, step, losses)
    if step == _END:
      copy("saved as the best")
    return best

  def saved(checkpoints: Checkpoints, step: int) -> bool:
    done = saves(checkpoints, step)
    if step == _END and (folder / "saved as the best").exists():
      shutil.copytree(run_dir, folder / "saved", dirs_exist_ok=True)
    return done

  with evaluating_quickly() as patch:
    patch.setattr(Metrics, "write", writing)
    patch.setattr(tf.train.Checkpoint, "write", saving)
    patch.setattr(Checkpoints, "save_if_best", keeping)
    patch.setattr(Checkpoints, "save", saved)
    assert _train(args, run_dir) == 0


def _stop_in_the_evaluation(args: list[str], run_dir: pathlib.Path) -> None:
  evaluate = ChiefLoop._evaluate

  def stopped(loop: ChiefLoop, step: int) -> None:
    if step == _END:
      signal.raise_signal(signal.SIGTERM)
    evaluate(loop, step)

  with evaluating_quickly() as patch:
    patch.setattr(ChiefLoop, "_evaluate", stopped)
    assert _train(args, run_dir) == 128 + signal.SIGTERM


@pytest.fixture(scope="module")
def instants(args: list[str], once: Once) -> pathlib.Path:
  """A folder with the undisturbed run, and copies in two subfolders.

  In `reached`, the last step has no checkpoint before its evaluation. In
  `resumed` it has one, because an earlier start was stopped there.
  """

  def make(folder: pathlib.Path) -> None:
    folder.mkdir()
    _copy_instants(args, folder / "undisturbed", folder / "reached")
    _stop_in_the_evaluation(args, folder / "stopped")
    shutil.copytree(folder / "stopped", folder / "run")
    _copy_instants(args, folder / "run", folder / "resumed")

  return once("instants", make)


def _no_damage(run_dir: pathlib.Path) -> None:
  pass


def _cut_off(name: str, num_bytes: int) -> Callable[[pathlib.Path], None]:
  def damage(run_dir: pathlib.Path) -> None:
    data = (run_dir / name).read_bytes()
    (run_dir / name).write_bytes(data[:-num_bytes])

  return damage


def _removed(name: str) -> Callable[[pathlib.Path], None]:
  return lambda run_dir: (run_dir / name).unlink()


_BEST, _LATEST = f"best/ckpt-{_END}", f"checkpoints/ckpt-{_END}"
_BESIDE = "saved as the best, beside the one before"


@pytest.mark.parametrize(
  ("step", "instant", "damage"),
  [
    ("reached", "scored", _no_damage),
    ("reached", "recorded", _no_damage),
    ("reached", _BESIDE, _cut_off(f"{_BEST}.index", 200)),
    ("reached", "saved", _cut_off(f"{_LATEST}.index", 200)),
    ("reached", "ended", _no_damage),
    ("resumed", "recorded", _no_damage),
    ("resumed", "recorded", _cut_off("metrics.jsonl", 20)),
    ("resumed", _BESIDE, _removed(f"{_BEST}.index")),
    ("resumed", "saved as the best", _no_damage),
    ("resumed", "saved", _removed(f"{_LATEST}.index")),
  ],
)
def test_a_killed_run_resumes_to_the_same_result(
  step: str,
  instant: str,
  damage: Callable[[pathlib.Path], None],
  args: list[str],
  instants: pathlib.Path,
  tmp_path: pathlib.Path,
) -> None:
  run_dir = shutil.copytree(instants / step / instant, tmp_path / "run")
  damage(run_dir)
  with evaluating_quickly():
    assert _train(args, run_dir) == 0
  soak.assert_equal_runs(run_dir, instants / "undisturbed")


def test_a_resume_saves_a_step_that_is_recorded_as_the_best(
  args: list[str], instants: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  run_dir = shutil.copytree(instants / "resumed/recorded", tmp_path / "run")

  def stop(trainer: Trainer, at_most: int) -> int:
    signal.raise_signal(signal.SIGTERM)
    return at_most

  with evaluating_quickly() as patch:
    patch.setattr(Trainer, "steps_per_call", stop)
    # In the longer run, no evaluation is due at this step.
    assert _train([*args, "--epochs=2"], run_dir) == 128 + signal.SIGTERM
  undisturbed = soak.fingerprint(instants / "undisturbed" / "best")
  assert soak.fingerprint(run_dir / "best") == undisturbed


@pytest.mark.parametrize(
  ("part", "start"),
  [
    ("metrics", "stopped"),
    ("best", "reached/scored"),
    ("checkpoints", "stopped"),
  ],
)
def test_a_full_disk_ends_with_code_4_and_the_run_can_be_resumed(
  part: str,
  start: str,
  args: list[str],
  instants: pathlib.Path,
  tmp_path: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
) -> None:
  append, save = metrics_module.append_lines, tf.train.Checkpoint.write

  def appending(path: pathlib.Path, lines: bytes) -> None:
    if part == "metrics" and b'"valid"' in lines:
      raise OSError("no space")
    append(path, lines)

  def saving(checkpoint: tf.train.Checkpoint, path: str) -> None:
    if f"/{part}/" in path:
      raise tf.errors.ResourceExhaustedError(None, None, "no space")
    save(checkpoint, path)

  run_dir = shutil.copytree(instants / start, tmp_path / "run")
  with evaluating_quickly() as patch:
    patch.setattr(metrics_module, "append_lines", appending)
    patch.setattr(tf.train.Checkpoint, "write", saving)
    assert _train(args, run_dir) == 4
  lacks = "best/ lacks the step of the lowest loss" in capsys.readouterr().err
  assert lacks == (part == "best")
  with evaluating_quickly():
    assert _train(args, run_dir) == 0
  soak.assert_equal_runs(run_dir, instants / "undisturbed")


def test_the_best_checkpoint_survives_lost_metrics(
  args: list[str],
  instants: pathlib.Path,
  tmp_path: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
) -> None:
  run_dir = shutil.copytree(instants / "stopped", tmp_path / "run")
  (run_dir / "metrics.jsonl").unlink()
  with evaluating_quickly():
    assert _train(args, run_dir) == 0
  assert capsys.readouterr().err.count("\n") == 1
  for name in ("checkpoints", "best"):
    undisturbed = soak.fingerprint(instants / "undisturbed" / name)
    assert soak.fingerprint(run_dir / name) == undisturbed
