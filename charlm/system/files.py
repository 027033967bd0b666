"""Atomic writes, JSON lines, the cache directory, and paths for TensorFlow."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from charlm.errors import InputError

_GLOB_CHARACTERS = frozenset("*?[]\\")


def cache_folder() -> Path:
  """Returns charlm's cache directory."""
  cache_home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
  return Path(os.path.expanduser(cache_home)) / "charlm"


def write_atomically(path: Path, chunks: Iterable[bytes]) -> None:
  """Writes a file under a temporary name, syncs it and renames it.

  Raises OSError: the old file, if any, is unchanged or, if only the sync of the
    folder failed, completely replaced.
  """
  # In the same folder, since a rename is atomic only within one file system. If
  # this process is killed, the next write overwrites the temporary file.
  temporary = path.with_name(f".{path.name}.tmp")
  try:
    with temporary.open("wb") as file:
      file.writelines(chunks)
      file.flush()
      # Sync before the rename: otherwise a power failure could leave an empty
      # file under the final name.
      os.fsync(file.fileno())
    os.replace(temporary, path)
  except BaseException:
    temporary.unlink(missing_ok=True)
    raise
  # The rename is durable only after the folder is synced, too.
  folder = os.open(path.parent, os.O_RDONLY)
  try:
    os.fsync(folder)
  finally:
    os.close(folder)


def append_lines(path: Path, lines: bytes) -> None:
  """Appends lines to a file, creating it if needed.

  Terminates a truncated last line first. Writes all lines or none, unless the
  process is killed.

  Raises OSError: the file cannot be written.
  """
  with path.open("a+b", buffering=0) as file:
    file.seek(max(0, file.tell() - 1))
    lines = b"\n" * (file.read() not in (b"", b"\n")) + lines
    if (size := file.write(lines)) < len(lines):  # the disk is full
      file.truncate(file.tell() - size)
      raise OSError("only some of the lines could be written")


def read_json_lines(path: Path) -> list[Any]:
  """Reads a value from each line of a file; none if it does not exist.

  Skips lines that are not JSON, which a killed process has truncated.
  """
  values = []
  if path.exists():
    for line in path.read_bytes().splitlines():
      with contextlib.suppress(ValueError):
        values.append(json.loads(line))
  return values


@contextlib.contextmanager
def moved_when_whole(path: Path) -> Iterator[str]:
  """Yields a temporary path; moves its file or folder to `path` at the end.

  Creates the parent folder of `path`. An error leaves nothing there.

  Raises OSError: the folder or the file cannot be written.
  """
  folder = path.with_name(f".{path.name}.tmp")
  shutil.rmtree(folder, ignore_errors=True)  # left by a killed process
  folder.mkdir(parents=True)
  try:
    yield os.path.join(folder, path.name)
    os.rename(folder / path.name, path)
  finally:
    shutil.rmtree(folder, ignore_errors=True)


def refuse_pattern(path: str | os.PathLike[str]) -> None:
  """Raises InputError: TensorFlow would read the path as a glob pattern."""
  if special := _GLOB_CHARACTERS.intersection(os.fspath(path)):
    raise InputError(
      f"{os.fspath(path)}: TensorFlow reads {' '.join(sorted(special))} as a "
      "glob pattern: rename the folder"
    )
