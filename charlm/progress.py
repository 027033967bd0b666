"""What a person sees of the training: a bar on a terminal, else plain lines."""

import sys
import time

_SECONDS_BETWEEN_LINES = 10.0


class ProgressLine:
  """Shows loss, speed and time left."""

  def __init__(self, num_steps: int, steps_per_epoch: int, step: int) -> None:
    self._num_steps = num_steps
    self._steps_per_epoch = steps_per_epoch
    self._start = step, time.monotonic()
    self._last_report = -_SECONDS_BETWEEN_LINES
    self._on_terminal = sys.stdout.isatty()

  def show(self, step: int, loss: float, characters_per_second: float) -> None:
    """Redraws the bar; writes nothing where there is no terminal."""
    if self._on_terminal:
      print("\r\x1b[K" + self._text(step, loss, characters_per_second), end="")
      sys.stdout.flush()

  def log(self, text: str) -> None:
    """Writes a line that stays."""
    print(("\r\x1b[K" if self._on_terminal else "") + text, flush=True)

  def report(
    self, step: int, loss: float, characters_per_second: float
  ) -> None:
    """Writes a plain line where there is no terminal, not too often."""
    now = time.monotonic()
    due = now - self._last_report >= _SECONDS_BETWEEN_LINES
    if not self._on_terminal and (due or step == self._num_steps):
      print(self._text(step, loss, characters_per_second), flush=True)
      self._last_report = now

  def _text(self, step: int, loss: float, characters_per_second: float) -> str:
    epoch, index = divmod(step - 1, self._steps_per_epoch)
    epochs = -(-self._num_steps // self._steps_per_epoch)
    bar = ""
    if self._on_terminal:
      filled = 20 * (index + 1) // self._steps_per_epoch
      bar = "[" + "=" * filled + "." * (20 - filled) + "] "
    return (
      f"epoch {epoch + 1}/{epochs} {bar}step {step}/{self._num_steps} "
      f"loss {loss:.4f} {characters_per_second:,.0f} characters/s "
      f"{_duration(self._seconds_left(step))} left"
    )

  def _seconds_left(self, step: int) -> float:
    first, start = self._start
    elapsed = time.monotonic() - start
    return elapsed / max(1, step - first) * (self._num_steps - step)


def _duration(seconds: float) -> str:
  minutes, seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return (
    f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
  )
