"""Workers: processes on several hosts that train together.

All of them run the same program, connected by TensorFlow's
`MultiWorkerMirroredStrategy`. Worker 0 is the chief: only it writes into the
run's folder, and the others read it. A process that trains alone is the chief
of a cluster of one.
"""

import contextlib
import hashlib
import json
import os
import re
import signal
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf

from charlm.errors import DivergedError, InputError, LostRunError
from charlm.runs.provenance import describe_start
from charlm.system.devices import Choice
from charlm.system.messages import say
from charlm.system.process import INTERRUPTED, TERMINATED, StopRequest
from charlm.training.prepare import Prepared

_ROLES = ("chief", "worker")  # workers are numbered in this order
# Ports for the tasks of SLURM jobs, below the ephemeral ports that systems give
# to outgoing connections.
_FIRST_PORT, _NUM_PORTS = 10_000, 20_000
_ENOUGH_GPUS = 10**4
_COLLECTIVES = Choice("RING", "NCCL")
_SUM_SIZE = 4  # or the number of workers, if that is larger
_CONNECT_SECONDS = 300
# The errors that TensorFlow raises when a worker is gone or does not answer.
_LOST = (
  tf.errors.UnavailableError,
  tf.errors.DeadlineExceededError,
  tf.errors.AbortedError,
  tf.errors.CancelledError,
  tf.errors.FailedPreconditionError,
  tf.errors.InternalError,
)

# Flags that may differ between workers: paths, whose contents are compared
# instead, and the port.
_OWN = (
  "run_dir",
  "corpus",
  "eval_corpus",
  "valid_corpus",
  "init_from",
  "profile_port",
)


class Cluster:
  """The cluster, as one of its workers sees it.

  All workers must make the same calls of `sum`, and of the methods that use it,
  in the same order.
  """

  def __init__(
    self,
    strategy: tf.distribute.Strategy,
    addresses: Sequence[str] = ("",),
    index: int = 0,
  ) -> None:
    """Makes a cluster, by default of a single worker.

    Args:
      strategy: a strategy over the devices of all workers.
      addresses: host and port of each worker, the chief's first; a single
        worker may have any.
      index: the index of this worker.
    """
    self.strategy, self.addresses, self.index = strategy, addresses, index
    self.num_workers = len(addresses)
    self.is_chief = index == 0
    self._compiled_sum = tf.function(self._sum, [tf.TensorSpec([None])])

  def name(self, index: int) -> str:
    """Returns a worker's name for messages."""
    return f"worker {index} ({self.addresses[index]})"

  def sum(self, numbers: Sequence[int]) -> list[int]:
    """Returns the sums `[N]` of the workers' numbers `[N]`.

    Each sum must be below 2^24, to be exact in float32.
    """
    if self.num_workers == 1:
      return list(numbers)
    # All sums have the same shape, so that the last sum of a worker that ends
    # alone matches whichever sum the others make. Their type is that of the
    # gradients, which every kind of device can sum.
    padded = np.zeros(max(_SUM_SIZE, self.num_workers), np.float32)
    padded[: len(numbers)] = numbers
    padded_sums = self._compiled_sum(padded).numpy()
    sums: list[int] = padded_sums[: len(numbers)].astype(np.int64).tolist()
    return sums

  def _sum(self, numbers: tf.Tensor) -> tf.Tensor:
    def add(numbers: tf.Tensor) -> tf.Tensor:
      """Adds up the workers' numbers; runs on each replica."""
      context = tf.distribute.get_replica_context()
      # The worker's first replica contributes them, the others zeros.
      per_worker = context.num_replicas_in_sync // self.num_workers
      is_first = context.replica_id_in_sync_group == self.index * per_worker
      numbers = tf.where(is_first, numbers, tf.zeros_like(numbers))
      return context.all_reduce("SUM", numbers)

    sums = self.strategy.run(add, (numbers,))
    return self.strategy.experimental_local_results(sums)[0]

  def gather(self, number: int) -> list[int]:
    """Returns the numbers that the workers pass to this call."""
    return self.sum(
      [number * (i == self.index) for i in range(self.num_workers)]
    )

  def broadcast(self, number: int) -> int:
    """Returns the number that the chief passes to this call, modulo 2^64."""
    shifts = (0, 16, 32, 48)
    sums = self.sum([(number >> n & 0xFFFF) * self.is_chief for n in shifts])
    return sum(part << n for n, part in zip(shifts, sums, strict=True))

  def agree(self, steps: int, stop: StopRequest) -> int:
    """Returns the chief's number of steps, or 0 if any worker got a signal.

    In that case, `stop` gets the exit code of the signal on all workers.
    """
    code = stop.exit_code
    numbers = [steps * self.is_chief, code == TERMINATED, code == INTERRUPTED]
    steps, terminated, interrupted = self.sum(numbers)
    if terminated or interrupted:
      stop.exit_code = TERMINATED if terminated else INTERRUPTED
      return 0
    return steps

  @contextlib.contextmanager
  def barrier(self) -> Iterator[None]:
    """Waits for all workers at the end; if one raises an error, all do.

    Raises InputError: another worker raised an error.
    """
    try:
      yield
    except (InputError, OSError) as error:
      self.gather(1)
      if isinstance(error, OSError):  # the others raise InputError
        self.let_others_fetch()
      raise
    refused = [self.name(i) for i, code in enumerate(self.gather(0)) if code]
    if refused:
      raise InputError(f"{', '.join(refused)} was refused: see its message")

  @contextlib.contextmanager
  def watched(self) -> Iterator[None]:
    """Waits for all workers at the end, and names one that was lost.

    Raises LostRunError: a worker ended, or does not answer.
    """
    try:
      yield
      self.sum([0])
      self.let_others_fetch()
    except (InputError, DivergedError):  # which all workers raise
      self.let_others_fetch()
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
        f"{name} was lost ({_first_sentence(error)}): start all workers again "
        "to resume from the latest checkpoint"
      ) from error

  def let_others_fetch(self) -> None:
    """Waits until the others have the last sum, or end.

    A worker can have a sum that another is still fetching from it. Once a
    further sum returns, all have the one before.
    """
    with contextlib.suppress(tf.errors.OpError):
      self.sum([0])


