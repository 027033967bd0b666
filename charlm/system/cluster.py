"""Processes on several hosts that train together, and exchange messages.

They are called workers; the first is the chief. TensorFlow's
`MultiWorkerMirroredStrategy` connects them. A process that trains without
others is the chief of a cluster of one.
"""

import contextlib
import json
import re
import signal
from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np
import tensorflow as tf
from tensorflow.python.eager import context as eager_context

from charlm.errors import DivergedError, LostRunError
from charlm.system.choices import COLLECTIVES
from charlm.system.cluster_config import ROLE, cluster_from_environment
from charlm.system.devices import check_replicas, create_strategy
from charlm.system.rendezvous import answers, wait_for_workers

_CHUNK = 2**16  # numbers in one sum: any message takes little memory
# Seconds after all are there, until TensorFlow gives up on their registration,
# and until SIGALRM ends a process that is not connected yet.
_REGISTERED_WITHIN, _CONNECTED_WITHIN = 40, 55
# What TensorFlow raises when a worker is gone or does not answer.
_LOST = (
  tf.errors.UnavailableError,
  tf.errors.DeadlineExceededError,
  tf.errors.AbortedError,
)
# What it raises then, but also for faults of this worker alone.
_PERHAPS_LOST = (
  tf.errors.CancelledError,
  tf.errors.FailedPreconditionError,
  tf.errors.InternalError,
)


_Value = TypeVar("_Value")


class Cluster:
  """The workers, as one of them sees them."""

  def __init__(
    self,
    strategy: tf.distribute.Strategy,
    addresses: Sequence[str] = ("",),
    index: int = 0,
  ) -> None:
    """Takes a strategy over the devices of all workers.

    Args:
      strategy: the devices.
      addresses: host and port of each worker, the chief's first; a single
        one, of any value, for a process without others.
      index: this worker's place among them.
    """
    self.strategy, self.addresses, self.index = strategy, addresses, index
    self.num_workers = len(addresses)  # 1 without a cluster
    self.is_chief = index == 0  # which writes the run's folder
    self._ended = False
    self._compiled_sum = tf.function(self._sum, [tf.TensorSpec([None])])

  def name(self, index: int) -> str:
    """Returns what a message calls a worker."""
    return f"worker {index} ({self.addresses[index]})"

  def sum(self, numbers: Sequence[int] | np.ndarray) -> np.ndarray:
    """Returns the sums `[N]` of the workers' numbers `[N]`.

    All workers must call it, with the same N: it returns when they have. Each
    sum must be below 2^24, to be exact in float32.
    """
    array = np.asarray(numbers, np.int64)
    if self.num_workers == 1 or not array.size:
      return array
    # Of the gradients' type, which every kind of device can sum.
    array = array.astype(np.float32)
    chunks = [array[i : i + _CHUNK] for i in range(0, len(array), _CHUNK)]
    sums = [self._compiled_sum(chunk).numpy() for chunk in chunks]
    return np.concatenate(sums).astype(np.int64)

  def _sum(self, numbers: tf.Tensor) -> tf.Tensor:
    def add(numbers: tf.Tensor) -> tf.Tensor:
      """Adds up the workers' numbers; runs on each replica."""
      context = tf.distribute.get_replica_context()
      # A worker's first replica speaks for it.
      per_worker = context.num_replicas_in_sync // self.num_workers
      mine = context.replica_id_in_sync_group == self.index * per_worker
      numbers = tf.where(mine, numbers, tf.zeros_like(numbers))
      return context.all_reduce("SUM", numbers)

    sums = self.strategy.run(add, (numbers,))
    return self.strategy.experimental_local_results(sums)[0]

  def final_barrier(self) -> None:
    """A barrier that each worker calls before it ends.

    One worker may have the result of a sum while others are still fetching it
    from that worker. Once a second sum returns, all have the first one's.
    """
    # A worker that fails may get here twice, from two error handlers: only the
    # first call counts.
    if not self._ended:
      self._ended = True
      with contextlib.suppress(tf.errors.OpError):  # the others have ended
        self.sum([0])

  def exchange(self, value: _Value) -> list[_Value]:
    """Returns what each worker passes to this call, in their order.

    All workers must call it, with values that take less than 16 MB of JSON
    without escapes: a vocabulary of all of Unicode takes 9 MB.
    """
    text = json.dumps(value, ensure_ascii=False)
    message = text.encode(errors="surrogatepass")  # which `loads` has, too
    mine = np.arange(self.num_workers) == self.index
    sizes = self.sum(np.where(mine, len(message), 0))
    rows = np.zeros([self.num_workers, sizes.max()], np.uint8)
    rows[self.index, : len(message)] = np.frombuffer(message, np.uint8)
    rows = self.sum(rows.ravel()).astype(np.uint8).reshape(rows.shape)
    return [json.loads(bytes(r[:n])) for r, n in zip(rows, sizes, strict=True)]

  def copy_from_chief(self, variables: Sequence[tf.Variable]) -> None:
    """Gives variables the values, bit for bit, that they have on the chief.

    All workers must call it, with variables of at least two bytes a number: the
    values are sent as words of 16 bits, whose sums are exact.
    """
    if self.num_workers == 1:
      return
    for variable in variables:
      value = np.asarray(variable)
      words = np.frombuffer(value.tobytes(), np.uint16)
      words = self.sum(words if self.is_chief else np.zeros_like(words))
      data = words.astype(np.uint16).tobytes()
      variable.assign(np.frombuffer(data, value.dtype).reshape(value.shape))

  @contextlib.contextmanager
  def watched(self) -> Iterator[None]:
    """Turns TensorFlow's error about a lost worker into one that names it.

    Raises LostRunError: a worker ended, or does not answer.
    """
    try:
      yield
    except DivergedError:
      # If all raise it together, as where replicas differ, none may end while
      # another still fetches the sum that says so. If the chief alone raises
      # it, it has called `final_barrier` already, and this call does nothing.
      self.final_barrier()
      raise
    except (*_LOST, *_PERHAPS_LOST) as error:
      if self.num_workers == 1:
        raise
      name = self._lost(str(error))
      if not name and isinstance(error, _PERHAPS_LOST):
        raise
      if not name and self.num_workers == 2:
        # One that listens, but does nothing else, leaves no trace.
        name = self.name(1 - self.index)
      raise LostRunError(
        f"{name or 'another worker'} was lost: what is saved is whole; start "
        "all workers again to go on"
      ) from error

  def _lost(self, message: str) -> str:
    """Names the worker that an error is about, or one that does not answer."""
    others = [i for i in range(self.num_workers) if i != self.index]
    tasks = set(re.findall(r"/task:(\d+)", message))
    named = {i: re.escape(self.addresses[i]) + r"\b" for i in others}
    found = [i for i in others if str(i) in tasks]
    found = found or [i for i in others if re.search(named[i], message)]
    found = found or [i for i in others if not answers(self.addresses[i])]
    return self.name(found[0]) if found else ""


