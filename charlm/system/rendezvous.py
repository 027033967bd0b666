"""Workers that wait for each other, before TensorFlow connects them.

TensorFlow would wait for an hour, in a call that lets no other thread run.
"""

import contextlib
import json
import select
import socket
import time

from charlm.errors import InputError

_SECONDS_BETWEEN_TRIES = 0.2
_SECONDS_TO_SPEAK = 1.0  # whoever connects and says nothing is no worker
_SECONDS_TO_ANSWER = 5.0
_MAX_LINE = 2**16  # bytes
_REMEDY = ": start all workers, check TF_CONFIG, or raise --cluster_timeout"


def wait_for_workers(
  addresses: list[str], index: int, devices: str, timeout: float
) -> None:
  """Returns when all workers have called this.

  Args:
    addresses: host and port of each; the first one waits for the others.
    index: this worker's place among them.
    devices: number and kind of its devices, which must be those of the others.
    timeout: seconds.

  Raises InputError: a worker did not connect, knows of another number of
    workers or has other devices, or this one cannot listen.
  """
  deadline = time.monotonic() + timeout
  port = int(addresses[index].rpartition(":")[2])
  try:
    # At all interfaces: the worker's address in TF_CONFIG need not be that of
    # one of them. Workers but the first listen only to find out that their port
    # is free.
    listener = socket.create_server(("", port), backlog=len(addresses))
  except OSError as error:
    raise InputError(
      f"worker {index} cannot listen at {addresses[index]} ({error.strerror}): "
      "give another port in TF_CONFIG or, under SLURM, submit the job again"
    ) from error
  with listener:
    if index == 0:
      problem = _gather(listener, addresses, devices, deadline)
    else:
      hello = json.dumps([index, len(addresses), devices]).encode() + b"\n"
      problem = _join(addresses[0], hello, deadline)
  if problem:
    raise InputError(problem)


def answers(address: str) -> bool:
  """Tells whether a process listens at an address."""
  host, _, port = address.rpartition(":")
  try:
    with socket.create_connection((host, int(port)), timeout=2):
      return True
  except (OSError, ValueError):  # the latter for a name that cannot be one
    return False


def _gather(
  listener: socket.socket, addresses: list[str], devices: str, deadline: float
) -> str:
  """Waits for all others, and tells them what is wrong; returns that, too."""
  present: dict[int, tuple[socket.socket, int, str]] = {}
  while True:
    # One that ended while it waited is missing again.
    for number in [i for i, (peer, *_) in present.items() if _has_ended(peer)]:
      present.pop(number)[0].close()
    missing = set(range(1, len(addresses))) - present.keys()
    left = deadline - time.monotonic()
    if not missing or left <= 0:
      break
    listener.settimeout(min(left, _SECONDS_TO_SPEAK))
    with contextlib.suppress(OSError):
      peer, _ = listener.accept()
      try:
        peer.settimeout(_SECONDS_TO_SPEAK)
        number, theirs, their_devices = json.loads(_read_line(peer))
        # With another number of workers it is kept, and refused below.
        if number not in range(1, len(addresses)) and theirs == len(addresses):
          raise ValueError("no such worker")
        present[number] = peer, theirs, their_devices
      except (OSError, ValueError, TypeError, RecursionError):
        peer.close()  # not a worker's message: a worker tries again
  problem = ""
  if missing:
    names = [f"worker {i} ({addresses[i]})" for i in sorted(missing)]
    problem = f"{' and '.join(names)} did not connect in time{_REMEDY}"
  for number, (_, theirs, their_devices) in present.items():
    if theirs != len(addresses):
      problem = (
        f"worker {number} knows of {theirs} workers, worker 0 of "
        f"{len(addresses)}: list all in TF_CONFIG, or start all by one srun"
      )
    elif their_devices != devices:
      problem = (
        f"worker {number} has {their_devices}, but worker 0 has {devices}: "
        "give --device and --num_replicas that all workers can have"
      )
  for peer, *_ in present.values():
    with contextlib.suppress(OSError), peer:
      peer.sendall(json.dumps(problem).encode() + b"\n")
  return problem


def _has_ended(peer: socket.socket) -> bool:
  """Tells whether the other end of a connection was closed."""
  try:
    readable, _, _ = select.select([peer], [], [], 0)
    return bool(readable) and not peer.recv(1, socket.MSG_PEEK)
  except OSError:
    return True


def _join(first: str, hello: bytes, deadline: float) -> str:
  """Greets the first worker; returns its answer: what is wrong, or nothing."""
  host, _, port = first.rpartition(":")
  connected, failing = False, contextlib.suppress(OSError, ValueError)
  while (left := deadline - time.monotonic()) > 0:
    with failing, socket.create_connection((host, int(port)), left) as peer:
      connected = True
      peer.sendall(hello)
      # If a worker is missing, the answer names it, and comes only at worker
      # 0's own deadline.
      peer.settimeout(deadline - time.monotonic() + _SECONDS_TO_ANSWER)
      return str(json.loads(_read_line(peer)))
    # The first worker may start later: to be refused is no error yet.
    time.sleep(_SECONDS_BETWEEN_TRIES)
  missing = "another worker" if connected else f"worker 0 ({first})"
  return f"{missing} did not connect in time{_REMEDY}"


def _read_line(peer: socket.socket) -> bytes:
  """Reads up to a newline or the end."""
  with peer.makefile("rb") as file:
    return file.readline(_MAX_LINE)
