"""Whether the replicas compute what they must: exact sums, equal weights."""

import hashlib

import tensorflow as tf

from charlm.errors import DivergedError, InputError
from charlm.system.cluster import Cluster
from charlm.training.trainer import WRONG_SUMS_REMEDY, Trainer

_REMEDY = f"train with one worker and --num_replicas=1, or {WRONG_SUMS_REMEDY}"
# The test tensors repeat 1 to 31: with up to 1,024 replicas, their sums stay
# below 2**24, and so are exact in float32.
_PERIOD = 31


class Replicas:
  """Checks the replicas of a trainer; does nothing for a single one."""

  def __init__(self, cluster: Cluster, trainer: Trainer) -> None:
    """Takes this worker's trainer; all workers make each call together."""
    self._cluster, self._trainer = cluster, trainer
    self._several = cluster.strategy.num_replicas_in_sync > 1

  def check_start(self) -> None:
    """Checks that replicas sum correctly and begin with equal values.

    The sums are of test tensors of the gradients' shapes, whose sums are known;
    the values are the weights and the optimizer's.

    Raises InputError: a sum is wrong, or values differ.
    """
    if not self._several:
      return
    names = self._names()
    compiled_wrong = tf.function(self._wrong, [tf.TensorSpec([], tf.float32)])
    # Other numbers the second time: a stale buffer could hold the first sum.
    for offset in (1.0, 2.0):
      wrong = compiled_wrong(offset)
      results = self._cluster.strategy.experimental_local_results(wrong)
      mine = [int(count) for count in results]
      counts = [x for theirs in self._cluster.exchange(mine) for x in theirs]
      if bad := [n for n, count in zip(names, counts, strict=True) if count]:
        raise InputError(
          f"{', '.join(bad)} got a wrong sum over the replicas "
          f"{', '.join(names)}: {_REMEDY}"
        )
    if pair := self._different():
      raise InputError(f"{pair} begin with different values: {_REMEDY}")

  def check_weights(self) -> None:
    """Checks that weights and optimizer are the same on all replicas.

    Raises DivergedError: they are not.
    """
    if self._several and (pair := self._different()):
      raise DivergedError(
        f"the weights or the optimizer of {pair} differ after step "
        f"{self._trainer.step}, which is not saved: {_REMEDY}; the next "
        "start resumes the run"
      )

  def _wrong(self, offset: tf.Tensor) -> tf.distribute.DistributedValues:
    """Returns, for each replica, how many numbers of test sums are wrong."""
    shapes = [v.shape for v in self._trainer.model.trainable_variables]

    def count() -> tf.Tensor:
      """Returns how many numbers of one replica's sums are wrong."""
      context = tf.distribute.get_replica_context()
      total = context.num_replicas_in_sync
      mine = tf.cast(context.replica_id_in_sync_group, tf.float32) + offset
      patterns = [_pattern(shape) for shape in shapes]
      # Integers below 2**24, whose sums are exact in any order.
      sums = context.all_reduce("SUM", [mine * x for x in patterns])
      factor = total * (total - 1) / 2 + total * offset
      wrong = [s != factor * x for s, x in zip(sums, patterns, strict=True)]
      return tf.add_n([tf.math.count_nonzero(each) for each in wrong])

    return self._cluster.strategy.run(count)

  def _different(self) -> str:
    """Names two replicas whose weights or optimizer differ, if any do."""
    strategy, trainer = self._cluster.strategy, self._trainer
    # Not the weights themselves, which would take long to exchange.
    hashes = [hashlib.sha256() for _ in trainer.devices]
    for variable in trainer.model.variables + trainer.optimizer.variables:
      copies = strategy.experimental_local_results(variable.value)
      for digest, copy in zip(hashes, copies, strict=True):
        digest.update(copy.numpy().tobytes())
    mine = [digest.hexdigest() for digest in hashes]
    digests = [x for theirs in self._cluster.exchange(mine) for x in theirs]
    names = self._names()
    others = [n for n, d in zip(names, digests, strict=True) if d != digests[0]]
    return f"{names[0]} and {others[0]}" if others else ""

  def _names(self) -> list[str]:
    """Returns what a message calls the replicas of all workers."""
    devices, cluster = self._trainer.devices, self._cluster
    if cluster.num_workers == 1:
      return devices
    names = map(cluster.name, range(cluster.num_workers))
    return [f"{device} of {name}" for name in names for device in devices]


def _pattern(shape: tf.TensorShape) -> tf.Tensor:
  """Returns 1 to 31 over and over, float32, the same everywhere."""
  numbers = tf.range(shape.num_elements()) % _PERIOD + 1
  return tf.reshape(tf.cast(numbers, tf.float32), shape)
