"""Processes on several hosts that train together, and tell each other things.

They are called workers; the first is the chief. TensorFlow's
`MultiWorkerMirroredStrategy` connects them. A process of its own is the chief
of a cluster of one.
"""

import contextlib
import json
import os
import re
import socket
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from charlm.errors import InputError, LostRunError
from charlm.system.devices import create_strategy
from charlm.system.rendezvous import wait_for_workers

_CHUNK = 2**16  # numbers in one sum over the workers
_ROLE = "worker"
# Below the ports that systems give to outgoing connections.
_FIRST_PORT, _NUM_PORTS = 10_000, 20_000
# What TensorFlow raises when a worker is gone, or does not answer.
_LOST = (
  tf.errors.UnavailableError,
  tf.errors.DeadlineExceededError,
  tf.errors.AbortedError,
  tf.errors.CancelledError,
  tf.errors.FailedPreconditionError,
  tf.errors.InternalError,
)


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
      addresses: host and port of each worker, the chief's first.
      index: this worker's place among them.
    """
    self.strategy, self.addresses, self.index = strategy, addresses, index
    self._compiled_sum = tf.function(
      self._sum, [tf.TensorSpec([None], tf.float32)]
    )

  @property
  def num_workers(self) -> int:
    """The number of workers, 1 without a cluster."""
    return len(self.addresses)

  @property
  def is_chief(self) -> bool:
    """Whether this worker writes the run's folder."""
    return self.index == 0

  def rows(self, batch_size: int) -> range:
    """Returns the rows of a batch that this worker computes."""
    size = batch_size // self.num_workers
    return range(self.index * size, (self.index + 1) * size)

  def name(self, index: int) -> str:
    """Returns what a message calls a worker."""
    return f"worker {index} ({self.addresses[index]})"

  def sum(self, numbers: Sequence[int] | np.ndarray) -> np.ndarray:
    """Returns the sums `[N]` of the workers' numbers `[N]`, below 2^24.

    All workers must call it, with as many numbers: it returns when they have.
    """
    array = np.asarray(numbers)
    if self.num_workers == 1 or not array.size:
      return array
    # Of the gradients' type, which every kind of device can sum.
    array = array.astype(np.float32)
    chunks = [array[i : i + _CHUNK] for i in range(0, len(array), _CHUNK)]
    sums = [self._compiled_sum(chunk).numpy() for chunk in chunks]
    return np.concatenate(sums).astype(np.int64)

  def _sum(self, numbers: tf.Tensor) -> tf.Tensor:
    def add(numbers: tf.Tensor) -> tf.Tensor:
      context = tf.distribute.get_replica_context()
      # A worker's first replica speaks for it.
      per_worker = context.num_replicas_in_sync // self.num_workers
      mine = context.replica_id_in_sync_group == self.index * per_worker
      numbers = tf.where(mine, numbers, tf.zeros_like(numbers))
      return context.all_reduce("SUM", numbers)

    sums = self.strategy.run(add, (numbers,))
    return self.strategy.experimental_local_results(sums)[0]

  def exchange(self, message: bytes) -> list[bytes]:
    """Returns what each worker passes to this call, in their order.

    All workers must call it, with messages below 16 MB.
    """
    mine = np.arange(self.num_workers) == self.index
    sizes = self.sum(np.where(mine, len(message), 0))
    rows = np.zeros([self.num_workers, sizes.max()], np.uint8)
    rows[self.index, : len(message)] = np.frombuffer(message, np.uint8)
    rows = self.sum(rows.ravel()).astype(np.uint8).reshape(rows.shape)
    return [row[:size].tobytes() for row, size in zip(rows, sizes, strict=True)]

  def copy_from_chief(self, variables: Sequence[Any]) -> None:
    """Gives variables the values, bit by bit, that they have on the chief."""
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
    """Turns the loss of another worker into an error that names it.

    Raises LostRunError: a worker ended, or does not answer.
    """
    try:
      yield
    except _LOST as error:
      if self.num_workers == 1:
        raise
      raise LostRunError(
        f"{self._lost(str(error))} was lost: what is saved is whole; start all "
        "workers again to go on"
      ) from error

  def _lost(self, message: str) -> str:
    """Returns the name of the worker that an error of TensorFlow is about."""
    others = [i for i in range(self.num_workers) if i != self.index]
    tasks = {int(number) for number in re.findall(r"/task:(\d+)", message)}
    for index in others:
      address = self.addresses[index]
      if index in tasks or address in message or not _answers(address):
        return self.name(index)
    # It listens, but it does nothing else.
    return self.name(others[0]) if len(others) == 1 else "another worker"


