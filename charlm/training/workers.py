"""Processes on several hosts that train together.

They are called workers, and all run the same program; the first is the chief,
which alone writes into the run's folder, and the others read it there.
TensorFlow's `MultiWorkerMirroredStrategy` connects them. A process that trains
without others is the chief of a cluster of one.
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

from charlm.errors import DivergedError, HungError, InputError, LostRunError
from charlm.runs.provenance import describe_start
from charlm.system.devices import NCCL_REMEDY, Choice
from charlm.system.messages import say
from charlm.system.process import INTERRUPTED, TERMINATED, StopRequest
from charlm.training.prepare import Prepared

_ROLES = ("chief", "worker")  # in the order of their workers
# The port of a SLURM job's first task: below those that systems give to
# outgoing connections.
_FIRST_PORT, _NUM_PORTS = 10_000, 20_000
_ENOUGH_GPUS = 10**4
_COLLECTIVES = Choice("RING", "NCCL")
_MOST_NUMBERS = 4  # of a sum, if there are fewer workers
_CONNECTED_WITHIN = 300  # seconds
# What TensorFlow raises when a worker is gone or does not answer.
_LOST = (
  tf.errors.UnavailableError,
  tf.errors.DeadlineExceededError,
  tf.errors.AbortedError,
  tf.errors.CancelledError,
  tf.errors.FailedPreconditionError,
  tf.errors.InternalError,
)

# Paths, whose contents are compared, and what each worker has of its own.
_OWN = (
  "run_dir",
  "corpus",
  "corpus_cache",
  "eval_corpus",
  "valid_corpus",
  "init_from",
  "profile_port",
)


class Cluster:
  """The workers, as one of them sees them.

  All of them must make each call that sums, in the same order.
  """

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

  def sum(self, numbers: Sequence[int]) -> list[int]:
    """Returns the sums `[N]` of the workers' numbers `[N]`.

    Each sum must be below 2^24, to be exact in float32.
    """
    if self.num_workers == 1:
      return list(numbers)
    # All sums have one shape: if a worker ends alone, its last sum still fits
    # that of the others. They are of the gradients' type, which every kind of
    # device can sum.
    padded = np.zeros(max(_MOST_NUMBERS, self.num_workers), np.float32)
    padded[: len(numbers)] = numbers
    sums = self._compiled_sum(padded).numpy()
    summed: list[int] = sums[: len(numbers)].astype(np.int64).tolist()
    return summed

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

  def of_each(self, number: int) -> list[int]:
    """Returns the number that each worker passes to this call."""
    return self.sum(
      [number * (i == self.index) for i in range(self.num_workers)]
    )

  def of_chief(self, number: int) -> int:
    """Returns the number that the chief passes to this call, modulo 2^64.

    Raises HungError: on the chief it is another one, so sums are garbage.
    """
    shifts = (0, 16, 32, 48)
    sums = self.sum([(number >> n & 0xFFFF) * self.is_chief for n in shifts])
    found = sum(part << n for n, part in zip(shifts, sums, strict=True))
    if self.is_chief and found != number % 2**64:
      raise HungError(f"a sum over the workers is wrong: {NCCL_REMEDY}")
    return found

  def agree(self, steps: int, stop: StopRequest) -> int:
    """Returns how many steps to take: the chief's, or 0 if a signal came.

    Where any worker had a signal, all note it.
    """
    code = stop.exit_code
    numbers = [steps * self.is_chief, code == TERMINATED, code == INTERRUPTED]
    steps, terminated, interrupted = self.sum(numbers)
    if terminated or interrupted:
      stop.exit_code = TERMINATED if terminated else INTERRUPTED
      return 0
    return steps

  @contextlib.contextmanager
  def together(self) -> Iterator[None]:
    """Waits at the end for the others; an error of any worker ends all.

    Raises InputError: another worker met bad input.
    """
    try:
      yield
    except (InputError, OSError) as error:
      self.of_each(1)
      if isinstance(error, OSError):  # the others raise InputError
        self._let_others_fetch()
      raise
    refused = [self.name(i) for i, each in enumerate(self.of_each(0)) if each]
    if refused:
      raise InputError(f"{', '.join(refused)} was refused: see what it says")

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


def connect(addresses: list[str], index: int) -> Cluster:
  """Connects this worker with the others; waits for all of them.

  If they do not come within five minutes, SIGALRM ends the process.

  Args:
    addresses: what `find_workers` returns; two at least.
    index: this worker's place among them.

  Raises:
    LostRunError: TensorFlow cannot connect the workers.
  """
  others = [address for i, address in enumerate(addresses) if i != index]
  here = f"index {index}, of {len(addresses)} workers, at {addresses[index]}"
  say(f"worker   {here}; waits for {', '.join(others)}\n")
  experimental = tf.distribute.experimental
  options = experimental.CommunicationOptions(implementation=_COLLECTIVES.here)
  try:
    with _ended_by_the_kernel():
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
def _ended_by_the_kernel() -> Iterator[None]:
  """Lets Ctrl-C, or five minutes, end TensorFlow's wait for other workers.

  TensorFlow waits for an hour, lets no handler of Python run in that time, and
  takes SIGTERM for itself.
  """
  interrupted = signal.signal(signal.SIGINT, signal.SIG_DFL)
  signal.alarm(_CONNECTED_WITHIN)
  try:
    yield
  finally:
    signal.alarm(0)
    signal.signal(signal.SIGINT, interrupted or signal.SIG_DFL)
    # TensorFlow's handler stands in the place of Python's, which is put back.
    signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))


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


def check_alike(cluster: Cluster, prepared: Prepared, vocab: list[str]) -> None:
  """Checks that all workers were started alike, and see the same run.

  Raises InputError: this worker, or another one, is not like the chief.
  """
  options, resumes = prepared.options, prepared.run is not None
  start = describe_start(0, [])
  facts = {n: value for n, value in vars(options).items() if n not in _OWN}
  texts = [prepared.corpus.sha256, *(part.sha256 for part in prepared.split)]
  facts |= {"commit": start["commit"], "versions": start["versions"]}
  facts |= {"texts": texts, "vocabulary": vocab, "resumes": resumes}
  digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).digest()
  number = int.from_bytes(digest[:8])
  with cluster.together():
    if cluster.of_chief(number) != number:
      doing = "resumes a run" if resumes else "begins a run"
      raise InputError(
        f"{cluster.name(cluster.index)} {doing} in {options.run_dir}, and is "
        "not like the chief: give all workers the same commit, versions, flags "
        "and texts, and a folder that all hosts share"
      )
