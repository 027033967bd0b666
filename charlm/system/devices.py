"""The devices that a process computes on, and the strategy over them."""

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
  nvidia_device,
  problem_of_card,
  reason_for_no_gpu,
)
from charlm.system.messages import warn

NCCL_REMEDY = "set NCCL_P2P_DISABLE=1 in the environment"
BIOS_REMEDY = "turn off IOMMU, or ACS, in the machine's BIOS"
_Value = TypeVar("_Value")
# That a first sum over GPUs may take: the driver may compile before.
_ANSWER_SECONDS = 180.0
_CPU_INSTEAD = "The CPU is used; --device=cpu ends this warning"
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
    """The value for the kind of device that this process computes on."""
    return self.gpu if kind_of_device() == "GPU" else self.cpu


def num_cores() -> int:
  """Returns how many cores this process may use."""
  # Under taskset or SLURM they can be fewer than the machine has.
  if hasattr(os, "sched_getaffinity"):  # not on macOS
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def choose_device(device: str, start: bool = True) -> None:
  """Chooses what computes, before TensorFlow places anything on it.

  Args:
    device: `cpu`; `gpu`; or `auto`, a GPU if there is one. If TensorFlow cannot
      use a GPU that the machine has, a line on stderr says why.
    start: whether TensorFlow starts the GPUs here. If not, `create_strategy`
      or `connect` has to: workers are connected before.

  Scores and samples are computed in float32; `tensor_float_32` is for training.

  Raises InputError: an unknown device; `gpu`, if TensorFlow can use none, or
    this process has chosen the CPU; `cpu`, if TensorFlow has started with a
    GPU; a GPU that cannot be started.
  """
  if device not in ("auto", "cpu", "gpu"):
    raise InputError(f"device is {device!r}: give auto, cpu or gpu")
  if tf.config.get_visible_devices("GPU"):
    _set_up_gpus(device)
  elif tf.config.list_physical_devices("GPU"):  # an earlier call hid it
    if device == "gpu":
      raise InputError("this process has chosen the CPU: start another process")
  elif device == "gpu":
    raise InputError(
      f"TensorFlow finds no GPU: {_reason_for_none()}, or give --device=cpu"
    )
  elif device == "auto" and (found := nvidia_device()):
    warn(
      f"this machine seems to have a GPU ({found}), but TensorFlow finds none: "
      f"{_reason_for_none()}. {_CPU_INSTEAD}"
    )
  if start:
    _start_gpus()


def _set_up_gpus(device: str) -> None:
  """Sets up the GPUs that TensorFlow is to use, and hides the others.

  Raises InputError: `gpu`, if TensorFlow cannot compute on any.
  """
  gpus = tf.config.get_visible_devices("GPU")
  usable = []
  if device != "cpu":
    problems = {gpu: _problem_of(gpu) for gpu in gpus}
    usable = [gpu for gpu in gpus if not problems[gpu]]
    problem = "; ".join(filter(None, problems.values()))
    if problem and device == "gpu" and not usable:
      raise InputError(f"{problem}: give --device=cpu")
    if problem:
      warn(f"{problem}. {'It is left out' if usable else _CPU_INSTEAD}")
  if usable != gpus:
    try:
      # TensorFlow would take the memory of each GPU that it sees.
      tf.config.set_visible_devices(usable, "GPU")
    except RuntimeError as error:
      raise InputError(
        "TensorFlow has started with a GPU: choose the CPU before it computes"
      ) from error
  if usable:
    # Once TensorFlow has started, memory growth cannot be set any more: the
    # caller's setting stays.
    with contextlib.suppress(RuntimeError):
      for gpu in usable:
        # Else it takes all memory of the GPU, and leaves none for a sampler.
        tf.config.experimental.set_memory_growth(gpu, True)
    tf.config.experimental.enable_tensor_float_32_execution(False)


@contextlib.contextmanager
def tensor_float_32() -> Iterator[None]:
  """Lets GPUs multiply in TensorFloat-32 while the block runs.

  That is faster, with mantissas of 10 bits.
  """
  if kind_of_device() == "CPU":
    yield
    return
  enable = tf.config.experimental.enable_tensor_float_32_execution
  enable(True)
  try:
    yield
  finally:
    enable(False)


