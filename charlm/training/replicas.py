"""Chooses the number of replicas, and checks that all compute the same."""

import numpy as np
import tensorflow as tf

from charlm.config import Config
from charlm.errors import DivergedError, InputError
from charlm.system.devices import (
  NCCL_REMEDY,
  first_sum,
  kind_of_device,
  largest_divisor,
  num_cores,
)
from charlm.training.trainer import (
  WRONG_SUMS_REMEDY,
  Trainer,
  xla_compiles_steps,
)
from charlm.training.workers import Cluster

_ONE = "train with one worker and --num_replicas=1"
_REMEDY = f"{_ONE}, or {WRONG_SUMS_REMEDY}"
# The test tensors repeat 1 to 31: with up to 1,024 replicas, their sums stay
# below 2**24, and so are exact in float32.
_PERIOD = 31
# Maps the bytes of a number to the integer type of its checksum. GPUs have
# kernels for these types, but keep int32 in the memory of the host.
_BITS = {1: tf.uint8, 2: tf.uint16, 4: tf.uint32, 8: tf.int64}
# On a CPU, a step is many small operations, which each replica repeats. Up to
# this many windows per step, one replica on all cores is fastest.
_FEW_WINDOWS = 4
# The windows per step that another GPU must get. With several GPUs, the host
# takes three times as long per step as with one (docs/machines.md).
GPU_WINDOWS = 128
# For each precision, the number of units from which one replica keeps all cores
# of a CPU busy. More replicas take more memory, since each has a copy of the
# weights, and rarely less time (recipes/LOG.md).
_MANY_UNITS = {"float32": 1024, "bfloat16": 2048}


