"""What signals do while a run is trained: it saves before it ends."""

import contextlib
import signal
from types import FrameType

# The codes of a shell for a program that a signal ended.
TERMINATED = 128 + signal.SIGTERM
INTERRUPTED = 128 + signal.SIGINT
# SLURM sends SIGUSR1 before a time limit, where `--signal` asks it to.
_STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class StopRequest(contextlib.ExitStack):
  """Notes SIGTERM, SIGINT or SIGUSR1; a second one ends the process."""

  exit_code = 0  # once a signal came, `INTERRUPTED` or `TERMINATED`

  def __enter__(self) -> "StopRequest":
    for number in _STOPS:
      self.callback(signal.signal, number, signal.signal(number, self._note))
    return self

  def __bool__(self) -> bool:
    """Tells whether a signal came."""
    return self.exit_code != 0

  def _note(self, number: int, frame: FrameType | None) -> None:
    self.exit_code = INTERRUPTED if number == signal.SIGINT else TERMINATED
    # Whoever asks twice does not want to wait for the save.
    for each in _STOPS:
      signal.signal(each, signal.SIG_DFL)
