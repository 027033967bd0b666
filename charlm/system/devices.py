"""Chooses a process's devices and the distribution strategy over them."""

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from typing import Generic, NamedTuple, TypeVar

import tensorflow as tf

from charlm.errors import InputError
from charlm.system.cuda import has_nvidia_gpu
from charlm.system.messages import warn

_Value = TypeVar("_Value")
_CPU_INSTEAD = "Using the CPU; --device=cpu silences this warning"
# Shows what TensorFlow logs when it looks for a GPU, and for CUDA's libraries.
_WHY = (
  "TF_CPP_MIN_LOG_LEVEL=0 TF_CPP_VMODULE=dso_loader=1 "
  f"{sys.executable} -c 'from charlm import load; import tensorflow as tf; "
  'tf.config.list_physical_devices("GPU")\''
)


def kind_of_device() -> str:
  """Returns `GPU` if TensorFlow may use one, else `CPU`."""
  return "GPU" if tf.config.get_visible_devices("GPU") else "CPU"


class Choice(NamedTuple, Generic[_Value]):
  """A value for each kind of device."""

  cpu: _Value
  gpu: _Value

  @property
  def here(self) -> _Value:
    """The value for this process's kind of device."""
    return self.gpu if kind_of_device() == "GPU" else self.cpu


def num_cores() -> int:
  """Returns how many cores this process may use."""
  # taskset or SLURM may restrict it to some of the machine's cores.
  if hasattr(os, "sched_getaffinity"):  # not on macOS
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def choose_device(device: str) -> None:
  """Chooses the device; call it before TensorFlow places anything on one.

  GPUs compute in float32; `tensor_float_32` is for training.

  Args:
    device: `cpu`; `gpu`; or `auto`, a GPU if there is one. If the machine has
      one that TensorFlow does not find or was not built for, a line on stderr
      says so.

  Raises InputError: an unknown device; `gpu` if TensorFlow can use none or this
    process has chosen the CPU; `cpu` if TensorFlow has already started with a
    GPU.
  """
  if device not in ("auto", "cpu", "gpu"):
    raise InputError(f"device is {device!r}: give auto, cpu or gpu")
  if tf.config.get_visible_devices("GPU"):
    _set_up_gpus(device)
  elif tf.config.list_physical_devices("GPU"):  # an earlier call hid it
    if device == "gpu":
      raise InputError(
        "this process has chosen the CPU: start a new process to use the GPU"
      )
  elif device == "gpu":
    raise InputError(
      f"TensorFlow finds no GPU: give --device=cpu, or read why by {_WHY}"
    )
  elif device == "auto" and has_nvidia_gpu():
    warn(
      "TensorFlow finds no GPU although this machine has one: read why by "
      f"{_WHY}. {_CPU_INSTEAD}"
    )


def _set_up_gpus(device: str) -> None:
  """Configures the usable GPUs and hides the others.

  Raises InputError: `gpu` if TensorFlow was built for none of them.
  """
  gpus = tf.config.get_visible_devices("GPU")
  usable = [gpu for gpu in gpus if device != "cpu" and _is_built_for(gpu)]
  if device != "cpu" and usable != gpus:
    others = {_name(gpu) for gpu in gpus if gpu not in usable}
    names = ", ".join(sorted(others))
    problem = f"TensorFlow {tf.__version__} was not built for {names}"
    if device == "gpu" and not usable:
      raise InputError(f"{problem}: give --device=cpu")
    warn(f"{problem}. {'It is not used' if usable else _CPU_INSTEAD}")
  if usable != gpus:
    try:
      # TensorFlow allocates memory on each GPU that it sees.
      tf.config.set_visible_devices(usable, "GPU")
    except RuntimeError as error:
      raise InputError(
        "TensorFlow has already started with a GPU: choose the CPU before it "
        "computes"
      ) from error
  if usable:
    # Memory growth cannot change after TensorFlow has started: the caller's
    # setting stays.
    with contextlib.suppress(RuntimeError):
      for gpu in usable:
        # Otherwise it allocates all of the GPU's memory, and leaves none for a
        # sampler.
        tf.config.experimental.set_memory_growth(gpu, True)
    tf.config.experimental.enable_tensor_float_32_execution(False)


