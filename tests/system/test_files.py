"""Atomic writes, also after a killed one."""

import os
import pathlib
import subprocess
import sys

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


def _kill(function: str, path: pathlib.Path) -> None:
  command = [sys.executable, "-c", _KILLED, function, path]
  subprocess.run(command, cwd=ROOT)
  assert not path.exists()
  assert list(path.parent.iterdir()) != []


def test_a_write_replaces_the_remains_of_a_killed_one(
  tmp_path: pathlib.Path,
) -> None:
  path = tmp_path / "a.npz"
  _kill("write_atomically", path)
  write_atomically(path, [b"whole"])
  assert path.read_bytes() == b"whole"
  assert os.listdir(tmp_path) == ["a.npz"]


def test_a_move_replaces_the_remains_of_a_killed_one(
  tmp_path: pathlib.Path,
) -> None:
  path = tmp_path / "a.keras"
  _kill("moved_when_whole", path)
  with moved_when_whole(path) as temporary:
    pathlib.Path(temporary).write_bytes(b"whole")
  assert path.read_bytes() == b"whole"
  assert os.listdir(tmp_path) == ["a.keras"]
