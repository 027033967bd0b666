"""Processes on several hosts that train together, and exchange messages.

They are called workers, and all run the same program; the first is the chief.
TensorFlow's `MultiWorkerMirroredStrategy` connects them. A process that trains
without others is the chief of a cluster of one.
"""

import contextlib
import json
import os
import re
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np
import tensorflow as tf

from charlm.errors import DivergedError, HungError, InputError, LostRunError
from charlm.system.choices import COLLECTIVES
from charlm.system.devices import (
  NCCL_REMEDY,
  check_replicas,
  create_strategy,
  use_first_gpus,
)
from charlm.system.process import say
from charlm.system.signals import INTERRUPTED, TERMINATED, StopRequest

_ROLES = ("chief", "worker")  # in the order of their workers
_CHUNK = 2**16  # numbers in one sum: any message takes little memory
# The port of a SLURM job's first task: below those that systems give to
# outgoing connections.
_FIRST_PORT, _NUM_PORTS = 10_000, 20_000
_ENOUGH_GPUS = 10**4
_HERE, _ALL_HERE = b"h", b"a"  # a worker to the chief, the chief to a worker
_ANSWER_SECONDS, _PAUSE_SECONDS = 5.0, 0.2
# What TensorFlow raises when a worker is gone or does not answer.
_LOST = (
  tf.errors.UnavailableError,
  tf.errors.DeadlineExceededError,
  tf.errors.AbortedError,
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

  def exchange(self, value: _Value) -> list[_Value]:
    """Returns what each worker passes to this call, in their order.

    All workers must call it, with values that take less than 16 MB of JSON.

    Raises HungError: the sums, of which the values are made, are garbage.
    """
    if self.num_workers == 1:
      return [value]
    message = json.dumps(value).encode()
    mine = np.arange(self.num_workers) == self.index
    sizes = self.sum(np.where(mine, len(message), 0))
    try:
      rows = np.zeros([self.num_workers, sizes.max()], np.uint8)
      rows[self.index, : len(message)] = np.frombuffer(message, np.uint8)
      rows = self.sum(rows.ravel()).astype(np.uint8).reshape(rows.shape)
      texts = [bytes(row[:n]) for row, n in zip(rows, sizes, strict=True)]
      return [json.loads(text) for text in texts]
    except ValueError as error:
      raise HungError(
        f"a sum over the workers is wrong: {NCCL_REMEDY}"
      ) from error

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

  def agree(self, steps: int, stop: StopRequest) -> int:
    """Returns how many steps to take: the chief's, or 0 if a signal came.

    All workers must call it. Where any of them had a signal, all note it.
    """
    code = stop.exit_code
    numbers = [steps * self.is_chief, code == TERMINATED, code == INTERRUPTED]
    steps, terminated, interrupted = self.sum(numbers).tolist()
    if terminated or interrupted:
      stop.exit_code = TERMINATED if terminated else INTERRUPTED
      return 0
    return steps

  @contextlib.contextmanager
  def together(self) -> Iterator[None]:
    """Waits at the end for the others; an error of any worker ends all.

    The block must not exchange anything.

    Raises InputError: another worker met bad input.
    """
    try:
      yield
    except (InputError, OSError) as error:
      self.exchange(str(error) or type(error).__name__)
      if isinstance(error, OSError):  # the others raise InputError
        self._let_others_fetch()
      raise
    for index, message in enumerate(self.exchange("")):
      if message:
        raise InputError(f"{self.name(index)} ended: {message}")

  @contextlib.contextmanager
  def watched(self) -> Iterator[None]:
    """Waits at the end for the others, and tells of one that is lost.

    Raises LostRunError: a worker ended, or does not answer.
    """
    try:
      yield
      self.sum([0])
      self._let_others_fetch()
    except (InputError, DivergedError):  # all raise it
      self._let_others_fetch()
      raise
    except _LOST as error:
      if self.num_workers == 1:
        raise
      others = set(range(self.num_workers)) - {self.index}
      named = others & {int(i) for i in re.findall(r"/task:(\d+)", str(error))}
      if self.num_workers == 2:
        named = others
      name = self.name(min(named)) if named else "another worker"
      raise LostRunError(
        f"{name} was lost ({_first_sentence(error)}): what is saved is whole; "
        "start all workers again to go on"
      ) from error

  def _let_others_fetch(self) -> None:
    """Returns when the others have the last sum, or end.

    A worker may have a sum while another still fetches it from there: once one
    more returns, all have the last one's.
    """
    with contextlib.suppress(tf.errors.OpError):
      self.sum([0])


def create_cluster(num_replicas: int, batch_size: int) -> Cluster:
  """Connects the workers that the environment names; waits for all of them.

  Without `TF_CONFIG`, and outside a SLURM step of several tasks, the cluster
  has one worker. While it waits, Ctrl-C and SIGTERM end the process.

  Args:
    num_replicas: of each worker, 0 for all its GPUs or one CPU device. Without
      other workers, what `create_strategy` takes.
    batch_size: global.

  Raises:
    InputError: no such cluster, or replicas that cannot be had.
    LostRunError: TensorFlow cannot connect the workers.
  """
  addresses, index = find_workers()
  if len(addresses) < 2:
    return Cluster(create_strategy(num_replicas, batch_size))
  _choose_gpus(num_replicas, batch_size, len(addresses))
  others = [address for i, address in enumerate(addresses) if i != index]
  here = f"index {index}, of {len(addresses)} workers, at {addresses[index]}"
  say(f"worker   {here}; waits for {', '.join(others)}\n")
  try:
    _wait_for_workers(addresses, index)
  except OSError as error:
    raise InputError(
      f"{addresses[index]}: {error}: end the program that uses the port, or "
      "give another port"
    ) from error
  experimental = tf.distribute.experimental
  options = experimental.CommunicationOptions(implementation=COLLECTIVES.here)
  try:
    strategy = tf.distribute.MultiWorkerMirroredStrategy(
      tf.distribute.cluster_resolver.TFConfigClusterResolver(), options
    )
  except tf.errors.OpError as error:
    raise LostRunError(
      f"the workers could not be connected ({_first_sentence(error)}): start "
      "all of them again"
    ) from error
  # TensorFlow has put a handler of its own in the place of Python's, which is
  # put back.
  signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))
  return Cluster(strategy, addresses, index)


