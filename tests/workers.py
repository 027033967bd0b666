"""Clusters of processes on this machine, for the tests and for `soak.py`."""

import json
import random
import signal
import socket
import time
from collections.abc import Callable
from typing import Any

_LOST_WITHIN = 60.0  # seconds; the others end by then if a worker is lost
_ENDED_WITHIN = 120.0  # seconds; any training of a test ends by then


def addresses(num_workers: int) -> list[str]:
  """Returns addresses with free ports."""
  sockets = [socket.socket() for _ in range(num_workers)]
  for each in sockets:
    each.bind(("127.0.0.1", 0))
  free = [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
  for each in sockets:
    each.close()
  return free


def tf_config(workers: list[str], index: int) -> str:
  """Returns the `TF_CONFIG` of a worker."""
  task = {"type": "worker", "index": index}
  return json.dumps({"cluster": {"worker": workers}, "task": task})


def wait_until(happened: Callable[[], bool]) -> None:
  """Waits until a condition holds.

  Raises AssertionError: it does not within two minutes.
  """
  end = time.monotonic() + _ENDED_WITHIN
  while not happened():
    assert time.monotonic() < end
    time.sleep(0.02)


class Workers:
  """Processes that train together, with the methods of a single process.

  `send_signal` sends to one of them, by default at random. If this kills or
  freezes it, `wait` expects the others to end.
  """

  def __init__(
    self,
    rng: random.Random,
    start: Callable[..., Any],
    num_workers: int,
    *args: str,
  ) -> None:
    """Starts workers with `start`, which takes arguments and an environment.

    `rng` chooses the worker that gets a signal.
    """
    free = addresses(num_workers)
    self.processes = [
      start(*args, env={"TF_CONFIG": tf_config(free, i)})
      for i in range(num_workers)
    ]
    self._rng, self._lost = rng, -1

  def poll(self) -> int | None:
    """Returns the chief's exit code, or None while it runs."""
    return self.processes[0].poll()

  def send_signal(self, number: int, index: int | None = None) -> None:
    """Sends a signal to a worker; SIGKILL and SIGSTOP make it a lost one."""
    if index is None:
      index = self._rng.randrange(len(self.processes))
    if number in (signal.SIGKILL, signal.SIGSTOP):
      self._lost = index
    self.processes[index].send_signal(number)

  def wait(self, timeout: float = _ENDED_WITHIN) -> int:
    """Waits for all workers but a lost one; returns the largest exit code.

    If a worker is lost, the others have a minute to end.

    Raises AssertionError: they do not end in time.
    """
    others = [p for i, p in enumerate(self.processes) if i != self._lost]
    end = time.monotonic() + (_LOST_WITHIN if self._lost >= 0 else timeout)
    try:
      while any(each.poll() is None for each in others):
        assert time.monotonic() < end, "workers do not end"
        time.sleep(0.05)
    finally:
      for each in self.processes:
        if each.poll() is None:
          each.kill()
        each.wait()
    return max(each.poll() for each in others)
