"""The loop: interrupted evaluations, rising losses, and what is due when."""

import itertools
import json
import pathlib
import shutil
import signal
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import soak
from helpers import metrics
from soak import numbers

import eval as eval_program
import train as train_program
from charlm.data.text import Text
from charlm.evaluation.evaluator import Evaluator
from charlm.runs.checkpoints import Checkpoints
from charlm.runs.run import open_run
from charlm.runs.trained_model import load_model
from charlm.training import loop as loop_module
from charlm.training.announce import Screen
from charlm.training.loop import ChiefLoop
from charlm.training.trainer import Trainer, TrainMetrics

_FLAGS = ["--eval_every_steps=5", "--eval_lines=100", "--valid_lines=50"]
_VALID_CHUNKS, _EVAL_CHUNKS = 2, 3


class _StopChecks:
  """Counts the checks for a signal to stop, and sends one before a check."""

  def __init__(self, patch: pytest.MonkeyPatch, stop_at: int = 0) -> None:
    self.number = 0
    check = ChiefLoop._check_stop

    def counted(loop: ChiefLoop) -> None:
      self.number += 1
      if self.number == stop_at:
        signal.raise_signal(signal.SIGTERM)
      check(loop)

    patch.setattr(ChiefLoop, "_check_stop", counted)


def _stop(args: list[str], check: int, patch: pytest.MonkeyPatch) -> None:
  with patch.context() as inner:
    _StopChecks(inner, check)
    assert train_program.main(args) == 128 + signal.SIGTERM


def _result(printed: str) -> str:
  """Returns the output at the end of a run, without its folder."""
  return printed.partition("trained to")[2].rpartition("sample.py, ")[0]


def _evaluated(run_dir: pathlib.Path) -> list[int]:
  return [r["step"] for r in numbers(run_dir) if r["split"] == "valid"]


@pytest.fixture(scope="module")
def unbroken(trained: Callable[..., pathlib.Path]) -> pathlib.Path:
  """An uninterrupted run."""
  return trained("unbroken", *_FLAGS)


@pytest.mark.usefixtures("quick_evaluations")
def test_an_interrupted_evaluation_is_repeated_on_resume(
  train_args: list[str],
  unbroken: pathlib.Path,
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture[str],
) -> None:
  run_dir = tmp_path / "stopped"
  stopped = [*train_args, *_FLAGS, f"--run_dir={run_dir}"]
  printed = unbroken.with_name(f"{unbroken.name}.out").read_text()
  expected = _result(printed)
  first, last = _evaluated(unbroken)
  for step, check, evaluated in (
    (first, 2, []),  # in the middle of the valid text
    (first, 1, []),  # interrupted once more
    (last, _VALID_CHUNKS + 2, [first]),
  ):
    _stop(stopped, check, monkeypatch)
    line = f"stopped after step {step}: run the same command to resume"
    assert line in capsys.readouterr().out
    assert _evaluated(run_dir) == evaluated
  checks = _StopChecks(monkeypatch)
  assert train_program.main(stopped) == 0
  assert _result(capsys.readouterr().out) == expected
  # Each text was scored once: the valid text here, the eval text at the end.
  assert checks.number == _VALID_CHUNKS + _EVAL_CHUNKS
  soak.assert_equal_runs(run_dir, unbroken)
  # Another start prints the stored scores, and scores nothing.
  assert train_program.main(stopped) == 0
  assert _result(capsys.readouterr().out) == expected
  assert checks.number == _VALID_CHUNKS + _EVAL_CHUNKS
  soak.assert_equal_runs(run_dir, unbroken)


