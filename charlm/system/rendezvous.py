"""Workers that wait for each other, before TensorFlow connects them.

TensorFlow would wait for an hour, in a call that lets no other thread run.
"""

import contextlib
import json
import socket
import time

from charlm.errors import InputError

_SECONDS_BETWEEN_TRIES = 0.2
_SECONDS_TO_SPEAK = 1.0  # whoever connects and says nothing is no worker
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

  Raises InputError: a worker did not connect or has other devices, or this one
    cannot listen.
  """
  deadline = time.monotonic() + timeout
  port = int(addresses[index].rpartition(":")[2])
  try:
    # Not at the address alone, which need not be that of an interface here.
    # The others listen only to find out that the port is free.
    listener = socket.create_server(("", port), backlog=len(addresses))
  except OSError as error:
    raise InputError(
      f"worker {index} cannot listen at {addresses[index]} ({error.strerror}): "
      "give another port"
    ) from error
  with listener:
    if index == 0:
      problem = _gather(listener, addresses, devices, deadline)
    else:
      problem = _join(addresses[0], index, devices, deadline)
  if problem:
    raise InputError(problem)


def _gather(
  listener: socket.socket, addresses: list[str], devices: str, deadline: float
) -> str:
  """Waits for all others, and tells them what is wrong; returns that, too."""
  present: dict[int, tuple[socket.socket, str]] = {}
  missing = set(range(1, len(addresses)))
  with contextlib.ExitStack() as stack:
    while missing and (left := deadline - time.monotonic()) > 0:
      listener.settimeout(left)
      # Whatever else connects is ignored.
      with contextlib.suppress(OSError, ValueError, TypeError):
        peer = stack.enter_context(listener.accept()[0])
        peer.settimeout(_SECONDS_TO_SPEAK)
        number, theirs = json.loads(_read_line(peer))
        present[int(number)] = peer, str(theirs)
        missing.discard(number)
    problem = ""
    if missing:
      names = [f"worker {i} ({addresses[i]})" for i in sorted(missing)]
      problem = f"{' and '.join(names)} did not connect in time{_REMEDY}"
    for number, (_, theirs) in present.items():
      if theirs != devices:
        problem = (
          f"worker {number} has {theirs}, but worker 0 has {devices}: give "
          "--device and --num_replicas that all workers can have"
        )
    for peer, _ in present.values():
      with contextlib.suppress(OSError):
        peer.sendall(json.dumps(problem).encode() + b"\n")
  return problem


def _join(chief: str, index: int, devices: str, deadline: float) -> str:
  """Waits for the first worker's answer: what is wrong, or nothing."""
  host, _, port = chief.rpartition(":")
  hello = json.dumps([index, devices]).encode() + b"\n"
  connected = False
  while (left := deadline - time.monotonic()) > 0:
    with contextlib.suppress(OSError, ValueError), contextlib.ExitStack() as s:
      peer = socket.create_connection((host.strip("[]"), int(port)), left)
      s.enter_context(peer)
      connected = True
      peer.sendall(hello)
      peer.settimeout(max(0.001, deadline - time.monotonic()))
      return str(json.loads(_read_line(peer)))
    time.sleep(_SECONDS_BETWEEN_TRIES)
  missing = "another worker" if connected else f"worker 0 ({chief})"
  return f"{missing} did not connect in time{_REMEDY}"


def _read_line(peer: socket.socket) -> bytes:
  """Reads up to a newline or the end."""
  line = b""
  while not line.endswith(b"\n") and len(line) < _MAX_LINE:
    if not (data := peer.recv(_MAX_LINE)):
      break
    line += data
  return line
