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


GRU_KIND = Choice(
  "fused", "keras", "Keras' layer calls cuDNN on a GPU, and is slower elsewhere"
)
ONLY_FUSED = "Keras' layer can do neither --precision=bfloat16 nor --layer_norm"
XLA_FOR_SCORES = Choice(True, False, "XLA is faster, but cannot call cuDNN")
TENSOR_FLOAT_32 = Choice(
  False, True, "faster, with 10-bit mantissas; --deterministic turns it off"
)
LINEAR_SCAN = Choice(
  "loop", "scan", "a scan is logarithmic in depth, but computes more"
)
COLLECTIVES = Choice("RING", "NCCL", "NCCL is faster, but for GPUs alone")

CHECKPOINT_STEPS = Choice(
  1, 100, "a GPU can take a quarter of an epoch in less time than a save"
)

# Up to this many windows a step, one replica on all cores of a CPU is fastest:
# a step is many small operations, which each replica would repeat. XLA, which
# only one replica can use, fuses them: with it, one is fastest up to the second
# bound (benchmarks/README.md).
FEW_WINDOWS = 4
FEW_WINDOWS_FOR_XLA = 16
# By precision: from this many units on, one replica keeps all cores of a CPU
# busy. More replicas take more memory, for a copy of the weights each, and
# mostly no less time (benchmarks/README.md).
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


def xla_compiles_steps(config: Config) -> bool:
  """Tells whether XLA should compile the gradients, as far as `Config` decides.

  The caller makes sure that there is one replica and that its layer is fused.
  Not in bfloat16, whose products XLA makes slower, and not with dropout, for
  which it draws other random numbers: a model would depend on the devices.
  """
  if kind_of_device() == "GPU":  # whose steps are fast without it
    return False
  fit = config.precision == "float32" and not config.dropout_rate
  return fit and config.batch_size <= FEW_WINDOWS_FOR_XLA


def reason_for_one_replica(config: Config, gru: str) -> str:
  """Returns why one CPU device is better than one for each core, if it is."""
  if kind_of_device() == "GPU":
    return ""
  compiled = gru != "keras" and xla_compiles_steps(config)
  if compiled or config.batch_size <= FEW_WINDOWS:
    return "few windows"
  many = config.rnn_units >= MANY_UNITS[config.precision]
  return "many units" if many else ""
