"""The devices that a run computes on, and the strategy over them."""

import tensorflow as tf

from charlm.errors import InputError
from charlm.system.machine import num_cores


def create_strategy(
  num_replicas: int, batch_size: int
) -> tf.distribute.MirroredStrategy:
  """Sets up the devices, before TensorFlow places anything on them.

  Args:
    num_replicas: how many GPUs or, where there is none, logical CPU devices; 0
      for all GPUs or one device per core, lowered to a divisor of the batch
      size.
    batch_size: global; `num_replicas`, unless 0, must divide it.

  Raises InputError: a number of replicas that cannot be had.
  """
  gpus = tf.config.list_physical_devices("GPU")
  # All replicas take the same number of rows: a remainder would be left out.
  if num_replicas and batch_size % num_replicas:
    raise InputError(
      f"num_replicas is {num_replicas}, which does not divide the batch size "
      f"{batch_size}: change one of the two"
    )
  if gpus and num_replicas > len(gpus):
    raise InputError(
      f"num_replicas is {num_replicas}, but {len(gpus)} GPUs are visible: "
      "lower it"
    )
  at_most = len(gpus) or num_cores()
  num_replicas = num_replicas or largest_divisor(batch_size, at_most)
  kind = "GPU" if gpus else "CPU"
  devices = [f"{kind}:{i}" for i in range(num_replicas)]
  if gpus:
    let_gpu_memory_grow()
    return tf.distribute.MirroredStrategy(devices)
  _make_cpu_devices(num_replicas)
  # In shared memory a plain sum is enough. Collective operations, the default,
  # would allow only one number of replicas in a process.
  plain_sum = tf.distribute.ReductionToOneDevice()
  return tf.distribute.MirroredStrategy(devices, cross_device_ops=plain_sum)


def let_gpu_memory_grow() -> None:
  """Leaves unneeded GPU memory to other processes, such as a sampler."""
  for gpu in tf.config.list_physical_devices("GPU"):
    tf.config.experimental.set_memory_growth(gpu, True)


def make_deterministic() -> None:
  """Makes a GPU repeat its results bit for bit, at the cost of some speed."""
  tf.config.experimental.enable_op_determinism()
  # TensorFloat-32, which only some GPUs have, rounds the factors of a product
  # to 10 bits of mantissa.
  tf.config.experimental.enable_tensor_float_32_execution(False)


def largest_divisor(number: int, at_most: int) -> int:
  """Returns the largest divisor of `number` that is not above `at_most`."""
  return max(d for d in range(1, at_most + 1) if number % d == 0)


def _make_cpu_devices(num_devices: int) -> None:
  cpu = tf.config.list_physical_devices("CPU")[0]
  device = tf.config.LogicalDeviceConfiguration()
  try:
    tf.config.set_logical_device_configuration(cpu, [device] * num_devices)
    # The replicas run side by side, each on its share of the cores.
    threads = max(1, num_cores() // num_devices)
    tf.config.threading.set_intra_op_parallelism_threads(threads)
  except RuntimeError as error:
    # TensorFlow has started already: its devices must do.
    if len(tf.config.list_logical_devices("CPU")) < num_devices:
      raise InputError(
        f"num_replicas is {num_devices}, but TensorFlow has started with fewer "
        "CPU devices: create the strategy first"
      ) from error
