"""Reading a run's folder, which may come from elsewhere or be damaged."""

import codecs
import contextlib
import functools
import json
import os
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from charlm.data.encoding import encode_text
from charlm.data.text import Text, sha256
from charlm.errors import InputError

# A vocabulary of all of Unicode takes 17 MB, with the escapes of its file.
_LARGEST_FILE = 2**25  # bytes
_CHUNK = 2**20  # bytes
_CHECKPOINT = re.compile(r"ckpt-(0|[1-9]\d*)\.(index|data-00000-of-00001)")
_REMEDY = "restore it, or give another --run_dir"

_Parsed = TypeVar("_Parsed")


def parse_file(
  path: Path, parse: Callable[[object], _Parsed], digest: str | None = None
) -> _Parsed:
  """Reads a file of JSON and returns what `parse` makes of its value.

  Args:
    path: the file.
    parse: raises ValueError for what it cannot read.
    digest: the SHA-256 that the file must have, if it is known.

  Raises InputError: no such file, or one with other content.
  """
  with _named(path):
    # Before it is read: a sparse file of any size takes no room on a disk.
    if path.stat().st_size > _LARGEST_FILE:
      raise ValueError("larger than any such file of charlm")
    data = path.read_bytes()
    parsed = parse(json.loads(data.decode()))
  # After the parsing, whose message says more.
  if digest not in (None, sha256([data])):
    raise InputError(f"{path} has changed since the run began: {_REMEDY}")
  return parsed


def read_text_file(path: Path, encoding: str, digest: str) -> Text:
  """Reads a text of any size.

  Raises InputError: no such file, or one with another SHA-256.
  """
  with _named(path), path.open("rb") as file:
    chunks = iter(functools.partial(file.read, _CHUNK), b"")
    corpus = encode_text(codecs.iterdecode(chunks, encoding), encoding)
  if corpus.sha256 != digest:
    raise InputError(f"{path} has changed since the run began: {_REMEDY}")
  return corpus.text


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
  """Names the file in errors, and a remedy."""
  try:
    yield
  except FileNotFoundError as error:
    raise InputError(f"{path} is missing: {_REMEDY}") from error
  except (json.JSONDecodeError, RecursionError) as error:  # of "[[[[..."
    raise InputError(f"{path}: not JSON ({error}): {_REMEDY}") from error
  except ValueError as error:
    raise InputError(f"{path}: {error}: {_REMEDY}") from error


def refuse_foreign(lock: Path, own: list[Path]) -> None:
  """Refuses to make a run in a folder where others' files have a run's names.

  A run that was killed before it had a config has left a lock, which holds the
  number of a process or nothing.

  Raises InputError: naming the files.
  """
  if lock.is_file() and re.fullmatch(rb"\d*\n?", lock.read_bytes()):
    return
  # An empty folder is no file of somebody's: it may have been made, or mounted,
  # for this run.
  there = [
    path.name
    for path in (*own, lock)
    if (any(path.iterdir()) if path.is_dir() else os.path.lexists(path))
  ]
  if there:
    raise InputError(
      f"{lock.parent} is not a run's folder, but holds {', '.join(there)}, "
      "which a run would replace: give another --run_dir"
    )


def refuse_links(files: list[Path], folders: list[Path]) -> None:
  """Refuses links and devices, among the paths given and in the folders.

  A link could lead a reader, or the removal of old checkpoints, to any file of
  the machine.

  Raises InputError: a link or device, a folder in the place of a file, or a
    file in the place of a folder.
  """
  plain = [f for f in folders if f.is_dir() and not f.is_symlink()]
  within = [path for folder in plain for path in folder.iterdir()]
  for path in {*files, *folders, *within}:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
      mode = os.lstat(path).st_mode
      if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise InputError(f"{path} is a link or device: put a copy in its place")
      # A folder in the place of a file, or a file in that of a folder.
      if path in (files if stat.S_ISDIR(mode) else folders):
        kind = "file" if path in files else "folder"
        raise InputError(f"{path} is not a {kind}: move it away")


def checkpoint_steps(folder: Path, whole: bool = True) -> list[int]:
  """Lists the steps of a folder's checkpoints in order.

  Those with a missing file are listed unless they must be whole.
  """
  # Not `glob`, which takes a folder that cannot be read for an empty one.
  try:
    matches = map(_CHECKPOINT.fullmatch, os.listdir(folder))
  except FileNotFoundError:
    return []
  steps = [int(match[1]) for match in matches if match]
  return sorted({s for s in steps if steps.count(s) == 2 or not whole})
