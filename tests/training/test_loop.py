"""Evaluations that are given up, and losses too large to draw."""

import dataclasses
import itertools
import pathlib
import random
import signal
import time
from collections.abc import Callable

import numpy as np
import pytest
import soak
import tensorflow as tf
from helpers import WORDS, Program, score_of
from soak import numbers

import train as train_program
from charlm.evaluation.evaluator import Evaluator
from charlm.training.loop import TrainingLoop, _describe_scores
from charlm.training.trainer import Trainer, TrainMetrics

_FLAGS = ["--eval_every_steps=5", "--epochs=2", "--eval_lines=100"]
_PIECES = 3  # of the eval text; the valid one has two


class _Looks:
  """Counts the looks for a stop request; makes one at a given look."""

  def __init__(self, patch: pytest.MonkeyPatch, stop_at: int = 0) -> None:
    self.number = 0
    look = TrainingLoop._give_up_if_asked

    def counted(loop: TrainingLoop) -> None:
      self.number += 1
      if self.number == stop_at:
        signal.raise_signal(signal.SIGTERM)
      look(loop)

    patch.setattr(TrainingLoop, "_give_up_if_asked", counted)


def _stop(args: list[str], look: int, patch: pytest.MonkeyPatch) -> None:
  with patch.context() as inner:
    _Looks(inner, look)
    assert train_program.main(args) == 128 + signal.SIGTERM


def _evaluated(run_dir: pathlib.Path) -> list[int]:
  return [r["step"] for r in numbers(run_dir) if r["split"] == "eval"]


@pytest.fixture(scope="module")
def unbroken(trained: Callable[..., pathlib.Path]) -> pathlib.Path:
  """An uninterrupted run."""
  return trained("unbroken", *_FLAGS)


@pytest.mark.parametrize(
  ("which", "valid"), [(1, False), (-1, True)], ids=["periodic", "end, valid"]
)
def test_an_evaluation_that_is_given_up_is_made_up(
  which: int,
  valid: bool,
  train_args: list[str],
  trained: Callable[..., pathlib.Path],
  unbroken: pathlib.Path,
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture[str],
) -> None:
  run_dir, flags = tmp_path / "stopped", _FLAGS
  if valid:
    flags = [*_FLAGS, "--valid_lines=50"]
    unbroken = trained("unbroken_valid", *flags)
  stopped = [*train_args, *flags, f"--run_dir={run_dir}"]
  printed = unbroken.with_name(f"{unbroken.name}.out").read_text()
  expected = printed.partition("trained to")[2]
  steps = _evaluated(unbroken)
  step = steps[which]
  done, left = steps[: steps.index(step)], steps[steps.index(step) :]
  # In the middle of the first text, or of the second.
  pieces, look = (_PIECES + 2, _PIECES + 2) if valid else (_PIECES, 2)
  _stop(stopped, len(done) * pieces + look, monkeypatch)
  said = f"stopped after step {step}: run the same command to resume"
  assert said in capsys.readouterr().out
  assert _evaluated(run_dir) == done
  # Given up once more.
  _stop(stopped, 1, monkeypatch)
  assert said in capsys.readouterr().out
  assert _evaluated(run_dir) == done
  looks = _Looks(monkeypatch)
  assert train_program.main(stopped) == 0
  assert capsys.readouterr().out.partition("trained to")[2] == expected
  # Each text was scored once an evaluation, and not again at the end.
  assert looks.number == pieces * len(left)
  soak.assert_equal_runs(run_dir, unbroken)
  # What is there is not evaluated again, but told: of both texts.
  assert train_program.main(stopped) == 0
  last = f"step {steps[-1]}:"
  (told,) = (x for x in printed.splitlines() if x.startswith(last))
  assert told in capsys.readouterr().out.splitlines()
  assert ("valid log perplexity" in told) == valid
  soak.assert_equal_runs(run_dir, unbroken)


def test_a_loss_that_is_not_finite_is_told_when_it_is_made_up(
  train_args: list[str],
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture[str],
) -> None:
  args = [*train_args, *_FLAGS, f"--run_dir={tmp_path}/run"]
  _stop(args, 2, monkeypatch)
  score = score_of(np.full(2, np.nan))
  monkeypatch.setattr(Evaluator, "stream", lambda self, ids: score)
  assert train_program.main(args) == 3
  assert "loss after step 5 is not finite" in capsys.readouterr().err


def test_a_long_evaluation_ends_at_a_signal(
  train_args: list[str], tmp_path: pathlib.Path
) -> None:
  rng = random.Random(1)
  lines = [" ".join(rng.choices(WORDS, k=8)) for _ in range(40_000)]
  (tmp_path / "long.txt").write_text("\n".join(lines))
  args = [*train_args, "--eval_every_steps=10", f"--run_dir={tmp_path}/run"]
  args += [f"--corpus={tmp_path}/long.txt", "--eval_lines=39750"]
  with Program(*args) as process:
    metrics = tmp_path / "run" / "metrics.jsonl"
    # The training's numbers of a step come before its evaluation.
    while not metrics.exists() or b'"step": 10,' not in metrics.read_bytes():
      assert process.poll() is None
      time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate()
  assert process.returncode == 128 + signal.SIGTERM
  assert "stopped after step 10: run the same command to resume" in out
  assert _evaluated(tmp_path / "run") == []


