"""`eval.py --follow` scores each checkpoint during and after a training."""

import json
import pathlib
import shutil
import types
from collections.abc import Callable

import pytest
import tensorflow as tf

import eval as eval_program
from charlm.errors import InputError
from charlm.runs.run import Run, open_run
from charlm.runs.trained_model import follow_checkpoints
from charlm.system import process

pytestmark = pytest.mark.usefixtures("quick_evaluations")


def _curve(folder: pathlib.Path) -> dict[int, float]:
  """Reads the losses of event files."""
  losses = {}
  for file in folder.glob("events.out.*"):
    for event in tf.compat.v1.train.summary_iterator(str(file)):
      for value in event.summary.value:
        if value.tag == "loss":
          losses[event.step] = float(tf.make_ndarray(value.tensor))
  return losses


def test_following_scores_each_checkpoint_as_a_separate_call_does(
  trained_run: pathlib.Path,
  tmp_path: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
) -> None:
  run = shutil.copytree(trained_run, tmp_path / "run")
  before = {path for path in run.rglob("*") if path.is_file()}
  (tmp_path / "text").write_text("the king of night")
  args = ["eval.py", f"--run_dir={run}", f"--text={tmp_path}/text", "--json"]
  follow = ["--follow", "--name=other", "--idle_timeout=0"]
  assert eval_program.main([*args, *follow]) == 0
  captured = capsys.readouterr()
  assert captured.err.count("\n") == 1  # says why it ended
  objects = [json.loads(line) for line in captured.out.splitlines()]
  scores = {score["step"]: score["log_perplexity"] for score in objects}
  assert list(scores) == sorted(open_run(run).checkpoint_steps())
  assert eval_program.main([*args, f"--checkpoint={objects[1]['step']}"]) == 0
  assert json.loads(capsys.readouterr().out) == objects[1]
  assert _curve(run / "summaries" / "other") == pytest.approx(scores)
  (new,) = {path for path in run.rglob("*") if path.is_file()} - before
  assert new.parent == run / "summaries" / "other"


@pytest.fixture
def run(trained_run: pathlib.Path, tmp_path: pathlib.Path) -> Run:
  """A copy of a finished run."""
  return open_run(shutil.copytree(trained_run, tmp_path / "run"))


def _move_checkpoint(step: int, source: pathlib.Path, to: pathlib.Path) -> None:
  to.mkdir(exist_ok=True)
  for path in source.glob(f"ckpt-{step}.*"):
    path.rename(to / path.name)


def test_new_checkpoints_and_metrics_reset_the_idle_timeout(
  run: Run, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  seconds = 0
  last = max(run.checkpoint_steps())
  events: dict[int, Callable[[], object]] = {
    8: lambda: run.metrics_path.write_text(
      run.metrics_path.read_text() + "{}\n"
    ),
    17: lambda: _move_checkpoint(last, tmp_path / "later", run.latest),
  }
  shutil.rmtree(run.best)
  _move_checkpoint(last, run.latest, tmp_path / "later")

  def sleep(duration: float) -> None:
    nonlocal seconds
    seconds += bool(duration)
    events.pop(seconds, lambda: None)()

  clock = types.SimpleNamespace(sleep=sleep, monotonic=lambda: seconds)
  monkeypatch.setattr(process, "time", clock)
  found = [
    step for _, step in follow_checkpoints(open_run(run.path), idle_timeout=10)
  ]
  assert found[-1] == last
  assert found == sorted(run.checkpoint_steps())
  assert seconds == 27


def test_a_removed_checkpoint_is_skipped_and_a_damaged_one_refused(
  run: Run,
) -> None:
  steps = sorted(run.checkpoint_steps())
  models = follow_checkpoints(open_run(run.path), idle_timeout=0)
  assert next(models)[1] == steps[0]
  for folder in (run.latest, run.best):
    for path in folder.glob(f"ckpt-{steps[1]}.*"):
      path.unlink()
    for path in folder.glob(f"ckpt-{steps[2]}.data-*"):
      path.write_bytes(path.read_bytes()[:-9])
  with pytest.raises(InputError, match=f"ckpt-{steps[2]} is damaged"):
    next(models)
