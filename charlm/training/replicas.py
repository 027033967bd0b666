"""Chooses the number of replicas, and compares their weights."""

import numpy as np
import tensorflow as tf

from charlm.config import Config
from charlm.errors import InputError, LostRunError
from charlm.system.devices import largest_divisor, num_cores
from charlm.training.trainer import Trainer, xla_compiles_steps
from charlm.training.workers import Cluster

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
    only_one = several or one_replica_is_faster(config, gru)
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


def one_replica_is_faster(config: Config, gru: str) -> bool:
  """Returns whether one replica on a CPU is faster than one per core."""
  compiled = gru != "keras" and xla_compiles_steps(config, num_replicas=1)
  few_windows = compiled or config.batch_size <= _FEW_WINDOWS
  return few_windows or config.rnn_units >= _MANY_UNITS[config.precision]


class Replicas:
  """Compares the replicas of a trainer; does nothing for a single one.

  All workers must make each call together.
  """

  def __init__(self, cluster: Cluster, trainer: Trainer) -> None:
    """Takes this worker's trainer."""
    self._cluster, self._trainer = cluster, trainer
    self._compiled = tf.function(self._checksums, [], autograph=False)

  def check_weights(self) -> None:
    """Checks that weights and optimizer are equal on all replicas.

    Raises LostRunError: they differ.
    """
    cluster = self._cluster
    if cluster.strategy.num_replicas_in_sync == 1:
      return
    results = cluster.strategy.experimental_local_results(self._compiled())
    checksums = [int(result) % 2**64 for result in results]
    first = cluster.broadcast(checksums[0])
    if any(cluster.sum([checksums != [first] * len(checksums)])):
      cluster.let_others_fetch()
      raise LostRunError(
        f"the weights of the replicas differ after step {self._trainer.step}, "
        "which is not saved: start again to resume, on GPUs with "
        "NCCL_P2P_DISABLE=1 in the environment, or with one worker and "
        "--num_replicas=1"
      )

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