def _wait_for_workers(addresses: list[str], index: int) -> None:
  """Returns when all workers run.

  TensorFlow would wait, too, but SIGTERM does not end its wait. The chief calls
  the others at the ports that TensorFlow is to use, all again until all answer.

  Raises OSError: this worker's port is in use.
  """
  places = [address.rpartition(":") for address in addresses]
  hosts = [host.strip("[]") for host, _, _ in places]
  ports = [int(port) for _, _, port in places]
  both = socket.has_dualstack_ipv6()
  family = socket.AF_INET6 if both else socket.AF_INET
  with socket.create_server(
    ("", ports[index]), family=family, dualstack_ipv6=both
  ) as server:
    while index == 0:
      with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
        answered = []
        for address in zip(hosts[1:], ports[1:], strict=True):
          other = socket.create_connection(address, _ANSWER_SECONDS)
          answered.append(stack.enter_context(other))
          if other.recv(1) != _HERE:
            raise OSError("another program uses the port")
        for other in answered:
          other.sendall(_ALL_HERE)
        return
      time.sleep(_PAUSE_SECONDS)
    while True:
      chief, _ = server.accept()
      with contextlib.suppress(OSError), chief:
        # The chief answers within seconds of each worker, or calls again.
        chief.settimeout(_ANSWER_SECONDS * len(addresses))
        chief.sendall(_HERE)
        if chief.recv(1) == _ALL_HERE:
          return


def find_workers() -> tuple[list[str], int]:
  """Returns the addresses of all workers, and which of them this one is.

  Without `TF_CONFIG`, it sets that variable from SLURM's, for TensorFlow.

  Raises InputError: what the environment says is no cluster.
  """
  if os.environ.get("SLURM_STEP_NUM_TASKS", "1") != "1":
    os.environ.setdefault("TF_CONFIG", _slurm_config())
  resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
  try:
    roles = resolver.cluster_spec().as_dict()
    if not roles:
      return [], 0
    addresses = [a for role in _ROLES for a in roles.pop(role, ())]
    if roles:
      raise ValueError(f"a role is not chief or worker: {min(roles)}")
    own = resolver.cluster_spec().task_address(
      resolver.task_type, resolver.task_id
    )
    return addresses, addresses.index(own)
  except Exception as error:  # rubbish raises all kinds
    raise InputError(
      f"TF_CONFIG does not describe a cluster ({type(error).__name__}: "
      f'{error}): give {{"cluster": {{"worker": ["HOST:PORT", "HOST:PORT"]}}, '
      '"task": {"type": "worker", "index": 0}}'
    ) from error


def _slurm_config() -> str:
  """Returns the `TF_CONFIG` of a task of SLURM.

  Raises InputError: SLURM's variables do not describe a cluster.
  """
  try:
    resolver = tf.distribute.cluster_resolver.SlurmClusterResolver(
      port_base=_FIRST_PORT + int(os.environ["SLURM_JOB_ID"]) % _NUM_PORTS,
      # SLURM itself shows each task its GPUs alone. The resolver needs some
      # number of them, at least as large as that of the tasks.
      gpus_per_node=_ENOUGH_GPUS,
      gpus_per_task=1,
      auto_set_gpu=False,
    )
    addresses = resolver.cluster_spec().as_dict()["worker"]
    # Not by SLURM_PROCID: the resolver sorts the hosts in another way.
    host, place = os.environ["SLURMD_NODENAME"], os.environ["SLURM_LOCALID"]
    here = [each for each in addresses if each.startswith(f"{host}:")]
    task = {"type": "worker", "index": addresses.index(here[int(place)])}
  except (RuntimeError, LookupError, ValueError) as error:
    raise InputError(
      f"SLURM's variables do not describe a cluster ({type(error).__name__}: "
      f"{error}): start the workers by srun, or set TF_CONFIG"
    ) from error
  return json.dumps({"cluster": {"worker": addresses}, "task": task})


def _first_sentence(error: tf.errors.OpError) -> str:
  return re.split(r"\.\s|\n", error.message)[0]


def _choose_gpus(num_replicas: int, batch_size: int, num_workers: int) -> None:
  """Makes as many GPUs visible as replicas are asked for.

  Raises InputError: a number of replicas that cannot be had.
  """
  gpus = tf.config.get_visible_devices("GPU")
  # TensorFlow gives each worker one CPU device.
  at_most = len(gpus) or 1
  check_replicas(
    num_replicas=num_replicas or at_most,
    at_most=at_most,
    batch_size=batch_size,
    num_workers=num_workers,
  )
  if num_replicas and gpus:
    use_first_gpus(num_replicas)
