"""Signals end a program at once, or after what it saves."""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from helpers import ROOT, Program

from charlm.system.signals import interrupts_for_caller, interrupts_held_back

# A program that stays in one call of TensorFlow, as in a compilation.
_BUSY = """
import contextlib
import signal
import sys
from charlm.options import Options
from charlm.system.process import import_quietly, run_command
from charlm.system.signals import StopRequest, interrupts_held_back
import_quietly("tensorflow")
import tensorflow as tf

@tf.function
def stay():
  tf.while_loop(lambda i: True, lambda i: [i + 1], [tf.constant(0, tf.int64)])

def command(args):
  # A shell's background jobs, these tests perhaps, ignore it.
  signal.signal(signal.SIGINT, signal.default_int_handler)
  stay.get_concrete_function()
  contexts = {
    "plain": contextlib.nullcontext,
    "held_back": interrupts_held_back,
    "saves": StopRequest,
  }
  with contexts[sys.argv[1]]():
    print("busy", flush=True)
    stay()

sys.exit(run_command(command, Options, ["busy.py"], "help"))
"""


@pytest.fixture
def start(tmp_path: pathlib.Path) -> Callable[..., Any]:
  script = tmp_path / "busy.py"
  script.write_text(_BUSY)

  @contextlib.contextmanager
  def start(how: str = "plain") -> Iterator[Program]:
    with Program(script, how) as process:
      try:
        while process.printed() != "busy\n":
          assert process.poll() is None
          time.sleep(0.02)
        time.sleep(0.2)  # until the call has begun
        yield process
      finally:
        process.kill()

  return start


@pytest.mark.parametrize("how", ["plain", "held_back"])
def test_ctrl_c_ends_a_call_of_tensorflow_that_does_not_return(
  how: str, start: Callable[..., Any]
) -> None:
  with start(how) as process:
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130


def test_the_signal_of_slurm_ends_as_sigterm(
  start: Callable[..., Any],
) -> None:
  with start() as process:
    process.send_signal(signal.SIGUSR1)
    assert process.wait(20) == 128 + signal.SIGTERM


def test_a_second_ctrl_c_ends_it_at_once(start: Callable[..., Any]) -> None:
  with start() as process:
    begin = time.monotonic()
    process.send_signal(signal.SIGINT)
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130
    # The first alone would have waited for the call.
    assert time.monotonic() - begin < 1.5


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_only_a_second_signal_ends_what_is_to_be_saved(
  number: signal.Signals, start: Callable[..., Any]
) -> None:
  with start("saves") as process:
    process.send_signal(number)
    with pytest.raises(subprocess.TimeoutExpired):
      process.wait(3)
    process.send_signal(number)
    assert process.wait(20) == 128 + number


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_at_once(second: signal.Signals) -> None:
  code = (
    "import os, signal\n"
    "from charlm.system.signals import StopRequest\n"
    "with StopRequest() as stop:\n"
    "  os.kill(os.getpid(), signal.SIGTERM)\n"
    "  print(stop.exit_code, flush=True)\n"
    "  signal.pause()"
  )
  with subprocess.Popen(
    [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True
  ) as process:
    assert process.stdout.readline() == "143\n"
    process.send_signal(second)
  assert process.returncode == -second


def test_a_ctrl_c_that_python_drops_comes_up_anew_once() -> None:
  before = signal.getsignal(signal.SIGINT)
  with interrupts_for_caller() as forget:
    for answered in (False, True):
      with contextlib.suppress(KeyboardInterrupt):  # as in a destructor
        os.kill(os.getpid(), signal.SIGINT)
      if answered:
        forget()
      else:
        with pytest.raises(KeyboardInterrupt), interrupts_held_back():
          pass
      with interrupts_held_back():
        pass
  assert signal.getsignal(signal.SIGINT) is before
