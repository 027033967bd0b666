"""What is chosen by the kind of device and by sizes."""

from typing import Generic, NamedTuple, TypeVar

import tensorflow as tf

from charlm.config import Config

_Value = TypeVar("_Value")


def kind_of_device() -> str:
  """Returns `GPU` if TensorFlow may use one, else `CPU`."""
  return "GPU" if tf.config.get_visible_devices("GPU") else "CPU"


class Choice(NamedTuple, Generic[_Value]):
  """A value for each kind of device."""

  cpu: _Value
  gpu: _Value

  @property
  def here(self) -> _Value:
    """The value for the kind of device that this process computes on."""
    return self.gpu if kind_of_device() == "GPU" else self.cpu


# The layer of --gru=auto, in training and in scoring: Keras' layer calls cuDNN
# on a GPU, and is slower elsewhere.
GRU_KIND = Choice("fused", "keras")
# Whether Keras' layer may replace the fused one for bfloat16: TensorFloat-32
# rounds less.
KERAS_FOR_BFLOAT16 = Choice(False, True)
# Whether XLA compiles scores by a layer that is not `fast_with_xla`: XLA cannot
# call cuDNN. It always compiles those of the others.
XLA_FOR_SCORES = Choice(True, False)
# Whether Muon's products of one shape are one: fewer kernels, slower on a CPU.
MUON_TOGETHER = Choice(False, True)
# Faster, with 10-bit mantissas.
TENSOR_FLOAT_32 = Choice(False, True)
# A scan is logarithmic in depth, but computes more.
LINEAR_SCAN = Choice("loop", "scan")
COLLECTIVES = Choice("RING", "NCCL")
# The fewest steps between two checkpoints by default: a GPU can take a quarter
# of an epoch in less time than a save.
LEAST_CHECKPOINT_STEPS = Choice(1, 100)

# On a CPU a step is many small operations, which each replica would repeat. Up
# to this many windows a step, one replica on all cores is fastest. Compiled by
# XLA, which needs a single replica, it is so up to the second number
# (recipes/LOG.md).
FEW_WINDOWS = 4
FEW_WINDOWS_FOR_XLA = 16
# By precision: from this many units on, one replica keeps all cores of a CPU
# busy. More replicas take more memory, for a copy of the weights each, and
# mostly no less time (recipes/LOG.md).
MANY_UNITS = {"float32": 1024, "bfloat16": 2048}
# Up to this many entries of the vocabulary the fused layer projects each entry
# once, into a table, and looks positions up. Above, it projects each position:
# a table's gradient is a product with one-hot rows, whose cost grows with the
# vocabulary (BUILD.md).
MAX_TABLE = 400
# `sample.py` draws up to this many texts on the CPU: a character is a chain of
# small operations, each of which takes a GPU longer.
FEW_TEXTS = 8
# Above this many logits, nats are computed in chunks, in bounded memory.
MAX_LOGITS = 2**25  # 128 MiB


def xla_compiles_steps(config: Config, num_replicas: int) -> bool:
  """Tells whether XLA should compile the gradients of training steps.

  This holds for a layer that is `fast_with_xla`. On a GPU, it joins
  most of the thousands of kernels of a step. On a CPU, several replicas that it
  compiled would wait for each other, it makes products in bfloat16 slower, and
  with dropout it was not measured.
  """
  if kind_of_device() == "GPU":
    return True
  fit = config.precision == "float32" and not config.dropout_rate
  few = config.batch_size <= FEW_WINDOWS_FOR_XLA
  return num_replicas == 1 and fit and few


def xla_compiles_scores(fast_with_xla: bool) -> bool:
  """Tells whether XLA should compile the scoring by a layer."""
  return fast_with_xla or XLA_FOR_SCORES.here


def reason_for_one_replica(config: Config, gru: str) -> str:
  """Returns why one CPU device is better than one for each core, if it is."""
  if kind_of_device() == "GPU":
    return ""
  compiled = gru != "keras" and xla_compiles_steps(config, num_replicas=1)
  if compiled or config.batch_size <= FEW_WINDOWS:
    return "few windows"
  many = config.rnn_units >= MANY_UNITS[config.precision]
  return "many units" if many else ""