def _problem_of(gpu: tf.config.PhysicalDevice) -> str:
  """Returns why TensorFlow cannot compute on a GPU, or nothing."""
  details = tf.config.experimental.get_device_details(gpu)
  capability = details.get("compute_capability")
  if not capability:
    return ""
  name = details.get("device_name", gpu.name)
  return problem_of_card(name, capability, tf.sysconfig.get_build_info())


def _reason_for_none() -> str:
  """Returns why TensorFlow finds no GPU, and the remedy."""
  if not tf.test.is_built_with_cuda():
    return "its package for this system is built without CUDA"
  return reason_for_no_gpu()


def _start_gpus() -> None:
  """Starts TensorFlow if it sees GPUs.

  Raises InputError: it cannot start them.
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
  """Returns a strategy over devices that it sets up.

  Call it before TensorFlow places anything on them.

  Args:
    num_replicas: how many GPUs or, where there is none, logical CPU devices.
    or_fewer: take a divisor of that number where TensorFlow has started with
      fewer CPU devices, as after `charlm.load`.

  Raises InputError: TensorFlow has started with fewer CPU devices, or GPUs
    cannot be started.
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
    # About a thread for each core, over all devices.
    threads = max(1, num_cores() // num_replicas)
    tf.config.threading.set_intra_op_parallelism_threads(threads)
  except RuntimeError as error:
    started = len(tf.config.list_logical_devices("CPU"))
    if num_replicas > started and not or_fewer:
      raise InputError(
        f"num_replicas is {num_replicas}, but TensorFlow has started with "
        f"{started} CPU devices: train in a new process, or leave num_replicas "
        "out"
      ) from error
    num_replicas = largest_divisor(num_replicas, started)
  # In shared memory a plain sum is enough. Collective operations, the default,
  # would allow only one number of replicas in a process.
  plain_sum = tf.distribute.ReductionToOneDevice()
  devices = [f"CPU:{i}" for i in range(num_replicas)]
  return tf.distribute.MirroredStrategy(devices, cross_device_ops=plain_sum)


def first_sum(add: Callable[[], _Result], over: str) -> _Result:
  """Returns the result of the first sum over some devices, which may hang.

  Raises HungError: GPUs do not answer within three minutes.
  """
  if kind_of_device() == "CPU":
    return add()
  future: concurrent.futures.Future[_Result] = concurrent.futures.Future()

  def run() -> None:
    """Adds, and keeps the sum or the error."""
    try:
      future.set_result(add())
    except BaseException as error:  # raised again below
      future.set_exception(error)

  # A call of NCCL that hangs cannot be ended: it is left behind.
  threading.Thread(target=run, daemon=True).start()
  try:
    return future.result(_ANSWER_SECONDS)
  except TimeoutError as error:
    raise HungError(
      f"the first sum over {over} did not come within {_ANSWER_SECONDS:g} "
      f"seconds: {NCCL_REMEDY}, or {BIOS_REMEDY}, or train on one GPU, "
      "with --num_replicas=1"
    ) from error


def gpu_names() -> list[str]:
  """Returns the names of the GPUs that TensorFlow uses."""
  details = tf.config.experimental.get_device_details
  gpus = tf.config.get_visible_devices("GPU")
  return [details(gpu).get("device_name", gpu.name) for gpu in gpus]


def use_first_gpus(number: int) -> None:
  """Hides all other GPUs: TensorFlow would take memory of each."""
  # Once TensorFlow has started, as after `charlm.load`, it is too late.
  with contextlib.suppress(RuntimeError):
    gpus = tf.config.get_visible_devices("GPU")
    tf.config.set_visible_devices(gpus[:number], "GPU")


def most_gpus() -> int:
  """Returns how many GPUs TensorFlow can compute on, used or not."""
  gpus = tf.config.list_physical_devices("GPU")
  return len([gpu for gpu in gpus if not _problem_of(gpu)])


def largest_divisor(number: int, at_most: int) -> int:
  """Returns the largest divisor of `number` that is not above `at_most`."""
  return max(d for d in range(1, at_most + 1) if number % d == 0)
