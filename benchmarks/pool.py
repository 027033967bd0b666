"""Times processes in turn, in rounds, so that the machine's drift cancels."""

import contextlib
import dataclasses
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import IO, Any, cast

from benchmarks.task import Task

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_SECONDS_TO_END = 10.0
# All are alive at once: none may reserve the whole memory of a GPU.
_ENVIRONMENT = {
  "TF_CPP_MIN_LOG_LEVEL": "3",
  "TF_FORCE_GPU_ALLOW_GROWTH": "true",
  "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
}


class WorkerError(RuntimeError):
  """A worker exited before it answered."""


@dataclasses.dataclass
class Timing:
  """The measurements of a contestant."""

  seconds: list[float]  # per unit of work, one for each round
  peak_bytes: int = 0
  error: str = ""  # why it could not be measured

  @property
  def median(self) -> float:
    """Seconds per unit of work."""
    return statistics.median(self.seconds)

  def speedup_over(self, other: "Timing") -> float:
    """Returns the median over rounds of how many times as fast this is."""
    rounds = zip(other.seconds, self.seconds, strict=True)
    return statistics.median(theirs / mine for theirs, mine in rounds)


class Worker:
  """The process of one contestant, and its measurements."""

  def __init__(self, task: Task, seconds_per_turn: float, log: IO[str]) -> None:
    """Starts the process; its stderr goes to `log`."""
    self.timing = Timing([])
    self._seconds_per_turn = seconds_per_turn
    self._times = 1
    self._log = log
    self._process = subprocess.Popen(
      [sys.executable, "-m", "benchmarks.worker", task.to_json()],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=log,
      text=True,
      cwd=_ROOT,
      env=os.environ | _ENVIRONMENT,
    )
    # Not None, since both are pipes.
    self._input = cast(IO[str], self._process.stdin)
    self._output = cast(IO[str], self._process.stdout)

  def wait(self) -> None:
    """Waits until the process is ready."""
    self._read()

  def calibrate(self) -> None:
    """Finds how many units of work fill a turn; at least one."""
    seconds = self._run(1)
    self._times = max(1, round(self._seconds_per_turn / max(seconds, 1e-9)))

  def take_turn(self) -> None:
    """Measures one turn."""
    self.timing.seconds.append(self._run(self._times) / self._times)

  def attempt(self, action: Callable[["Worker"], None]) -> None:
    """Calls one of the methods above, unless an earlier call failed."""
    if not self.timing.error:
      try:
        action(self)
      except WorkerError as error:
        self.timing.error = str(error)

  def close(self) -> None:
    """Ends the process."""
    with contextlib.suppress(BrokenPipeError):
      self._input.close()
    try:
      self._process.wait(_SECONDS_TO_END)
    except subprocess.TimeoutExpired:
      self._process.kill()
      self._process.wait()
    self._output.close()

  def _run(self, times: int) -> float:
    with contextlib.suppress(BrokenPipeError):  # `_read` reports the reason
      self._input.write(f"run {times}\n")
      self._input.flush()
    answer = self._read()
    self.timing.peak_bytes = answer["peak_bytes"]
    return answer["seconds"]

  def _read(self) -> dict[str, Any]:
    """Reads an answer.

    Raises:
      WorkerError: the process exited; the message is its last line.
    """
    if line := self._output.readline():
      return json.loads(line)
    code = self._process.wait()
    self._log.seek(0)
    lines = [line.strip() for line in self._log if line.strip()]
    last = lines[-1][:200] if lines else "it wrote nothing"
    raise WorkerError(f"exit code {code}: {last}")


def measure(
  tasks: dict[str, Task], num_rounds: int, seconds_per_turn: float
) -> dict[str, Timing]:
  """Measures contestants side by side.

  All start up together; after that they work one at a time.

  Args:
    tasks: the task of each contestant.
    num_rounds: the number of turns that each gets.
    seconds_per_turn: the intended length of a turn.

  Returns:
    The timing of each contestant, with the error of one that failed.
  """
  with contextlib.ExitStack() as stack:
    workers = {}
    for name, task in tasks.items():
      log = stack.enter_context(tempfile.TemporaryFile("w+", errors="replace"))
      workers[name] = Worker(task, seconds_per_turn, log)
      stack.callback(workers[name].close)
    order = list(workers.values())
    for action in (
      Worker.wait,
      Worker.calibrate,
      *[Worker.take_turn] * num_rounds,
    ):
      for worker in order:
        worker.attempt(action)
      order = order[1:] + order[:1]
    return {name: worker.timing for name, worker in workers.items()}
