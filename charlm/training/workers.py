"""What the workers of a cluster decide together, between their steps."""

import contextlib
import dataclasses
import json
import time
from collections.abc import Iterator

from charlm.errors import InputError, LostRunError
from charlm.runs.provenance import describe_start
from charlm.system.cluster import Cluster
from charlm.system.process import INTERRUPTED, TERMINATED, StopRequest
from charlm.training.options import StartOptions

# The most that a signal to one worker, or its loss, waits while the chief works
# alone.
_SECONDS_BETWEEN_BEATS = 2.0
_WORKING, _DONE = 0, 1  # the chief's; beyond these, 2 + its exit code
# Options that may differ: where a worker finds and keeps files. The hash of the
# corpus counts, not its path; held-out texts are the chief's.
_OWN = (
  *("run_dir", "corpus", "corpus_cache", "verify_corpus", "eval_corpus"),
  *("valid_corpus", "init_from", "profile_steps", "cluster_timeout"),
)


class ChiefEndedError(LostRunError):
  """The chief ended with an error of its own, whose exit code this has."""

  def __init__(self, cluster: Cluster, exit_code: int) -> None:
    super().__init__(
      f"{cluster.name(0)} ended with exit code {exit_code}: see its message"
    )
    self.exit_code = exit_code


class Workers:
  """Keeps the workers in step: each call is one that all of them make.

  The chief decides, and works alone at times: it reads and writes the run's
  folder, and evaluates. Meanwhile the others attend: they answer its beats, so
  that a signal to any of them, or the loss of any, is noticed at once.
  """

  def __init__(self, cluster: Cluster) -> None:
    """Takes the cluster; `stop` notes signals, once it is entered."""
    self.cluster, self.stop = cluster, StopRequest()
    self._last_beat = time.monotonic()

  def next_stop(self, step: int, planned: int) -> int:
    """Returns the chief's planned step, or `step` if any worker is to stop."""
    steps = self._tell(planned - step if self.cluster.is_chief else 0)
    return step if self.stop else step + steps

  @contextlib.contextmanager
  def alone(self) -> Iterator[None]:
    """What the chief does while the others attend.

    An error ends the others, too, with the error's exit code.
    """
    status = 2 + InputError.exit_code
    try:
      yield
      status = _DONE
    except Exception as error:
      status = 2 + getattr(error, "exit_code", InputError.exit_code)
      raise
    finally:
      self._tell(status)

  def beat(self) -> None:
    """The chief calls this often while it works alone."""
    if time.monotonic() - self._last_beat > _SECONDS_BETWEEN_BEATS:
      self._tell(_WORKING)

  def attend(self) -> None:
    """Waits for the chief to have done what it does alone.

    Raises ChiefEndedError: it failed.
    """
    while (status := self._tell(0)) == _WORKING:
      pass
    if status > _DONE:
      raise ChiefEndedError(self.cluster, status - 2)

  def finish(self, exit_code: int) -> int:
    """Returns the chief's exit code on all workers, which end then."""
    return int(self.cluster.sum([exit_code * self.cluster.is_chief])[0])

  def _tell(self, number: int) -> int:
    """Tells the others of a signal; returns the sum of the numbers."""
    if self.cluster.num_workers == 1:
      return number
    code = self.stop.exit_code
    numbers = [number, code == TERMINATED, code == INTERRUPTED]
    total, terminated, interrupted = self.cluster.sum(numbers)
    if terminated or interrupted:
      self.stop.exit_code = TERMINATED if terminated else INTERRUPTED
    self._last_beat = time.monotonic()
    return int(total)


def check_equal(
  cluster: Cluster, options: StartOptions, corpus_sha256: str
) -> None:
  """Checks that all workers were started alike.

  Raises InputError: it names what differs, and on which worker.
  """
  if cluster.num_workers == 1:
    return
  start = describe_start(0, [])
  facts = {
    **dataclasses.asdict(options),
    "corpus_sha256": corpus_sha256,
    "commit": start["commit"],
    **start["versions"],
  }
  for name in _OWN:
    del facts[name]
  messages = cluster.exchange(json.dumps(facts).encode())
  chiefs, *others = map(json.loads, messages)
  for index, theirs in enumerate(others, 1):
    for name, value in theirs.items():
      if value != chiefs[name]:
        raise InputError(
          f"{name} is {value} on {cluster.name(index)}, but {chiefs[name]} on "
          f"{cluster.name(0)}: start all workers alike"
        )