def _drawn(run_dir: pathlib.Path) -> set[str]:
  """Returns the tags of the event files."""
  files = sorted((run_dir / "summaries" / "eval").glob("events.*"))
  events = itertools.chain.from_iterable(
    map(tf.compat.v1.train.summary_iterator, map(str, files))
  )
  return {value.tag for event in events for value in event.summary.value}


def test_a_perplexity_beyond_float32_is_no_reason_to_stop(
  train_args: list[str],
  tmp_path: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
) -> None:
  run_dir = tmp_path / "run"
  args = [*train_args, f"--run_dir={run_dir}", "--learning_rate=100"]
  for epochs in (1, 2):
    assert train_program.main([*args, f"--epochs={epochs}"]) == 0
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith("the mean loss of the steps up to 12 is ")
  records = [r for r in numbers(run_dir) if r["split"] == "eval"]
  assert [record["step"] for record in records] == [12, 24]
  for record in records:
    assert record["loss"] > 88.8
    assert record["perplexity"] > 3.5e38
  tags = {tag.rpartition("/")[2] for tag in _drawn(run_dir)}
  assert "loss" in tags


@pytest.mark.parametrize(
  ("flags", "code"),
  [
    (["--learning_rate=1e15"], 0),
    (["--learning_rate=1e38"], 3),
    (["--learning_rate=1e300", "--schedule=cosine", "--warmup_steps=2"], 3),
    (["--weight_decay=1e300"], 3),
    (["--clip_norm=1e-300"], 0),
    (["--clip_norm=1e300"], 0),
  ],
)
def test_numbers_beyond_float32_are_no_traceback(
  flags: list[str],
  code: int,
  train_args: list[str],
  short_run: pathlib.Path,
  tmp_path: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
) -> None:
  args = [*train_args, *flags, f"--run_dir={tmp_path}/run"]
  for _ in range(1 if code == 0 else 2):  # at every start again
    assert train_program.main(args) == code
    lines = capsys.readouterr().err.splitlines()
    # A loss that rises without end is warned of before it is not finite.
    lines = [x for x in lines if not x.startswith("the mean loss")]
    assert len(lines) == (code == 3)
    assert all("is not finite" in line for line in lines)
  if flags == ["--clip_norm=1e300"]:  # clips nothing
    assert numbers(tmp_path / "run") == numbers(short_run)


def test_what_is_due_happens_at_its_steps_in_order(
  train_args: list[str],
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  done: list[tuple[str, int]] = []
  for name in ("_write_metrics", "_evaluate", "_save"):
    action = getattr(TrainingLoop, name)

    def noted(
      loop: TrainingLoop,
      step: int,
      name: str = name,
      action: Callable[[TrainingLoop, int], object] = action,
    ) -> object:
      done.append((name, step))
      return action(loop, step)

    monkeypatch.setattr(TrainingLoop, name, noted)
  args = [*train_args, f"--run_dir={tmp_path}/run", "--max_steps=13"]
  periods = ("summary_every_steps=3", "eval_every_steps=6")
  args += [f"--{each}" for each in (*periods, "checkpoint_every_steps=4")]
  assert train_program.main([*args, "--epochs=2"]) == 0
  write, evaluate, save = "_write_metrics", "_evaluate", "_save"
  assert done == [
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


def test_a_loss_that_explodes_is_told_once(
  train_args: list[str],
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture[str],
) -> None:
  # Far from a uniform guess, as a training at a high rate once was.
  losses = itertools.chain([3.0, 1.0, 1.9, 2.1], itertools.repeat(2.2))
  taken = Trainer.take_metrics

  def exploding(trainer: Trainer) -> TrainMetrics:
    return taken(trainer)._replace(loss=next(losses))

  monkeypatch.setattr(Trainer, "take_metrics", exploding)
  args = [*train_args, f"--run_dir={tmp_path}/run", "--summary_every_steps=2"]
  assert train_program.main(args) == 0
  (line,) = capsys.readouterr().err.splitlines()
  assert "the steps up to 8 is 2.1, but the lowest was 1: " in line
  assert "lower --learning_rate" in line


def test_a_score_is_told_in_nats_and_bits() -> None:
  nats = np.log(np.array([2, 4, 8, 4]))
  score = dataclasses.replace(score_of(nats), num_bytes=16)
  words = (
    "step 5: eval log perplexity 1.3863 (2.0000 bits per character, 0.5000"
  )
  words += " bits per byte), perplexity 4.000"
  assert _describe_scores(5, score, None) == words
  score = dataclasses.replace(score_of(nats), unit="byte")
  words = (
    "step 5: eval log perplexity 1.3863 (2.0000 bits per byte), perplexity"
  )
  assert _describe_scores(5, score, None) == f"{words} 4.000"