def _is_built_for(gpu: tf.config.PhysicalDevice) -> bool:
  """Returns whether TensorFlow has code for a GPU's generation.

  Without, as for an RTX 50xx in TensorFlow 2.21, the first operation fails.
  """
  details = tf.config.experimental.get_device_details(gpu)
  targets = tf.sysconfig.get_build_info().get("cuda_compute_capabilities")
  if not targets or "compute_capability" not in details:
    return True
  generation, _ = details["compute_capability"]
  # Such as sm_89 or compute_90: code runs on all of the same first number.
  return any(re.search(rf"_{generation}\d\w?$", target) for target in targets)


@contextlib.contextmanager
def tensor_float_32() -> Iterator[None]:
  """Enables TensorFloat-32 on GPUs: faster, with 10-bit mantissas."""
  if kind_of_device() == "CPU":
    yield
    return
  enable = tf.config.experimental.enable_tensor_float_32_execution
  enable(True)
  try:
    yield
  finally:
    enable(False)


def create_strategy(
  num_replicas: int, or_fewer: bool = False
) -> tf.distribute.MirroredStrategy:
  """Sets up devices and returns a strategy over them.

  Call it before TensorFlow places anything on them.

  Args:
    num_replicas: number of GPUs or, without a GPU, of logical CPU devices.
    or_fewer: if TensorFlow has already started with fewer CPU devices, as after
      `charlm.load`, use the largest divisor of `num_replicas` that fits.

  Raises InputError: TensorFlow has already started with fewer CPU devices.
  """
  if tf.config.get_visible_devices("GPU"):
    use_first_gpus(num_replicas)
    devices = [f"GPU:{i}" for i in range(num_replicas)]
    return tf.distribute.MirroredStrategy(devices)
  cpu = tf.config.list_physical_devices("CPU")[0]
  device = tf.config.LogicalDeviceConfiguration()
  try:
    tf.config.set_logical_device_configuration(cpu, [device] * num_replicas)
    # About one thread per core in total.
    threads = max(1, num_cores() // num_replicas)
    tf.config.threading.set_intra_op_parallelism_threads(threads)
  except RuntimeError as error:
    started = len(tf.config.list_logical_devices("CPU"))
    if num_replicas > started and not or_fewer:
      raise InputError(
        f"num_replicas is {num_replicas}, but TensorFlow has already started "
        f"with {started} CPU devices: train in a new process, or leave out "
        "num_replicas"
      ) from error
    num_replicas = largest_divisor(num_replicas, started)
  # In shared memory a plain sum is enough. Collective operations, the default,
  # would fix the number of replicas for the whole process.
  plain_sum = tf.distribute.ReductionToOneDevice()
  devices = [f"CPU:{i}" for i in range(num_replicas)]
  return tf.distribute.MirroredStrategy(devices, cross_device_ops=plain_sum)


def gpu_names() -> list[str]:
  """Returns the names of the GPUs that TensorFlow uses."""
  return [_name(gpu) for gpu in tf.config.get_visible_devices("GPU")]


def _name(gpu: tf.config.PhysicalDevice) -> str:
  details = tf.config.experimental.get_device_details(gpu)
  return str(details.get("device_name", gpu.name))


def use_first_gpus(number: int) -> None:
  """Hides the other GPUs, on which TensorFlow would allocate memory."""
  # Too late once TensorFlow has started, as after `charlm.load`.
  with contextlib.suppress(RuntimeError):
    gpus = tf.config.get_visible_devices("GPU")
    tf.config.set_visible_devices(gpus[:number], "GPU")


def most_gpus() -> int:
  """Returns the number of GPUs that TensorFlow can compute on, used or not."""
  gpus = tf.config.list_physical_devices("GPU")
  return len([gpu for gpu in gpus if _is_built_for(gpu)])


def largest_divisor(number: int, at_most: int) -> int:
  """Returns the largest divisor of `number` up to `at_most`."""
  return max(d for d in range(1, at_most + 1) if number % d == 0)
