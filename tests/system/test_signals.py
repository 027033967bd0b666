"""Signals end a program at once, or after it has saved."""

import pathlib
import signal
import subprocess
import sys
import time
from typing import Any

from helpers import ROOT, Program

from charlm.options import Options
from charlm.system.process import run_command

# A program that is busy in one call to TensorFlow, as in a compilation.
_BUSY = """
import signal
import sys
from charlm.options import Options
from charlm.system.process import import_quietly, run_command
import_quietly("tensorflow")
import tensorflow as tf

@tf.function
def stay():
  tf.while_loop(lambda i: True, lambda i: [i + 1], [tf.constant(0, tf.int64)])

def command(given):
  stay.get_concrete_function()
  print("busy", flush=True)
  stay()

# A shell's background jobs, possibly these tests, ignore it.
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(run_command(command, Options, ["busy.py"], "help"))
"""


def test_ctrl_c_interrupts_a_call_to_tensorflow_at_once(
  tmp_path: pathlib.Path,
) -> None:
  script = tmp_path / "busy.py"
  script.write_text(_BUSY)
  with Program(script) as process:
    while process.printed() != "busy\n":
      assert process.poll() is None
      time.sleep(0.02)
    time.sleep(0.2)  # until the call has begun
    process.send_signal(signal.SIGINT)
    assert process.wait(1) == -signal.SIGINT


def test_a_second_signal_ends_the_process_at_once() -> None:
  code = (
    "import os, signal\n"
    "from charlm.system.process import StopRequest\n"
    "with StopRequest() as stop:\n"
    "  os.kill(os.getpid(), signal.SIGTERM)\n"
    "  print(stop.exit_code, flush=True)\n"
    "  signal.pause()"
  )
  with subprocess.Popen(
    [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True
  ) as process:
    assert process.stdout.readline() == "143\n"
    process.send_signal(signal.SIGINT)
  assert process.returncode == -signal.SIGINT


def test_run_command_restores_the_callers_ctrl_c_handler() -> None:
  seen = []

  def command(given: dict[str, Any]) -> int:
    seen.append(signal.getsignal(signal.SIGINT))
    return 0

  before = signal.getsignal(signal.SIGINT)
  try:
    for handler in (signal.default_int_handler, signal.SIG_IGN):
      signal.signal(signal.SIGINT, handler)
      assert run_command(command, Options, ["a.py"], "") == 0
      assert signal.getsignal(signal.SIGINT) is handler
  finally:
    signal.signal(signal.SIGINT, before)
  # A shell's background jobs ignore it, and keep running.
  assert seen == [signal.SIG_DFL, signal.SIG_IGN]
