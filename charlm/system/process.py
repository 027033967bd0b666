"""Shared by all programs: flag parsing, exit codes, imports and signals."""

import contextlib
import gc
import importlib
import io
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from charlm.errors import DivergedError, InputError, LostRunError
from charlm.options import Options
from charlm.system.cuda import preload
from charlm.system.flags import define_flags, given_flags, help_text
from charlm.system.messages import warn

# A shell's exit codes for programs that a signal ended.
TERMINATED = 128 + signal.SIGTERM
INTERRUPTED = 128 + signal.SIGINT
# With `--signal`, SLURM sends SIGUSR1 before the time limit.
_STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
DONE = 0
# A save failed, or a line of --per_line could not be read. A lost run has the
# same code.
INCOMPLETE = LostRunError.exit_code


class StopRequest(contextlib.ExitStack):
  """Records SIGTERM, SIGINT or SIGUSR1; a second one ends the process."""

  exit_code = 0  # after a signal, `INTERRUPTED` or `TERMINATED`

  def __enter__(self) -> "StopRequest":
    for number in _STOPS:
      self.callback(signal.signal, number, signal.signal(number, self._note))
    return self

  def __bool__(self) -> bool:
    """Returns whether a signal has arrived."""
    return self.exit_code != 0

  def _note(self, number: int, frame: FrameType | None) -> None:
    self.exit_code = INTERRUPTED if number == signal.SIGINT else TERMINATED
    # A user who asks twice does not want to wait for the save.
    for each in _STOPS:
      signal.signal(each, signal.SIG_DFL)


def run_command(
  command: Callable[[dict[str, Any]], int],
  options: type[Options],
  argv: list[str],
  usage: str | None,
  unnamed: str = "",
) -> int:
  """Parses flags and runs a program's command.

  Args:
    command: takes the values of the given flags by name; returns the exit code.
    options: the class that declares the flags.
    argv: the program's name and its arguments.
    usage: text that `--help` shows above the flags.
    unnamed: the flag that takes the arguments without a flag, joined by
      newlines; by default there are none.

  Returns:
    The exit code. Invalid flags or files print one line on stderr and exit
    with 2.
  """
  name = os.path.basename(argv[0])
  values = define_flags(options)
  try:
    extra = values(argv)[1:]
    if extra and (not unnamed or values[unnamed].present):
      raise InputError(f"unexpected argument {extra[0]}")
    if extra:
      values[unnamed].parse("\n".join(extra))
  except Exception as error:  # from absl, or from reading a flag file
    return fail(name, error, f"; see {name} --help")
  try:
    set_output_encoding("utf-8")  # in any locale
    if values.help:
      print(help_text(values, name, usage or ""), flush=True)
      return DONE
    with _ended_by_ctrl_c():
      exit_code = command(given_flags(values, options))
    sys.stdout.flush()  # inside the try, which handles errors such as EPIPE
    return exit_code
  except (InputError, DivergedError, LostRunError) as error:
    return fail(name, error)
  except BrokenPipeError:  # the reader has closed the pipe, as in `| head`
    flush_or_drop_output()
    return 128 + signal.SIGPIPE
  except OSError as error:
    remedy = ": check the path, its permissions and the free space"
    return fail(name, error, remedy)


@contextlib.contextmanager
def _ended_by_ctrl_c() -> Iterator[None]:
  """Lets Ctrl-C end the process at once, its default action.

  Python's handler would wait until a call to TensorFlow, such as a compilation,
  returns.
  """
  handler = signal.getsignal(signal.SIGINT)
  # Background jobs of a shell ignore Ctrl-C.
  if handler is not signal.default_int_handler:
    yield
    return
  signal.signal(signal.SIGINT, signal.SIG_DFL)
  try:
    yield
  finally:
    signal.signal(signal.SIGINT, handler)


def set_output_encoding(encoding: str) -> None:
  """Sets the encoding of standard output.

  Escapes unencodable characters, such as lone surrogates in file names.
  """
  if isinstance(sys.stdout, io.TextIOWrapper):
    sys.stdout.reconfigure(encoding=encoding, errors="backslashreplace")


def flush_or_drop_output() -> None:
  """Flushes standard output, or discards its buffer if that fails.

  Otherwise the interpreter would try again at exit, and complain.
  """
  try:
    sys.stdout.flush()
  except OSError:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def when_changed(
  look: Callable[[], object], idle_timeout: float, seconds: float = 1.0
) -> Iterator[None]:
  """Looks every few seconds, and yields when the result has changed.

  The iterator ends after `idle_timeout` seconds without a change.
  """
  before: object = None
  last_change = time.monotonic()
  while True:
    if (now := look()) != before:
      before, last_change = now, time.monotonic()
      yield
    elif time.monotonic() - last_change >= idle_timeout:
      return
    time.sleep(seconds)


def import_quietly(*modules: str, keep: bool = True) -> None:
  """Imports modules and hides TensorFlow's messages on stderr.

  `TF_CPP_MIN_LOG_LEVEL` below 3 in the environment shows them.

  Args:
    modules: names, such as `tensorflow`.
    keep: exempt all existing objects from garbage collection afterwards.
  """
  level = os.environ["TF_CPP_MIN_LOG_LEVEL"]
  # Importing creates half a million objects, all of them permanent. Scanning
  # them for garbage would take a quarter of the time.
  gc.disable()
  preload()
  try:
    with discarded_stderr() if level == "3" else contextlib.nullcontext():
      for module in modules:
        importlib.import_module(module)
  finally:  # also if a module is missing
    if keep:
      gc.freeze()
    gc.enable()
  if level == "3":
    # Otherwise TensorFlow takes many models in one process for one model that
    # is retraced, and warns.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)


@contextlib.contextmanager
def discarded_stderr() -> Iterator[None]:
  """Discards what Python and C++ write to stderr."""
  # C++ writes to the file descriptor, not to `sys.stderr`.
  sys.stderr.flush()
  with open(os.devnull, "wb") as devnull, open(os.dup(2), "wb") as saved:
    try:
      os.dup2(devnull.fileno(), 2)
      yield
    finally:
      os.dup2(saved.fileno(), 2)


def fail(name: str, error: Exception, remedy: str = "") -> int:
  """Writes an error to stderr as one line; returns its exit code."""
  flush_or_drop_output()
  # absl's and the system's messages may have several lines.
  warn(f"{name}: {' '.join(str(error).split())}{remedy}")
  return getattr(error, "exit_code", InputError.exit_code)
