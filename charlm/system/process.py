"""What the programs share: parsing, exit codes, imports, and signals."""

import contextlib
import gc
import importlib
import io
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from charlm.errors import DivergedError, HungError, InputError, LostRunError
from charlm.options import Options
from charlm.system.cuda import preload
from charlm.system.flags import define_flags, given_flags, help_text
from charlm.system.messages import warn

# The codes of a shell for a program that a signal ended.
TERMINATED = 128 + signal.SIGTERM
INTERRUPTED = 128 + signal.SIGINT
# SLURM sends SIGUSR1 before a time limit, where `--signal` asks it to.
_STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
DONE = 0
# A save failed, or a line of --per_line could not be read; also the code of a
# lost run.
INCOMPLETE = LostRunError.exit_code


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


def run_command(
  command: Callable[[dict[str, Any]], int],
  options: type[Options],
  argv: list[str],
  usage: str | None,
) -> int:
  """Parses flags and runs a program's command.

  Args:
    command: takes the values of the flags that were given, by name; returns
      the exit code.
    options: the class whose fields are the flags.
    argv: the program's name and its arguments.
    usage: shown by `--help` above the flags.

  Returns:
    The exit code: bad input, in flags or files, is one line on stderr and 2.
  """
  name = os.path.basename(argv[0])
  values = define_flags(options)
  try:
    if extra := values(argv)[1:]:
      raise InputError(f"unexpected argument {extra[0]}")
  except Exception as error:  # the flags module's own, or a flag file's
    return fail(name, error, f"; see {name} --help")
  try:
    set_output_encoding("utf-8")  # whatever the locale
    if values.help:
      print(help_text(values, name, usage or ""), flush=True)
      return DONE
    with _ended_by_ctrl_c():
      exit_code = command(given_flags(values, options))
    # Here, where an error still becomes a line and a code.
    sys.stdout.flush()
    return exit_code
  except (InputError, DivergedError, LostRunError) as error:
    return fail(name, error)
  except HungError as error:
    os._exit(fail(name, error))
  except BrokenPipeError:  # nobody reads on, as in `| head`
    flush_or_drop_output()
    return 128 + signal.SIGPIPE
  except OSError as error:
    remedy = ": check the path, its permissions and the free space"
    return fail(name, error, remedy)


@contextlib.contextmanager
def _ended_by_ctrl_c() -> Iterator[None]:
  """Gives Ctrl-C its default action, which ends the process at once.

  Python would wait for the end of a call of TensorFlow, such as a compilation.
  """
  handler = signal.getsignal(signal.SIGINT)
  # The background jobs of a shell ignore Ctrl-C.
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

  What it lacks, such as a lone surrogate in a file's name, is escaped.
  """
  if isinstance(sys.stdout, io.TextIOWrapper):
    sys.stdout.reconfigure(encoding=encoding, errors="backslashreplace")


def flush_or_drop_output() -> None:
  """Flushes standard output; if that fails, what it holds goes nowhere.

  The interpreter would try again at its end, and complain.
  """
  try:
    sys.stdout.flush()
  except OSError:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def import_quietly(*modules: str, keep: bool = True) -> None:
  """Imports modules without the noise that TensorFlow makes on stderr.

  A `TF_CPP_MIN_LOG_LEVEL` below 3 in the environment brings it back.

  Args:
    modules: their names, such as `tensorflow`.
    keep: exempt all objects from garbage collection from now on.
  """
  level = os.environ["TF_CPP_MIN_LOG_LEVEL"]
  # A quarter of the time would go into looking for garbage among half a million
  # objects that stay.
  gc.disable()
  preload()
  try:
    with _stderr_to_nowhere() if level == "3" else contextlib.nullcontext():
      for module in modules:
        importlib.import_module(module)
  finally:  # a module may be missing
    if keep:
      gc.freeze()
    gc.enable()
  if level == "3":
    # With many models in one process, TensorFlow would warn of retracing, as if
    # they were one model.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)


@contextlib.contextmanager
def _stderr_to_nowhere() -> Iterator[None]:
  # The noise comes from C++, which knows the descriptor only.
  sys.stderr.flush()
  with open(os.devnull, "wb") as nowhere, open(os.dup(2), "wb") as saved:
    try:
      os.dup2(nowhere.fileno(), 2)
      yield
    finally:
      os.dup2(saved.fileno(), 2)


def fail(name: str, error: Exception, remedy: str = "") -> int:
  """Writes an error to stderr, after what was printed; returns its code."""
  flush_or_drop_output()
  # In one line: messages of absl and of the system may have several.
  warn(f"{name}: {' '.join(str(error).split())}{remedy}")
  return getattr(error, "exit_code", InputError.exit_code)
