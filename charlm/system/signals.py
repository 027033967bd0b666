"""What signals do: they end a program, at once or after a save."""

import contextlib
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

# The codes of a shell for a program that a signal ended.
TERMINATED = 128 + signal.SIGTERM
INTERRUPTED = 128 + signal.SIGINT
# SLURM sends SIGUSR1 before a time limit, where `--signal` asks it to.
_STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
_PATIENCE = 2.0  # seconds that a signal waits for a call of TensorFlow


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
  """Lets signals end the program even inside a call of TensorFlow.

  Python runs its handlers only after the call, which may be a long compilation
  or a large product. So a thread watches, too: it ends the process at a second
  signal or, without a `StopRequest` to save a run, two seconds after the first.
  """
  if threading.current_thread() is not threading.main_thread():
    yield  # signals are the main thread's
    return
  # The interpreter's C handler writes each signal's number to the pipe at once,
  # whatever the main thread does.
  reader, writer = os.pipe()
  os.set_blocking(writer, False)  # which `set_wakeup_fd` asks for
  previous = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
  # Like SIGTERM, unless a `StopRequest` handles it, to save a run.
  handler = signal.signal(signal.SIGUSR1, lambda *_: sys.exit(TERMINATED))
  watch = threading.Thread(target=_watch_signals, args=[reader], daemon=True)
  watch.start()
  try:
    yield
  finally:
    signal.signal(signal.SIGUSR1, handler)
    signal.set_wakeup_fd(previous)
    os.write(writer, b"\0")
    watch.join()
    os.close(reader)
    os.close(writer)


class _Held:
  """Whether Ctrl-C is held back now, and whether one came."""

  on = came = False


def _hold_back(number: int, frame: FrameType | None) -> None:
  _Held.came = True
  if not _Held.on:
    signal.default_int_handler(number, frame)


# The handlers of SIGINT that raise a KeyboardInterrupt: at once or, while it is
# held back, at the end.
_ENDING = (signal.default_int_handler, _hold_back)


@contextlib.contextmanager
def interrupts_for_caller() -> Iterator[Callable[[], None]]:
  """Leaves Ctrl-C to a caller that goes on after a `KeyboardInterrupt`.

  Python drops an exception that is raised in a destructor or in a callback of a
  library. So each Ctrl-C is noted, and `interrupts_held_back` raises one that
  was noted. Yields a function that forgets it, for the caller to call once it
  has answered a Ctrl-C.
  """
  # Else a Ctrl-C would end the process two seconds later, see `_watch_signals`.
  wakeup = signal.set_wakeup_fd(-1)
  handler = signal.signal(signal.SIGINT, _hold_back)
  try:
    yield lambda: setattr(_Held, "came", False)
  finally:
    signal.signal(signal.SIGINT, handler)
    signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)


@contextlib.contextmanager
def interrupts_held_back() -> Iterator[None]:
  """Delays Ctrl-C to the end: inside TensorFlow it may crash the process.

  Does nothing outside the main thread, or where Ctrl-C does something else.
  """
  main = threading.current_thread() is threading.main_thread()
  handler = signal.getsignal(signal.SIGINT)
  if not main or handler not in _ENDING:
    yield
    return
  try:
    # Under `interrupts_for_caller`, one that Python dropped has yet to be
    # raised.
    if handler is not _hold_back:
      _Held.came = False
    _Held.on = True
    signal.signal(signal.SIGINT, _hold_back)
    yield
  finally:
    # First, since another signal's handler may raise in the next line.
    _Held.on = False
    signal.signal(signal.SIGINT, handler)
  came, _Held.came = _Held.came, False
  if came:
    raise KeyboardInterrupt


def _watch_signals(reader: int) -> None:
  """Ends the process at a second signal, or when the first takes too long.

  It reads the signals' numbers; a zero says that the command has ended.
  """
  number = os.read(reader, 1)[0]
  if not number:
    return
  # No limit under a `StopRequest`, which has a handler of its own: its save may
  # take its time.
  patience = _PATIENCE if signal.getsignal(signal.SIGINT) in _ENDING else None
  ready, _, _ = select.select([reader], [], [], patience)
  if not ready or os.read(reader, 1) != b"\0":
    os._exit(TERMINATED if number == signal.SIGUSR1 else 128 + number)


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
