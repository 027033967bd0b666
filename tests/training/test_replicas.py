"""Replicas with different weights are detected before a save."""

import pathlib
import signal
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from helpers import metrics

from charlm.config import Config
from charlm.data.batches import Batches
from charlm.errors import LostRunError
from charlm.runs.run import checkpoint_steps, open_run
from charlm.runs.trained_model import load_model
from charlm.training import replicas as replicas_module
from charlm.training.replicas import Replicas
from charlm.training.trainer import Trainer, build_trainer
from charlm.training.workers import Cluster


def _trainer() -> tuple[Trainer, tf.distribute.Strategy]:
  strategy = tf.distribute.MirroredStrategy(
    ["CPU:0", "CPU:1"], tf.distribute.ReductionToOneDevice()
  )
  config = Config(seq_length=5, batch_size=4, embedding_dim=3, rnn_units=4)
  batches = Batches(np.arange(200) % 7 + 2, 5, 4)
  return build_trainer(config, 9, batches, strategy), strategy


# The lowest bit, and the sign bit, in which 0.0 and -0.0 differ.
@pytest.mark.parametrize(
  ("of", "bits"), [("model", 1), ("optimizer", -(2**31))]
)
def test_a_single_differing_bit_is_detected(of: str, bits: int) -> None:
  trainer, strategy = _trainer()
  replicas = Replicas(Cluster(strategy), trainer)
  replicas.check_weights()
  _flip(getattr(trainer, of), bits)
  with pytest.raises(LostRunError, match="replicas differ after step 0"):
    replicas.check_weights()


@pytest.mark.parametrize(
  ("index", "same_as_chief", "num_different"),
  [(0, True, 1), (1, False, 1), (1, True, 0)],
)
def test_all_workers_end_if_one_has_other_weights(
  index: int,
  same_as_chief: bool,
  num_different: int,
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  trainer, strategy = _trainer()
  cluster = Cluster(strategy, ["a:1", "b:1"], index)
  replicas = Replicas(cluster, trainer)
  (own, _) = strategy.experimental_local_results(replicas._compiled())
  monkeypatch.setattr(
    cluster, "broadcast", lambda _: (int(own) + (not same_as_chief)) % 2**64
  )
  reported = []

  def add(numbers: Sequence[int]) -> list[int]:
    reported.append(list(numbers))
    return [num_different]

  monkeypatch.setattr(cluster, "sum", add)
  if num_different:
    with pytest.raises(LostRunError, match="NCCL_P2P_DISABLE=1"):
      replicas.check_weights()
  else:
    replicas.check_weights()
  assert reported[0] == [not same_as_chief]
  assert len(reported) == 1 + num_different  # the others have the sum, too


def test_every_bit_changes_the_checksum() -> None:
  rng = np.random.default_rng(0)
  for dtype, of_bits in (
    (tf.float32, np.uint32),
    (tf.bfloat16, np.uint16),
    (tf.int64, np.uint64),
    (tf.uint8, np.uint8),
  ):
    width = np.iinfo(of_bits).bits
    bits = rng.integers(0, 2**width, [3, 5], of_bits)

    def checksum(bits: np.ndarray, dtype: tf.DType = dtype) -> int:
      numbers = tf.bitcast(tf.constant(bits), dtype)
      return int(replicas_module._checksum(numbers, seed=1))

    sums = {checksum(bits), checksum(np.roll(bits, 1)), checksum(bits[::-1])}
    for bit in range(width):
      changed = bits.copy()
      changed[bit % 3, bit % 5] ^= of_bits(1 << bit)
      sums.add(checksum(changed))
    assert len(sums) == 3 + width


def _flip(of: Any, bits: int = 1) -> None:
  """Flips bits of the last number of a model or optimizer, on CPU:1."""
  variable = of.variables[-1].value.values[1]
  numbers = variable.numpy()
  numbers.view(np.int32).ravel()[-1] ^= bits
  variable.assign(numbers)


@pytest.mark.parametrize("stopped", [False, True])
def test_replicas_that_differ_are_not_saved_and_the_run_resumes(
  stopped: bool,
  start: Callable[..., int],
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture[str],
) -> None:
  run_steps = Trainer._run_steps

  def drift(self: Trainer, first: int, end: int) -> float:
    loss = run_steps(self, first, end)
    if first >= 4:
      _flip(self.optimizer)
      if stopped:  # before the next checkpoint is due
        signal.raise_signal(signal.SIGTERM)
    return loss

  run_dir, flags = tmp_path / "run", ["--num_replicas=2"]
  flags += ["--summary_every_steps=3"] if stopped else []
  flags.append(f"--checkpoint_every_steps={100 if stopped else 2}")
  with monkeypatch.context() as patch:
    patch.setattr(Trainer, "_run_steps", drift)
    assert start(*flags) == 4
  (line,) = capsys.readouterr().err.splitlines()
  assert "the weights of the replicas differ after step" in line
  saved = [0] if stopped else [0, 2, 4]
  assert checkpoint_steps(run_dir / "checkpoints") == saved
  assert load_model(open_run(run_dir), "latest")[1] == saved[-1]
  assert not metrics(run_dir, "eval")
  assert start(*flags) == 0
