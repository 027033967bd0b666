"""What a person sees of the training: a bar on a terminal, else plain lines."""

import datetime
import math
import shutil
import sys
import time

from charlm.system.process import say

_SECONDS_BETWEEN_LINES = 10.0  # in a log, where each line stays
_SECONDS_BEFORE_ESTIMATE = 5.0  # of steps, without the first, which compiles


class ProgressBar:
  """Shows loss, speed and time left."""

  def __init__(self, num_steps: int, steps_per_epoch: int, step: int) -> None:
    self._num_steps, self._steps_per_epoch = num_steps, steps_per_epoch
    self._start = step, time.monotonic()
    self._is_first, self._estimate_due = True, True
    self._last_line = float("-inf")
    self._on_terminal = sys.stdout.isatty()

  def show(self, step: int, loss: float, characters_per_second: float) -> None:
    """Redraws the bar, or writes a line where there is no terminal.

    The loss is in nats per character.
    """
    epoch, index = divmod(step - 1, self._steps_per_epoch)
    epochs = -(-self._num_steps // self._steps_per_epoch)
    # On a terminal there is no room for them.
    bits = "" if self._on_terminal else f" ({loss / math.log(2):.4f} bits)"
    text = (
      f"epoch {epoch + 1}/{epochs} step {step}/{self._num_steps} "
      f"loss {loss:.4f}{bits} {characters_per_second:,.0f} characters/s "
      f"{self._time_left(step)} left"
    )
    now = time.monotonic()
    due = now - self._last_line >= _SECONDS_BETWEEN_LINES
    if self._on_terminal:
      filled = 20 * (index + 1) // self._steps_per_epoch
      text += " [" + "=" * filled + "." * (20 - filled) + "]"
      # Over the last bar. A longer line would wrap, and could not be redrawn.
      say("\r\x1b[K" + text[: shutil.get_terminal_size().columns - 1])
    elif due or step == self._num_steps:
      say(text + "\n")
      self._last_line = now
    if self._is_first:  # it compiled: the time left is told without it
      self._start, self._is_first = (step, now), False
    elif self._estimate_due and now > self._start[1] + _SECONDS_BEFORE_ESTIMATE:
      minutes = self._time_left(step).total_seconds() / 60
      if minutes > 1:
        self.log(f"time     about {math.ceil(minutes):,} min left")
      self._estimate_due = False

  def log(self, text: str) -> None:
    """Writes a line that stays."""
    say(("\r\x1b[K" if self._on_terminal else "") + text + "\n")

  def _time_left(self, step: int) -> datetime.timedelta:
    first, start = self._start
    per_step = (time.monotonic() - start) / max(1, step - first)
    seconds = round(per_step * (self._num_steps - step))
    return datetime.timedelta(seconds=seconds)