def number_of_replicas(
  config: Config, *, asked: int, gru: str, num_workers: int = 1
) -> int:
  """Returns the number of replicas on each worker.

  By default, it is the number of GPUs that get 128 windows each, at least one.
  On a CPU, it is one per core, or a single one if that is faster or if there
  are several workers.

  Args:
    config: gives windows, units, and precision.
    asked: `--num_replicas`; 0 for the default.
    gru: `--gru`.
    num_workers: the number of workers in the cluster.

  Raises InputError: there are fewer devices, or the replicas do not divide the
    batch.
  """
  several = num_workers > 1
  num_gpus = len(tf.config.get_visible_devices("GPU"))
  windows = config.batch_size // num_workers
  if num_gpus:
    most = min(num_gpus, max(1, windows // GPU_WINDOWS))
  else:
    only_one = several or reason_for_one_replica(config, gru)
    most = 1 if only_one else num_cores()
  number = asked or largest_divisor(windows, most)
  # TensorFlow gives each of several workers one CPU device.
  at_most = num_gpus or (1 if several else number)
  if number > at_most:
    where = " on each worker" if several else ""
    raise InputError(
      f"num_replicas is {number}, above the number of devices{where}, "
      f"{at_most}: lower it"
    )
  # Each replica takes the same number of rows: a remainder would be left out.
  total = number * num_workers
  if config.batch_size % total:
    raise InputError(
      f"the number of replicas, {total}, does not divide the batch size "
      f"{config.batch_size}: change one of the two"
    )
  return number


def reason_for_one_replica(config: Config, gru: str) -> str:
  """Returns why one replica is faster than one per core, or an empty string."""
  if kind_of_device() == "GPU":
    return ""
  compiled = gru != "keras" and xla_compiles_steps(config, num_replicas=1)
  if compiled or config.batch_size <= _FEW_WINDOWS:
    return "few windows"
  many = config.rnn_units >= _MANY_UNITS[config.precision]
  return "many units" if many else ""


class Replicas:
  """Checks the replicas of a trainer; does nothing for a single one.

  All workers must make each call together.
  """

  def __init__(self, cluster: Cluster, trainer: Trainer) -> None:
    """Takes this worker's trainer."""
    self._cluster, self._trainer = cluster, trainer
    self._several = cluster.strategy.num_replicas_in_sync > 1
    self._compiled_sums = tf.function(
      self._wrong_sums, [tf.TensorSpec([], tf.float32)], autograph=False
    )
    self._compiled_checksums = tf.function(self._checksums, [], autograph=False)

  def check_start(self) -> None:
    """Checks that sums over replicas are right, and that all start equal.

    It sums known numbers in the gradients' shapes, and compares the variables.

    Raises:
      InputError: a sum is wrong, or variables differ.
      HungError: the GPUs do not answer.
    """
    if not self._several:
      return
    if kind_of_device() == "GPU":
      self._make_first_sum()
    # Not 1: a buffer that a broken sum never wrote to could still hold the
    # inputs of the replicas.
    wrong = self._local(self._compiled_sums(2.0))
    if bad := self._named([count > 0 for count in wrong]):
      raise InputError(
        f"{', '.join(bad)} got a wrong sum over the replicas "
        f"{', '.join(self._names())}: {_REMEDY}"
      )
    if different := self._different():
      raise InputError(f"{different} begins with other values: {_REMEDY}")

  def check_weights(self) -> None:
    """Checks that weights and optimizer are equal on all replicas.

    Raises DivergedError: they differ.
    """
    if self._several and (different := self._different()):
      raise DivergedError(
        f"the weights or the optimizer of {different} differ from those of "
        f"{self._names()[0]} after step {self._trainer.step}, which is not "
        f"saved: {_REMEDY}; the next start resumes the run"
      )

  def _make_first_sum(self) -> None:
    """Makes the first sum over the GPUs of this process.

    Raises:
      InputError: the sum fails.
      HungError: the GPUs do not answer.
    """
    names = ", ".join(self._names())
    try:
      first_sum(lambda: self._local(self._compiled_sums(0.0)), names)
    except tf.errors.OpError as error:
      if self._cluster.num_workers > 1:  # a worker may be lost
        raise
      raise InputError(
        f"the first sum over {names} failed ({error.message}): {NCCL_REMEDY}, "
        f"or {_ONE}"
      ) from error

  def _wrong_sums(self, offset: tf.Tensor) -> tf.distribute.DistributedValues:
    """Returns, for each replica, the count of wrong numbers in test sums.

    Replica i contributes (i + offset) times a pattern.
    """

    def count() -> tf.Tensor:
      """Counts the wrong numbers in one replica's sums."""
      context = tf.distribute.get_replica_context()
      total = context.num_replicas_in_sync
      own = tf.cast(context.replica_id_in_sync_group, tf.float32) + offset
      patterns = self._patterns()
      # Integers below 2**24, whose sums are exact in any order.
      sums = context.all_reduce("SUM", [own * x for x in patterns])
      factor = total * (total - 1) / 2 + total * offset
      pairs = zip(sums, patterns, strict=True)
      wrong = [tf.math.count_nonzero(x != factor * y) for x, y in pairs]
      return tf.add_n(wrong)

    return self._cluster.strategy.run(count)

  def _patterns(self) -> list[tf.Tensor]:
    """Returns a pattern in the shape of each gradient."""
    shapes = [v.shape for v in self._trainer.model.trainable_variables]
    return [_pattern(shape) for shape in shapes]

  def _different(self) -> str:
    """Names the replicas, or workers, whose variables differ from the first."""
    checksums = self._local(self._compiled_checksums())
    first = self._cluster.broadcast(checksums[0])
    return ", ".join(self._named([x % 2**64 != first for x in checksums]))

  def _checksums(self) -> tf.distribute.DistributedValues:
    """Returns the checksum of each replica's weights and optimizer.

    A change of a single number always changes the checksum, any other change
    almost always.
    """
    trainer = self._trainer
    variables = [*trainer.model.variables, *trainer.optimizer.variables]

    def checksum() -> tf.Tensor:
      """Returns the checksum of one replica's copies, an int64 `[]`."""
      return tf.add_n(
        [
          _checksum(tf.convert_to_tensor(variable.value), seed)
          for seed, variable in enumerate(variables)
        ]
      )

    return self._cluster.strategy.run(checksum)

  def _local(self, numbers: tf.distribute.DistributedValues) -> list[int]:
    """Waits for the numbers of this worker's replicas, and returns them."""
    results = self._cluster.strategy.experimental_local_results(numbers)
    return [int(number) for number in results]

  def _names(self) -> list[str]:
    """Returns names for messages: of the workers or, for one, its replicas."""
    cluster = self._cluster
    if cluster.num_workers == 1:
      return self._trainer.devices
    return [cluster.name(index) for index in range(cluster.num_workers)]

  def _named(self, bad: list[bool]) -> list[str]:
    """Names the bad ones, given whether each replica of this worker is bad."""
    if self._cluster.num_workers > 1:
      bad = [count > 0 for count in self._cluster.gather(sum(bad))]
    named = zip(self._names(), bad, strict=True)
    return [name for name, is_bad in named if is_bad]


def _pattern(shape: tf.TensorShape) -> tf.Tensor:
  """Returns 1 to 31 over and over, as float32."""
  numbers = tf.range(1.0, _PERIOD + 1)
  size = shape.num_elements()
  return tf.reshape(tf.tile(numbers, [size // _PERIOD + 1])[:size], shape)


def _checksum(numbers: tf.Tensor, seed: int) -> tf.Tensor:
  """Sums the bits of all numbers, as integers, times fixed random factors."""
  bits = tf.cast(tf.bitcast(numbers, _BITS[numbers.dtype.size]), tf.int64)
  rows = tf.reshape(bits, [-1, bits.shape[-1] if bits.shape.rank else 1])
  by_row = tf.reduce_sum(rows * _odd_numbers(rows.shape[1], 2 * seed), 1)
  return tf.reduce_sum(by_row * _odd_numbers(rows.shape[0], 2 * seed + 1))


def _odd_numbers(size: int, seed: int) -> np.ndarray:
  """Returns random odd numbers, int64 `[size]`, determined by the seed.

  Modulo 2**64, an odd number times another one is zero only if that is zero.
  """
  limits = np.iinfo(np.int64)
  random = np.random.default_rng(seed)
  return random.integers(limits.min, limits.max, size) | 1
