"""TensorFlow's profile of part of a run, for TensorBoard."""

import tensorflow as tf

from charlm.errors import LostRunError
from charlm.runs.run_dir import RunDir
from charlm.system.process import warn, warn_unsaved


class Profile:
  """TensorFlow's profile from one step to another, for TensorBoard."""

  def __init__(self, run: RunDir, steps: str, start: int, end: int) -> None:
    """Takes the flag, and where this start begins and the run ends.

    The flag gives the steps after which the profile begins and ends; if it is
    empty, there is no profile. The first of them must be after the step at
    which this start begins (whose call traces the graph, which would fill the
    profile) and before the run's end: else there is a warning and no profile.
    """
    self._steps = [int(step) for step in steps.split(",") if step]
    if self._steps and not start < self._steps[0] < end:
      warn(
        f"no profile: step {self._steps[0]} is not above {start} and below "
        f"{end}: give other --profile_steps"
      )
      self._steps = []
    self._run, self._running = run, False
    self._folder = f"{run.summaries}/train"

  def next_stop(self, step: int, planned: int) -> int:
    """Begins or ends the profile at its steps; returns where to stop next.

    While it runs, each graph call takes one step, so that steps are told apart.

    Raises LostRunError: as `close`.
    """
    if not self._steps:
      return planned
    first, last = self._steps
    if step == first:
      tf.profiler.experimental.start(self._folder)
      self._running = True
    elif step == last:
      self.close()
    if first <= step < last:
      return step + 1
    return min(planned, first) if step < first else planned

  def close(self) -> None:
    """Ends the profile, if it has begun, and writes it.

    Raises LostRunError: as `RunDir.check_owned`.
    """
    if not self._running:
      return
    self._running = False  # first, so that an error does not end it twice
    try:
      # TensorFlow would make the folder anew where the run was moved away.
      self._run.check_owned()
      tf.profiler.experimental.stop()
    except LostRunError:
      tf.profiler.experimental.stop(save=False)
      raise
    except (OSError, tf.errors.OpError) as error:
      warn_unsaved("the profile could not be written", error, self._folder)
