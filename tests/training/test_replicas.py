"""Replicas with wrong sums or different weights are detected in time."""

import pathlib
import signal
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from helpers import metrics, pretend_kind

import train
from charlm.config import Config
from charlm.data.batches import Batches
from charlm.errors import DivergedError, HungError, InputError
from charlm.system import devices
from charlm.training import replicas as replicas_module
from charlm.training.replicas import Replicas
from charlm.training.trainer import Trainer, build_trainer
from charlm.training.workers import Cluster

_DEVICES = ["CPU:0", "CPU:1"]


class _Faulty(tf.distribute.ReductionToOneDevice):
  """A sum over replicas with a fault in each result."""

  def __init__(self, fault: Callable[..., Any]) -> None:
    super().__init__()
    self._fault = fault

  def batch_reduce_implementation(
    self, reduce_op: Any, pairs: list, options: Any
  ) -> list:
    right = super().batch_reduce_implementation(reduce_op, pairs, options)
    return [
      self._fault(value, result)
      for (value, _), result in zip(pairs, right, strict=True)
    ]


def _map(change: Callable[[int, tf.Tensor], tf.Tensor], result: Any) -> Any:
  """Changes the copy on each device; `change` takes the device's number."""
  copies = [change(i, copy) for i, copy in enumerate(result.values)]
  return type(result)(copies)


def _corrupts(value: Any, result: Any) -> Any:
  """Adds 1 to the last number of each sum, on one device."""

  def change(number: int, copy: tf.Tensor) -> tf.Tensor:
    if not number:
      return copy
    last = tf.one_hot(copy.shape.num_elements() - 1, copy.shape.num_elements())
    return copy + tf.reshape(last, copy.shape)

  return _map(change, result)


def _sums_nothing(value: Any, result: Any) -> Any:
  """Leaves each device its own addend."""
  return _map(lambda i, copy: tf.identity(value.values[i]), result)


def _right(value: Any, result: Any) -> Any:
  return result


def _hangs(value: Any, result: Any) -> Any:
  def sleep(copy: np.ndarray) -> np.ndarray:
    time.sleep(0.5)
    return copy

  return _map(
    lambda i, copy: tf.numpy_function(sleep, [copy], tf.float32), result
  )


def _replicas(fault: Callable[..., Any]) -> tuple[Replicas, Trainer]:
  strategy = tf.distribute.MirroredStrategy(
    _DEVICES, cross_device_ops=_Faulty(fault)
  )
  config = Config(seq_length=5, batch_size=4, embedding_dim=3, rnn_units=4)
  batches = Batches(np.arange(200) % 7 + 2, 5, 4)
  trainer = build_trainer(config, 9, batches, strategy)
  return Replicas(Cluster(strategy), trainer), trainer


@pytest.mark.parametrize("fault", [_corrupts, _sums_nothing])
def test_a_wrong_sum_over_replicas_is_refused(
  fault: Callable[..., Any],
) -> None:
  replicas, _ = _replicas(fault)
  with pytest.raises(InputError, match=r"wrong sum.* CPU:0, CPU:1") as error:
    replicas.check_start()
  text = str(error.value)
  assert "NCCL_P2P_DISABLE=1" in text
  assert "--num_replicas=1" in text


@pytest.mark.parametrize("factor", [0, 2])
def test_a_wrong_sum_over_workers_is_refused(
  factor: int, monkeypatch: pytest.MonkeyPatch
) -> None:
  cluster = Cluster(tf.distribute.get_strategy(), ["a:1", "b:1"])
  monkeypatch.setattr(cluster, "sum", lambda xs: [factor * x for x in xs])
  with pytest.raises(HungError, match="wrong: set NCCL_P2P_DISABLE=1"):
    cluster.broadcast(7)


@pytest.fixture
def on_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
  """Pretends that the replicas are GPUs."""
  pretend_kind(monkeypatch, "GPU")


@pytest.mark.usefixtures("on_gpus")
def test_right_sums_and_equal_weights_pass() -> None:
  replicas, _ = _replicas(_right)
  replicas.check_start()
  replicas.check_weights()


@pytest.mark.usefixtures("on_gpus")
def test_a_hanging_sum_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
  monkeypatch.setattr(devices, "_ANSWER_SECONDS", 0.1)
  replicas, _ = _replicas(_hangs)
  with pytest.raises(HungError, match="CPU:0, CPU:1 did not finish") as error:
    replicas.check_start()
  assert error.value.exit_code == 2
  for remedy in ("NCCL_P2P_DISABLE=1", "IOMMU", "ACS", "--num_replicas=1"):
    assert remedy in str(error.value)


@pytest.mark.usefixtures("on_gpus")
def test_a_failing_sum_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
  replicas, _ = _replicas(_right)

  def fail(offset: float) -> None:
    raise tf.errors.InternalError(None, None, "unhandled system error")

  monkeypatch.setattr(replicas, "_compiled_sums", fail)
  with pytest.raises(InputError, match=r"unhandled system error.*NCCL_P2P"):
    replicas.check_start()


# The lowest bit, and the sign bit, in which 0.0 and -0.0 differ.
@pytest.mark.parametrize(
  ("of", "bits"), [("model", 1), ("optimizer", -(2**31))]
)
def test_a_single_differing_bit_is_detected(of: str, bits: int) -> None:
  replicas, trainer = _replicas(_right)
  _flip(getattr(trainer, of), bits)
  with pytest.raises(InputError, match="CPU:1 begins with other values"):
    replicas.check_start()
  with pytest.raises(
    DivergedError, match="CPU:1 differ from those of CPU:0"
  ) as error:
    replicas.check_weights()
  assert "NCCL_P2P_DISABLE=1" in str(error.value)


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
def test_replicas_that_diverge_from_each_other_are_not_saved(
  stopped: bool,
  train_args: list[str],
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture[str],
) -> None:
  run_steps = Trainer._run_steps

  def drift(self: Trainer, start: int, stop: int) -> float:
    loss = run_steps(self, start, stop)
    if start >= 4:
      _flip(self.optimizer)
      if stopped:  # before the next checkpoint is due
        signal.raise_signal(signal.SIGTERM)
    return loss

  monkeypatch.setattr(Trainer, "_run_steps", drift)
  run_dir = tmp_path / "run"
  flags = [f"--run_dir={run_dir}", "--num_replicas=2"]
  flags += ["--summary_every_steps=3"] if stopped else []
  flags.append(f"--checkpoint_every_steps={100 if stopped else 2}")
  assert train.main([*train_args, *flags]) == 3
  (line,) = capsys.readouterr().err.splitlines()
  assert "CPU:1 differ from those of CPU:0" in line
  steps = {path.stem for path in (run_dir / "checkpoints").glob("*.index")}
  saved = [0] if stopped else [0, 2, 4]
  assert steps == {f"ckpt-{step}" for step in saved}
  assert not metrics(run_dir, "eval")


def test_on_gpus_a_loss_that_is_not_finite_also_suggests_a_remedy_for_nccl(
  request: pytest.FixtureRequest,
) -> None:
  _, trainer = _replicas(_right)
  trainer.model.dense.bias.assign(np.full(9, np.nan))
  with pytest.raises(DivergedError) as error:
    trainer.train(2)
  assert "NCCL" not in str(error.value)
  request.getfixturevalue("on_gpus")
  with pytest.raises(DivergedError, match="NCCL_P2P_DISABLE=1") as error:
    trainer.train(3)
  assert "--learning_rate" in str(error.value)