def create_cluster(num_replicas: int, batch_size: int, timeout: int) -> Cluster:
  """Connects the workers that the environment names; waits for all of them.

  Without `TF_CONFIG`, and outside a SLURM step of several tasks, the cluster
  has one worker.

  Args:
    num_replicas: of each worker, 0 for all its GPUs or one CPU device. Without
      other workers, what `create_strategy` takes.
    batch_size: global.
    timeout: seconds to wait for the other workers.

  Raises:
    InputError: no such cluster, replicas that cannot be had, or workers that
      did not connect.
    LostRunError: TensorFlow cannot connect them.
  """
  if not (found := cluster_from_environment()):
    return Cluster(create_strategy(num_replicas, batch_size))
  addresses, index = found
  gpus = _choose_gpus(num_replicas, batch_size, len(addresses))
  resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
    tf.train.ClusterSpec({ROLE: addresses}),
    task_type=ROLE,
    task_id=index,
    num_accelerators={"GPU": len(gpus)},
    rpc_layer="grpc",
  )
  experimental = tf.distribute.experimental
  options = experimental.CommunicationOptions(implementation=COLLECTIVES.here)
  devices = f"{len(gpus)} GPUs" if gpus else "no GPU"
  wait_for_workers(addresses, index, devices, timeout)
  _limit_registration(len(addresses))
  # A chief that freezes just after it registered is not noticed: SIGALRM then
  # ends this process.
  signal.alarm(_CONNECTED_WITHIN)
  try:
    strategy = tf.distribute.MultiWorkerMirroredStrategy(resolver, options)
  except tf.errors.OpError as error:
    words = re.split(r"\.\s|\n", error.message)[0]
    raise LostRunError(
      f"the workers could not be connected ({words}): start all of them again"
    ) from error
  finally:
    signal.alarm(0)
  # TensorFlow has put a handler of its own in the place of Python's.
  signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))
  return Cluster(strategy, addresses, index)


def _limit_registration(num_workers: int) -> None:
  """Lets TensorFlow give up if it loses a worker while it connects them all."""
  # It would wait for an hour, in a call that lets no signal handler run. There
  # is no public name for this. A strategy does not configure the service if
  # that was done before.
  job = eager_context.coordination_config_pb2.CoordinatedJob
  eager = eager_context.context()
  eager.configure_coordination_service(
    "standalone",
    f"/job:{ROLE}/replica:0/task:0",
    cluster_register_timeout_in_ms=1000 * _REGISTERED_WITHIN,
    coordinated_jobs=[job(name=ROLE, num_tasks=num_workers)],
  )
  # Without it the chief waits for the others later, and for an hour.
  eager._coordination_service_config.cluster_register_with_barrier = True


def _choose_gpus(
  num_replicas: int, batch_size: int, num_workers: int
) -> list[tf.config.PhysicalDevice]:
  """Makes as many GPUs visible as replicas are asked for; returns them.

  Raises InputError: a number of replicas that cannot be had.
  """
  gpus = tf.config.get_visible_devices("GPU")
  # TensorFlow gives each worker one CPU device.
  at_most = len(gpus) or 1
  check_replicas(num_replicas or at_most, at_most, batch_size, num_workers)
  if num_replicas and gpus:
    gpus = gpus[:num_replicas]
    tf.config.set_visible_devices(gpus, "GPU")
  return gpus
