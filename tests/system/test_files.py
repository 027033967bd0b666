"""Atomic writes, also after a killed one."""

import os
import pathlib
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from helpers import ROOT

from charlm.system.files import (
  moved_when_whole,
  write_atomically,
)

_KILLED = """
import os, pathlib, signal, sys
from charlm.system.files import moved_when_whole, write_atomically

def kill():
  yield b"half"
  os.kill(os.getpid(), signal.SIGKILL)

if sys.argv[1] == "write_atomically":
  write_atomically(pathlib.Path(sys.argv[2]), kill())
with moved_when_whole(pathlib.Path(sys.argv[2])) as path:
  pathlib.Path(path).write_bytes(b"half")
  list(kill())
"""


@pytest.mark.parametrize("function", [write_atomically, moved_when_whole])
def test_a_write_replaces_the_remains_of_a_killed_one(
  function: Callable[..., Any], tmp_path: pathlib.Path
) -> None:
  path = tmp_path / "a.npz"
  command = [sys.executable, "-c", _KILLED, function.__name__, path]
  subprocess.run(command, cwd=ROOT)
  assert not path.exists()
  assert os.listdir(tmp_path) != []
  if function is write_atomically:
    write_atomically(path, [b"whole"])
  else:
    with moved_when_whole(path) as temporary:
      pathlib.Path(temporary).write_bytes(b"whole")
  assert path.read_bytes() == b"whole"
  assert os.listdir(tmp_path) == ["a.npz"]
