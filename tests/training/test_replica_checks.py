"""Replicas that compute something else are found before it does harm."""

import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from helpers import metrics

import train
from charlm.config import Config
from charlm.data.batches import Batches
from charlm.errors import DivergedError, InputError
from charlm.system.cluster import Cluster
from charlm.training.replica_checks import Replicas
from charlm.training.trainer import Trainer, build_trainer

_DEVICES = ["CPU:0", "CPU:1"]


class _Faulty(tf.distribute.ReductionToOneDevice):
  """A sum over replicas that does something to each result."""

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
  """One more in the last number of each sum, on one device."""

  def change(number: int, copy: tf.Tensor) -> tf.Tensor:
    if not number:
      return copy
    last = tf.one_hot(copy.shape.num_elements() - 1, copy.shape.num_elements())
    return copy + tf.reshape(last, copy.shape)

  return _map(change, result)


def _drops(value: Any, result: Any) -> Any:
  """The second replica's share is lost."""
  return _map(lambda i, copy: tf.identity(value.values[0]), result)


def _doubles(value: Any, result: Any) -> Any:
  return _map(lambda i, copy: copy * 2, result)


def _sums_nothing(value: Any, result: Any) -> Any:
  """Each device keeps its own share."""
  return _map(lambda i, copy: tf.identity(value.values[i]), result)


def _delays(value: Any, result: Any) -> Any:
  """Each result is that of the call before."""

  def change(number: int, copy: tf.Tensor) -> tf.Tensor:
    last = np.zeros(copy.shape, np.float32)

    def swap(new: np.ndarray) -> np.ndarray:
      nonlocal last
      old, last = last, new
      return old

    return tf.ensure_shape(
      tf.numpy_function(swap, [copy], tf.float32), copy.shape
    )

  return _map(change, result)


def _right(value: Any, result: Any) -> Any:
  return result


def _replicas(fault: Callable[..., Any]) -> tuple[Replicas, Trainer]:
  strategy = tf.distribute.MirroredStrategy(
    _DEVICES, cross_device_ops=_Faulty(fault)
  )
  config = Config(
    seq_length=5, batch_size=4, embedding_dim=3, rnn_units=4, num_layers=2
  )
  batches = Batches(np.arange(200) % 7 + 2, 5, 4)
  trainer = build_trainer(config, 9, batches, strategy)
  return Replicas(Cluster(strategy), trainer), trainer


@pytest.mark.parametrize(
  "fault", [_corrupts, _drops, _doubles, _sums_nothing, _delays]
)
def test_a_wrong_sum_is_refused(fault: Callable[..., Any]) -> None:
  replicas, _ = _replicas(fault)
  with pytest.raises(InputError, match=r"wrong sum.* CPU:0, CPU:1") as error:
    replicas.check_start()
  text = str(error.value)
  assert "NCCL_P2P_DISABLE=1" in text
  assert "--num_replicas=1" in text


def test_right_sums_and_equal_weights_pass() -> None:
  replicas, _ = _replicas(_right)
  replicas.check_start()
  replicas.check_weights()


# The lowest bit, and the sign, in which 0.0 and -0.0 differ.
@pytest.mark.parametrize(
  ("of", "bits"), [("model", 1), ("optimizer", -(2**31))]
)
def test_one_bit_of_one_number_is_found(of: str, bits: int) -> None:
  replicas, trainer = _replicas(_right)
  _flip(getattr(trainer, of), bits)
  with pytest.raises(InputError, match="CPU:0 and CPU:1 begin with different"):
    replicas.check_start()
  with pytest.raises(DivergedError, match="CPU:0 and CPU:1 differ") as error:
    replicas.check_weights()
  assert "NCCL_P2P_DISABLE=1" in str(error.value)


def _flip(of: Any, bits: int = 1) -> None:
  """Flips bits of the last number of a model or optimizer, on CPU:1."""
  variable = of.variables[-1].value.values[1]
  numbers = variable.numpy()
  numbers.view(np.int32).ravel()[-1] ^= bits
  variable.assign(numbers)


def test_replicas_that_drift_apart_are_not_saved(
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
    return loss

  monkeypatch.setattr(Trainer, "_run_steps", drift)
  run_dir = tmp_path / "run"
  flags = [f"--run_dir={run_dir}", "--num_replicas=2"]
  flags.append("--checkpoint_every_steps=2")
  assert train.main([*train_args, *flags]) == 3
  (line,) = capsys.readouterr().err.splitlines()
  assert "CPU:0 and CPU:1 differ" in line
  steps = {path.stem for path in (run_dir / "checkpoints").glob("*.index")}
  assert steps == {"ckpt-0", "ckpt-2", "ckpt-4"}
  assert not metrics(run_dir, "eval")


def test_a_loss_that_is_not_finite_on_gpus_names_their_connection(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  _, trainer = _replicas(_right)
  trainer.model.dense.bias.assign(np.full(9, np.nan))
  with pytest.raises(DivergedError) as error:
    trainer.train(2)
  assert "NCCL" not in str(error.value)
  monkeypatch.setattr("charlm.training.trainer.kind_of_device", lambda: "GPU")
  with pytest.raises(DivergedError, match="NCCL_P2P_DISABLE=1") as error:
    trainer.train(3)
  assert "--learning_rate" in str(error.value)
