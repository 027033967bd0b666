"""Imports, and how a program with a hanging call exits."""

import gc
import subprocess
import sys

import pytest

from charlm.system.process import import_quietly


def test_the_garbage_collector_is_on_after_a_failed_import() -> None:
  with pytest.raises(ModuleNotFoundError):
    import_quietly("no_such_module")
  assert gc.isenabled()


_HANGS = """
import sys, threading
from charlm.errors import HungError
from charlm.options import RunOptions
from charlm.system.process import run_command

def command(given):
  print("printed")
  threading.Thread(target=threading.Event().wait).start()
  raise HungError("no answer: turn it off")

sys.exit(run_command(command, RunOptions, ["train.py"], ""))
"""


def test_a_program_exits_despite_a_hanging_call() -> None:
  program = [sys.executable, "-c", _HANGS]
  result = subprocess.run(program, capture_output=True, text=True, timeout=60)
  assert result.returncode == 2
  assert result.stdout == "printed\n"
  assert result.stderr == "train.py: no answer: turn it off\n"
