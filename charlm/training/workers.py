"""What the workers of a cluster decide together, between their steps."""

import contextlib
import time
from collections.abc import Iterator

from charlm.errors import InputError, LostRunError
from charlm.experiment import differences
from charlm.runs.provenance import describe_start
from charlm.system.cluster import Cluster
from charlm.system.signals import INTERRUPTED, TERMINATED, StopRequest
from charlm.training.options import TrainOptions

# While a text is scored; a signal or a lost worker is noticed at a beat.
_SECONDS_BETWEEN_BEATS = 2.0
# What the chief tells the others; a failure adds its exit code.
_WORKING, _READY, _FAILED = 0, 1, 2
# Exit codes, as `run_command` has them. SIGUSR1 raises SystemExit.
_CODES: list[tuple[type, int]] = [(OSError, InputError.exit_code)]
_CODES += [(SystemExit, TERMINATED), (KeyboardInterrupt, INTERRUPTED)]
# Options that may differ: paths, and what concerns one worker alone.
_OWN = ["run_dir", "corpus", "corpus_cache", "verify_corpus", "init_from"]
_OWN += ["profile_port", "cluster_timeout"]
# Their paths may differ, but not whether they are given: they change the split.
_PATHS = ["eval_corpus", "valid_corpus"]


class ChiefEndedError(LostRunError):
  """The chief ended with an exit code other than 0, which this has.

  Either it met an error, or something could not be saved.
  """

  def __init__(self, cluster: Cluster, exit_code: int) -> None:
    words = f"ended with exit code {exit_code}: see its message"
    super().__init__(f"{cluster.name(0)} {words}")
    self.exit_code = exit_code


class Workers:
  """Keeps the workers in step: each call of the chief has its counterpart.

  The chief decides, and works at times while the others wait: it reads and
  writes the run's folder, and evaluates. They answer its beats meanwhile, so
  that a signal to any of them, or the loss of any, is noticed.
  """

  def __init__(self, cluster: Cluster) -> None:
    """Takes the cluster; `stop` notes signals, once it is entered."""
    self.cluster, self.stop = cluster, StopRequest()
    self._last_beat = time.monotonic()

  def next_stop(self, step: int, planned: int) -> int:
    """Returns the chief's planned step, or `step` if any worker is to stop."""
    steps, stopped = self._share(planned - step)
    return step if stopped else step + steps

  @contextlib.contextmanager
  def chief_works(self) -> Iterator[None]:
    """Runs what the chief does, then lets the others go on.

    An error ends the others, too, with the exit code that it leads to.
    """
    try:
      yield
    except BaseException as error:
      # Other errors end with 1, Python's own code after a traceback.
      code = next((c for kind, c in _CODES if isinstance(error, kind)), 1)
      self._share(_FAILED + getattr(error, "exit_code", code))
      self.cluster.final_barrier()
      raise
    self._share(_READY)

  def beat(self) -> None:
    """Tells the waiting workers that the chief still works; call it often."""
    # Not at each call: there is one for each piece of text that is scored, and
    # a sum over the network can take longer than a piece.
    if time.monotonic() - self._last_beat > _SECONDS_BETWEEN_BEATS:
      self._share(_WORKING)

  def wait_for_chief(self) -> None:
    """Waits until the chief has done its work.

    Raises ChiefEndedError: it failed.
    """
    while (status := self._share(0)[0]) == _WORKING:
      pass
    if status >= _FAILED:
      self.cluster.final_barrier()
      raise ChiefEndedError(self.cluster, status - _FAILED)

  def finish(self, exit_code: int) -> int:
    """Returns the chief's exit code on every worker: the last call."""
    exit_code, _ = self._share(exit_code)
    self.cluster.final_barrier()
    return exit_code

  def _share(self, number: int) -> tuple[int, bool]:
    """Returns the chief's number, and whether a worker had a signal to stop.

    All call it together, and get the same: a signal that comes in the middle of
    this is told by the next call.
    """
    code = self.stop.exit_code
    # The others add 0: the sum is the chief's number.
    number *= self.cluster.is_chief
    numbers = [number, code == TERMINATED, code == INTERRUPTED]
    number, terminated, interrupted = self.cluster.sum(numbers).tolist()
    if terminated or interrupted:
      self.stop.exit_code = TERMINATED if terminated else INTERRUPTED
    self._last_beat = time.monotonic()
    return number, bool(terminated or interrupted)


def check_equal(cluster: Cluster, options: TrainOptions, sha256: str) -> None:
  """Checks that all workers were started alike; `sha256` is of the corpus.

  Raises InputError: it names what differs, and on which worker.
  """
  if cluster.num_workers == 1:
    return
  start = describe_start(0, [])
  # The code first: another commit may have other options.
  facts: dict[str, object] = {"commit": start["commit"], **start["versions"]}
  facts |= vars(options) | {"corpus_sha256": sha256}
  for name in _OWN:
    del facts[name]
  facts |= {name: bool(facts[name]) for name in _PATHS}
  # Every worker gets the facts of all, so all raise the same error.
  chiefs, *others = cluster.exchange(facts)
  for index, theirs in enumerate(others, 1):
    words = f"on {cluster.name(0)}", f"on {cluster.name(index)}"
    if found := differences(chiefs, theirs, words):
      cluster.final_barrier()
      named = ", ".join(found.values())
      raise InputError(f"workers differ: {named}: start all of them alike")
