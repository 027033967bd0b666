"""Chooses a process's devices and the distribution strategy over them."""

import concurrent.futures
import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from typing import Generic, NamedTuple, TypeVar

import tensorflow as tf

from charlm.errors import HungError, InputError
from charlm.system.cuda import (
  driver_problem,
  gpu_problem,
  nvidia_device,
  reason_for_no_gpu,
)
from charlm.system.messages import warn

NCCL_REMEDY = "set NCCL_P2P_DISABLE=1 in the environment"
BIOS_REMEDY = "turn off IOMMU, or ACS, in the machine's BIOS"
_Value = TypeVar("_Value")
# Timeout of the first sum over GPUs; the driver may compile first.
_ANSWER_SECONDS = 180.0
_CPU_INSTEAD = "Using the CPU; --device=cpu silences this warning"
_Result = TypeVar("_Result")


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


def choose_device(device: str, start: bool = True) -> None:
  """Chooses the device; call it before TensorFlow places anything on one.

  GPUs compute in float32; `tensor_float_32` is for training.

  Args:
    device: `cpu`; `gpu`; or `auto`, a GPU if there is one. If TensorFlow cannot
      use the machine's GPU, a line on stderr says why.
    start: start the GPUs now. Otherwise `create_strategy` or `connect` does,
      after workers are connected.

  Raises InputError: an unknown device; `gpu` if TensorFlow can use none or this
    process has chosen the CPU; `cpu` if TensorFlow has already started with a
    GPU; a GPU does not start.
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
      f"TensorFlow finds no GPU: {_reason_for_no_gpu()}, or give --device=cpu"
    )
  elif device == "auto" and (evidence := nvidia_device()):
    warn(
      f"this machine seems to have a GPU ({evidence}), but TensorFlow finds "
      f"none: {_reason_for_no_gpu()}. {_CPU_INSTEAD}"
    )
  if start:
    _start_gpus()


def _set_up_gpus(device: str) -> None:
  """Configures the usable GPUs and hides the others.

  Raises InputError: `gpu` if TensorFlow cannot compute on any.
  """
  gpus = tf.config.get_visible_devices("GPU")
  usable = []
  if device != "cpu":
    problems = {gpu: _gpu_problem(gpu) for gpu in gpus}
    usable = [gpu for gpu in gpus if not problems[gpu]]
    problem = "; ".join(filter(None, problems.values()))
    if problem and device == "gpu" and not usable:
      raise InputError(f"{problem}: give --device=cpu")
    if problem:
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


def _gpu_problem(gpu: tf.config.PhysicalDevice) -> str:
  """Returns why TensorFlow cannot compute on a GPU, or an empty string."""
  details = tf.config.experimental.get_device_details(gpu)
  capability = details.get("compute_capability")
  if not capability:
    return ""
  name = details.get("device_name", gpu.name)
  return gpu_problem(name, capability, tf.sysconfig.get_build_info())


def _reason_for_no_gpu() -> str:
  """Returns why TensorFlow finds no GPU, and the remedy."""
  if not tf.test.is_built_with_cuda():
    return "its package for this system was built without CUDA"
  return reason_for_no_gpu()


def _start_gpus() -> None:
  """Starts the GPUs, if any.

  Raises InputError: a GPU does not start.
  """
  if not tf.config.get_visible_devices("GPU"):
    return
  try:
    tf.config.list_logical_devices("GPU")
  except tf.errors.OpError as error:
    check = f"{error.message}; check the driver with nvidia-smi"
    raise InputError(
      f"TensorFlow cannot start the GPU: {driver_problem() or check}, or give "
      "--device=cpu"
    ) from error


def create_strategy(
  num_replicas: int, or_fewer: bool = False
) -> tf.distribute.MirroredStrategy:
  """Sets up devices and returns a strategy over them.

  Call it before TensorFlow places anything on them.

  Args:
    num_replicas: number of GPUs or, without a GPU, of logical CPU devices.
    or_fewer: if TensorFlow has already started with fewer CPU devices, as after
      `charlm.load`, use the largest divisor of `num_replicas` that fits.

  Raises InputError: TensorFlow has already started with fewer CPU devices, or a
    GPU does not start.
  """
  if tf.config.get_visible_devices("GPU"):
    use_first_gpus(num_replicas)
    _start_gpus()
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


def first_sum(add: Callable[[], _Result], over: str) -> _Result:
  """Runs the first sum over some devices, which may hang on GPUs.

  Raises HungError: GPUs do not answer within three minutes.
  """
  if kind_of_device() == "CPU":
    return add()
  future: concurrent.futures.Future[_Result] = concurrent.futures.Future()

  def run() -> None:
    """Stores the sum or the error in the future."""
    try:
      future.set_result(add())
    except BaseException as error:  # raised again below
      future.set_exception(error)

  # A daemon thread, because a hanging call to NCCL cannot be cancelled.
  threading.Thread(target=run, daemon=True).start()
  try:
    return future.result(_ANSWER_SECONDS)
  except TimeoutError as error:
    raise HungError(
      f"the first sum over {over} did not finish within {_ANSWER_SECONDS:g} "
      f"seconds: {NCCL_REMEDY}, or {BIOS_REMEDY}, or train on one GPU with "
      "--num_replicas=1"
    ) from error


def gpu_names() -> list[str]:
  """Returns the names of the GPUs that TensorFlow uses."""
  details = tf.config.experimental.get_device_details
  gpus = tf.config.get_visible_devices("GPU")
  return [details(gpu).get("device_name", gpu.name) for gpu in gpus]


def use_first_gpus(number: int) -> None:
  """Hides the other GPUs, on which TensorFlow would allocate memory."""
  # Too late once TensorFlow has started, as after `charlm.load`.
  with contextlib.suppress(RuntimeError):
    gpus = tf.config.get_visible_devices("GPU")
    tf.config.set_visible_devices(gpus[:number], "GPU")


def most_gpus() -> int:
  """Returns the number of GPUs that TensorFlow can compute on, used or not."""
  gpus = tf.config.list_physical_devices("GPU")
  return len([gpu for gpu in gpus if not _gpu_problem(gpu)])


def largest_divisor(number: int, at_most: int) -> int:
  """Returns the largest divisor of `number` up to `at_most`."""
  return max(d for d in range(1, at_most + 1) if number % d == 0)
