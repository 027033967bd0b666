"""Workers that wait for each other, before TensorFlow connects them.

TensorFlow would wait for an hour, in a call that lets no other thread run.
"""

import contextlib
import socket
import time

from charlm.errors import InputError

_SECONDS_BETWEEN_TRIES = 0.2
_GO = b"go"


def wait_for_workers(addresses: list[str], index: int, timeout: float) -> None:
  """Returns when all workers are there, and have called this.

  Args:
    addresses: host and port of each; the first one waits for the others.
    index: this worker's place among them.
    timeout: seconds.

  Raises InputError: a worker did not come, or this one cannot listen.
  """
  deadline = time.monotonic() + timeout
  port = int(addresses[index].rpartition(":")[2])
  try:
    # On all interfaces, as TensorFlow listens: a host's name may be that of
    # another one.
    listener = socket.create_server(("", port), backlog=len(addresses))
  except OSError as error:
    raise InputError(
      f"worker {index} cannot listen at {addresses[index]} ({error.strerror}): "
      "give another port"
    ) from error
  with listener:
    meet = _gather if index == 0 else _join
    if missing := meet(listener, addresses, index, deadline):
      names = [f"worker {i} ({addresses[i]})" for i in missing]
      raise InputError(
        f"{' and '.join(names)} did not come within {timeout:g} seconds: start "
        "all workers, check their addresses, or raise --cluster_timeout"
      )


def _gather(
  listener: socket.socket, addresses: list[str], index: int, deadline: float
) -> list[int]:
  """Waits for all others, and tells them to go on; returns who is missing."""
  present: dict[int, socket.socket] = {}
  missing = set(range(1, len(addresses)))
  with contextlib.ExitStack() as stack:
    while missing and (left := deadline - time.monotonic()) > 0:
      listener.settimeout(left)
      with contextlib.suppress(OSError):
        peer = stack.enter_context(listener.accept()[0])
        peer.settimeout(1.0)  # whoever says nothing is no worker
        number = int.from_bytes(peer.recv(4))
        present[number] = peer
        missing.discard(number)
    for peer in present.values() if not missing else ():
      with contextlib.suppress(OSError):
        peer.sendall(_GO)
  return sorted(missing)


def _join(
  listener: socket.socket, addresses: list[str], index: int, deadline: float
) -> list[int]:
  """Waits for the first worker to say go; returns it if it does not."""
  host, _, port = addresses[0].rpartition(":")
  while (left := deadline - time.monotonic()) > 0:
    with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
      chief = socket.create_connection((host, int(port)), timeout=left)
      stack.enter_context(chief)
      chief.sendall(index.to_bytes(4))
      chief.settimeout(max(0.001, deadline - time.monotonic()))
      if chief.recv(len(_GO)) == _GO:
        return []
    time.sleep(_SECONDS_BETWEEN_TRIES)
  return [0]