def test_metrics_evaluations_and_saves_are_done_when_due_and_in_order(
  start: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
  done: list[tuple[str, int]] = []
  for owner, name in (
    (ChiefLoop, "_write_metrics"),
    (ChiefLoop, "_evaluate"),
    (Checkpoints, "save"),
  ):
    action = getattr(owner, name)

    def recorded(
      owner: object,
      step: int,
      name: str = name,
      action: Callable[[Any, int], object] = action,
    ) -> object:
      done.append((name, step))
      return action(owner, step)

    monkeypatch.setattr(owner, name, recorded)
  periods = ("--summary_every_steps=3", "--eval_every_steps=6")
  periods += ("--checkpoint_every_steps=4",)
  assert start(*periods, "--max_steps=13", "--epochs=2") == 0
  write, evaluate, save = "_write_metrics", "_evaluate", "save"
  assert done == [
    (save, 0),
    (write, 3),
    (save, 4),
    (write, 6),
    (evaluate, 6),
    (save, 8),
    (write, 9),
    (write, 12),
    (evaluate, 12),
    (save, 12),
    (write, 13),
    (evaluate, 13),
    (save, 13),
  ]


def test_an_exploding_loss_is_warned_of_once(
  start: Callable[..., int],
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture[str],
) -> None:
  # The rise of a training at a high learning rate.
  losses = itertools.chain([3.0, 1.0, 1.9, 2.1], itertools.repeat(2.2))
  taken = Trainer.take_metrics

  def exploding(trainer: Trainer) -> TrainMetrics:
    return taken(trainer)._replace(loss=next(losses))

  monkeypatch.setattr(Trainer, "take_metrics", exploding)
  assert start("--summary_every_steps=2") == 0
  (line,) = capsys.readouterr().err.splitlines()
  assert "the steps up to 8 is 2.1, but the lowest was 1: " in line
  assert "lower --learning_rate" in line


@pytest.mark.usefixtures("quick_evaluations")
def test_a_rising_valid_loss_is_warned_of_and_the_best_checkpoint_used(
  start: Callable[..., int],
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture[str],
) -> None:
  losses = [3.0, 2.0, 2.1, 2.2, 2.3, 2.4]  # every second step, and at the end
  numbers_of = loop_module._numbers_of

  def numbers(evaluator: Evaluator, text: Text, vocab: list[str]) -> dict:
    record = numbers_of(evaluator, text, vocab)
    return record | {"loss": losses.pop(0)} if losses else record

  monkeypatch.setattr(loop_module, "_numbers_of", numbers)
  run_dir = tmp_path / "run"
  assert start("--valid_lines=30", "--eval_every_steps=2") == 0
  printed = capsys.readouterr()
  assert printed.err == (
    "the valid loss has risen 3 times in a row: it was lowest at step 4 "
    "(Ctrl-C stops; best/ keeps that step)\n"
  )
  assert printed.out.count("best so far") == 2
  assert "best checkpoint: step 4, valid loss 2.0000\n" in printed.out
  # The eval text is scored once, by the model that `auto` selects.
  (scored,) = metrics(run_dir, "eval")
  assert scored["step"] == 4
  args = ["eval.py", f"--run_dir={run_dir}", "--json"]
  assert eval_program.main(args) == 0
  printed = capsys.readouterr()
  assert json.loads(printed.out)["log_perplexity"] == scored["loss"]
  run = open_run(run_dir)
  assert load_model(run, "auto")[1] == 4
  assert load_model(run, "latest")[1] == 11
  # Without best/, eval.py uses the latest one, and says so.
  shutil.rmtree(run_dir / "best")
  assert eval_program.main(["eval.py", f"--run_dir={run_dir}"]) == 0
  assert capsys.readouterr().err == (
    f"{run_dir}: the latest checkpoint, step 11 (--checkpoint=auto; best/ has "
    "none)\n"
  )


def test_the_train_loss_is_the_mean_since_the_last_evaluation(
  start: Callable[..., int],
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  shown = []
  monkeypatch.setattr(
    Screen,
    "show_evaluation",
    lambda screen, step, train_loss, **_: shown.append((step, train_loss)),
  )
  flags = ("--eval_every_steps=5", "--summary_every_steps=1")
  assert start("--valid_lines=30", *flags) == 0
  losses = [record["loss"] for record in metrics(tmp_path / "run", "train")]
  assert shown == [
    (5, pytest.approx(np.mean(losses[:5]))),
    (10, pytest.approx(np.mean(losses[5:10]))),
    (11, pytest.approx(losses[10])),
  ]


def test_the_eval_text_is_scored_only_at_the_end_of_a_run(
  start: Callable[..., int],
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  with monkeypatch.context() as patch:
    patch.setattr(
      Screen, "show_progress", lambda *_: signal.raise_signal(signal.SIGTERM)
    )
    assert start("--valid_lines=30", "--epochs=2") == 143
  assert start("--valid_lines=30", "--epochs=0") == 0
  assert not metrics(tmp_path / "run", "eval")