def create_cluster(num_replicas: int, batch_size: int, timeout: int) -> Cluster:
  """Connects the workers that the environment names; waits for all of them.

  Without `TF_CONFIG`, and outside a SLURM step of several tasks, the cluster
  has one worker.

  Args:
    num_replicas: of each worker: GPUs or, without a cluster, also logical CPU
      devices; 0 for as many as there are.
    batch_size: global.
    timeout: seconds to wait for the other workers.

  Raises InputError: no such cluster, replicas that cannot be had, or workers
    that did not come.
  """
  if not (found := _from_environment()):
    return Cluster(create_strategy(num_replicas, batch_size))
  addresses, index = found
  gpus = _choose_gpus(num_replicas, batch_size, len(addresses))
  resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
    tf.train.ClusterSpec({_ROLE: addresses}),
    task_type=_ROLE,
    task_id=index,
    num_accelerators={"GPU": len(gpus)},
    rpc_layer="grpc",
  )
  experimental = tf.distribute.experimental
  options = experimental.CommunicationOptions(
    implementation=experimental.CommunicationImplementation(
      "NCCL" if gpus else "RING"
    )
  )
  wait_for_workers(addresses, index, timeout)
  strategy = tf.distribute.MultiWorkerMirroredStrategy(resolver, options)
  return Cluster(strategy, addresses, index)


def _from_environment() -> tuple[list[str], int] | None:
  """Returns the addresses of all workers, and which of them this one is.

  Raises InputError: what the environment says is no cluster.
  """
  if text := os.environ.get("TF_CONFIG"):
    addresses, index = _read_config(text)
    return (addresses, index) if len(addresses) > 1 else None
  if os.environ.get("SLURM_STEP_NUM_TASKS", "1") == "1":
    return None
  try:
    resolver = tf.distribute.cluster_resolver.SlurmClusterResolver(
      port_base=_FIRST_PORT + int(os.environ["SLURM_JOB_ID"]) % _NUM_PORTS,
      # SLURM itself shows each task its GPUs alone. The resolver needs some
      # number of them, also where there are none.
      gpus_per_node=_NUM_PORTS,
      gpus_per_task=1,
      auto_set_gpu=False,
    )
    addresses = resolver.cluster_spec().as_dict()[_ROLE]
    # Not by SLURM_PROCID: the resolver sorts the hosts in another way.
    host, place = os.environ["SLURMD_NODENAME"], os.environ["SLURM_LOCALID"]
    ports = [each for each in addresses if each.startswith(f"{host}:")]
    return addresses, addresses.index(ports[int(place)])
  except (RuntimeError, LookupError, ValueError) as error:
    raise InputError(
      f"SLURM's variables name no cluster ({type(error).__name__}: {error}): "
      "start the workers by srun, or set TF_CONFIG"
    ) from error


def _read_config(text: str) -> tuple[list[str], int]:
  """Reads `TF_CONFIG`; a role `chief` comes before the workers.

  Raises InputError: it is wrong.
  """
  try:
    config = json.loads(text)
    roles, task = config["cluster"], config["task"]
    for role in [*roles, task["type"]]:
      if role not in ("chief", _ROLE):
        raise InputError(
          f"TF_CONFIG has the role {role!r}: charlm knows chief and worker"
        )
    addresses = [*roles.get("chief", ()), *roles.get(_ROLE, ())]
    index = addresses.index(roles[task["type"]][task["index"]])
    for address in addresses:
      host, _, port = address.rpartition(":")
      if not host or not 0 < int(port) < 2**16:
        raise ValueError(f"{address} is no HOST:PORT")
  except (ValueError, LookupError, TypeError, AttributeError) as error:
    if isinstance(error, InputError):
      raise
    raise InputError(
      f"TF_CONFIG names no cluster ({type(error).__name__}: {error}): give "
      '{"cluster": {"worker": ["HOST:PORT", "HOST:PORT"]}, "task": {"type": '
      '"worker", "index": 0}}'
    ) from error
  if len(set(addresses)) < len(addresses):
    raise InputError("TF_CONFIG names an address twice: give each its own")
  return addresses, index


def _choose_gpus(
  num_replicas: int, batch_size: int, num_workers: int
) -> list[tf.config.PhysicalDevice]:
  """Makes as many GPUs visible as replicas are asked for; returns them.

  Raises InputError: a number of replicas that cannot be had.
  """
  gpus = tf.config.get_visible_devices("GPU")
  # TensorFlow gives each worker one CPU device.
  at_most = len(gpus) or 1
  if num_replicas > at_most:
    words = f"{at_most} GPUs are" if gpus else "one CPU device is"
    raise InputError(
      f"num_replicas is {num_replicas}, but {words} to be had on each worker: "
      "lower it"
    )
  total = (num_replicas or at_most) * num_workers
  if batch_size % total:
    raise InputError(
      f"the workers have {total} replicas, which do not divide the batch size "
      f"{batch_size}: change one of the two"
    )
  if num_replicas and gpus:
    gpus = gpus[:num_replicas]
    tf.config.set_visible_devices(gpus, "GPU")
  return gpus


def _answers(address: str) -> bool:
  """Tells whether a process listens at an address."""
  host, _, port = address.rpartition(":")
  try:
    with socket.create_connection((host, int(port)), timeout=2):
      return True
  except OSError:
    return False
