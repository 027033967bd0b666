"""Writing a file whole or not at all; names that TensorFlow can read."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from charlm.errors import InputError

_PATTERN = frozenset("*?[]\\")


def cache_folder() -> Path:
  """Returns the user's folder for what charlm can make again."""
  cache_home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
  return Path(os.path.expanduser(cache_home)) / "charlm"


def write_atomically(path: Path, chunks: Iterable[bytes]) -> None:
  """Writes a file under a temporary name, syncs it and renames it.

  Raises OSError: the file is then still the old one, if any; or, if only the
    sync of the folder failed, the whole new one.
  """
  # In the same folder: a rename is atomic only within one file system. The next
  # write replaces what a kill left.
  temporary = path.with_name(f".{path.name}.tmp")
  try:
    with temporary.open("wb") as file:
      file.writelines(chunks)
      file.flush()
      # Before the rename: after a power failure, the name could otherwise stand
      # for an empty file.
      os.fsync(file.fileno())
    os.replace(temporary, path)
  except BaseException:
    temporary.unlink(missing_ok=True)
    raise
  # The rename is durable only once the folder is synced, too.
  folder = os.open(path.parent, os.O_RDONLY)
  try:
    os.fsync(folder)
  finally:
    os.close(folder)


def append_lines(path: Path, lines: bytes) -> None:
  """Appends lines to a file, or makes it, after ending a line cut off.

  All are written, or none is: only a kill may leave a part of them.

  Raises OSError: it cannot be written.
  """
  with path.open("a+b", buffering=0) as file:
    file.seek(max(0, file.tell() - 1))
    lines = b"\n" * (file.read() not in (b"", b"\n")) + lines
    if (size := file.write(lines)) < len(lines):  # the disk is full
      file.truncate(file.tell() - size)
      raise OSError("only a part could be written")


def read_json_lines(path: Path) -> list[Any]:
  """Reads a value from each line of a file, if there is one.

  A line that is not JSON is left out: a kill has cut it off.
  """
  values = []
  if path.exists():
    for line in path.read_bytes().splitlines():
      with contextlib.suppress(ValueError):
        values.append(json.loads(line))
  return values


@contextlib.contextmanager
def moved_when_whole(path: Path) -> Iterator[str]:
  """Yields a name in a temporary folder; what is there at the end is moved.

  The folder of `path` is made; an error leaves nothing in it.

  Raises OSError: the folder or the file cannot be written.
  """
  folder = path.with_name(f".{path.name}.tmp")
  shutil.rmtree(folder, ignore_errors=True)  # what a kill left
  folder.mkdir(parents=True)
  try:
    yield os.path.join(folder, path.name)
    os.rename(folder / path.name, path)
  finally:
    shutil.rmtree(folder, ignore_errors=True)


def refuse_pattern(path: str | os.PathLike[str]) -> None:
  """Raises InputError: TensorFlow would take a path for a pattern of paths."""
  if found := _PATTERN.intersection(os.fspath(path)):
    raise InputError(
      f"{os.fspath(path)}: TensorFlow takes {' '.join(sorted(found))} for a "
      "pattern of names: rename the folder"
    )