def connect(addresses: list[str], index: int) -> Cluster:
  """Connects this worker to the others, and waits for all of them.

  SIGALRM ends the process if they are not connected within five minutes.

  Args:
    addresses: as `find_workers` returns them; at least two.
    index: the index of this worker.

  Raises:
    LostRunError: TensorFlow cannot connect the workers.
  """
  others = [address for i, address in enumerate(addresses) if i != index]
  here = f"index {index}, of {len(addresses)} workers, at {addresses[index]}"
  say(f"worker   {here}; waits for {', '.join(others)}\n")
  experimental = tf.distribute.experimental
  options = experimental.CommunicationOptions(implementation=_COLLECTIVES.here)
  try:
    with _killed_by_default_signals():
      strategy = tf.distribute.MultiWorkerMirroredStrategy(
        tf.distribute.cluster_resolver.TFConfigClusterResolver(), options
      )
  except tf.errors.OpError as error:
    raise LostRunError(
      f"{addresses[index]} could not be connected with the other workers "
      f"({_first_sentence(error)}): check that no program uses this port, then "
      "start all workers again"
    ) from error
  return Cluster(strategy, addresses, index)


@contextlib.contextmanager
def _killed_by_default_signals() -> Iterator[None]:
  """Lets Ctrl-C, or five minutes, end TensorFlow's wait for other workers.

  TensorFlow waits for an hour, during which no Python signal handler runs, and
  installs its own handler of SIGTERM. So this needs the system's defaults.
  """
  interrupted = signal.signal(signal.SIGINT, signal.SIG_DFL)
  signal.alarm(_CONNECT_SECONDS)
  try:
    yield
  finally:
    signal.alarm(0)
    signal.signal(signal.SIGINT, interrupted or signal.SIG_DFL)
    # Restores Python's handler, which TensorFlow has replaced.
    signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))


def find_workers() -> tuple[list[str], int]:
  """Returns the addresses of all workers, and the index of this one.

  In a SLURM job without `TF_CONFIG`, it sets that variable for TensorFlow.

  Raises InputError: the environment variables do not describe a cluster.
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
  except Exception as error:  # malformed values raise all kinds
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
      # SLURM itself shows each task only its own GPUs. The resolver needs a
      # number that is at least the number of tasks.
      gpus_per_node=_ENOUGH_GPUS,
      gpus_per_task=1,
      auto_set_gpu=False,
    )
    addresses = resolver.cluster_spec().as_dict()["worker"]
    # Not SLURM_PROCID, since the resolver sorts the hosts differently.
    host, place = os.environ["SLURMD_NODENAME"], os.environ["SLURM_LOCALID"]
    on_host = [each for each in addresses if each.startswith(f"{host}:")]
    task = {"type": "worker", "index": addresses.index(on_host[int(place)])}
  except (RuntimeError, LookupError, ValueError) as error:
    raise InputError(
      f"SLURM's variables do not describe a cluster ({type(error).__name__}: "
      f"{error}): start the workers with srun, or set TF_CONFIG"
    ) from error
  return json.dumps({"cluster": {"worker": addresses}, "task": task})


def _first_sentence(error: tf.errors.OpError) -> str:
  return re.split(r"\.\s|\n", error.message)[0]


def check_alike(cluster: Cluster, prepared: Prepared, vocab: list[str]) -> None:
  """Checks that all workers have the same settings, and see the same run.

  Raises InputError: a worker differs from the chief.
  """
  options, resumes = prepared.options, prepared.run is not None
  start = describe_start(0, [])
  shared = {n: value for n, value in vars(options).items() if n not in _OWN}
  texts = [prepared.corpus.sha256, *(part.sha256 for part in prepared.split)]
  shared |= {"commit": start["commit"], "versions": start["versions"]}
  shared |= {"texts": texts, "vocabulary": vocab, "resumes": resumes}
  digest = hashlib.sha256(json.dumps(shared, sort_keys=True).encode()).digest()
  number = int.from_bytes(digest[:8])
  with cluster.barrier():
    if cluster.broadcast(number) != number:
      action = "resumes a run" if resumes else "begins a run"
      raise InputError(
        f"{cluster.name(cluster.index)} {action} in {options.run_dir}, and "
        "differs from the chief: give all workers the same commit, versions, "
        "flags and texts, and a folder that all hosts share"
      )
