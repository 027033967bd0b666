"""What is chosen by the kind of device and by sizes, each with its reason."""

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
  reason: str

  @property
  def here(self) -> _Value:
    """The value for the kind of device that this process computes on."""
    return self.gpu if kind_of_device() == "GPU" else self.cpu


# The layer of --gru=auto, in training and in scoring.
GRU_KIND = Choice(
  "fused", "keras", "Keras' layer calls cuDNN on a GPU, and is slower elsewhere"
)
ONLY_FUSED = "Keras' layer has no layer normalisation"
# Whether Keras' layer may replace the fused one for bfloat16.
KERAS_FOR_BFLOAT16 = Choice(
  False, True, "in TensorFloat-32 or float32, which round less than bfloat16"
)
# Whether XLA compiles scores by a layer that is not `fast_with_xla`. It always
# compiles those of the others.
XLA_FOR_SCORES = Choice(True, False, "XLA is faster, but cannot call cuDNN")
MUON_TOGETHER = Choice(
  False, True, "products of one shape as one: fewer kernels, slower on a CPU"
)
TENSOR_FLOAT_32 = Choice(
  False, True, "faster, with 10-bit mantissas; --deterministic turns it off"
)
LINEAR_SCAN = Choice(
  "loop", "scan", "a scan is logarithmic in depth, but computes more"
)
COLLECTIVES = Choice("RING", "NCCL", "NCCL is faster, but for GPUs alone")
# The fewest steps between two checkpoints by default.
LEAST_CHECKPOINT_STEPS = Choice(
  1, 100, "a GPU can take a quarter of an epoch in less time than a save"
)

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


def reason_for_xla(config: Config, num_replicas: int) -> str:
  """Returns why XLA should compile the gradients of training steps, if it does.

  This holds for a layer that is `fast_with_xla`. On a GPU, it joins
  most of the thousands of kernels of a step. On a CPU, several replicas that it
  compiled would wait for each other, it makes products in bfloat16 slower, and
  with dropout it was not measured.
  """
  if kind_of_device() == "GPU":
    return "for fewer kernels"
  fit = config.precision == "float32" and not config.dropout_rate
  few = config.batch_size <= FEW_WINDOWS_FOR_XLA
  return "for few windows" if num_replicas == 1 and fit and few else ""


def xla_compiles_scores(fast_with_xla: bool) -> bool:
  """Tells whether XLA should compile the scoring by a layer."""
  return fast_with_xla or XLA_FOR_SCORES.here


def reason_for_one_replica(config: Config, gru: str) -> str:
  """Returns why one CPU device is better than one for each core, if it is."""
  if kind_of_device() == "GPU":
    return ""
  compiled = gru != "keras" and reason_for_xla(config, num_replicas=1)
  if compiled or config.batch_size <= FEW_WINDOWS:
    return "few windows"
  many = config.rnn_units >= MANY_UNITS[config.precision]
  return "many units" if many else ""
