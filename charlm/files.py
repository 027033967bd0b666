"""Writing a file so that it is there whole or not at all."""

import os
import pathlib


def write_atomically(path: pathlib.Path, data: bytes) -> None:
  """Writes a file under a temporary name, syncs it and renames it.

  Raises OSError: the old file, if any, is then untouched.
  """
  temporary = path.with_name(f".{path.name}.{os.getpid()}")
  try:
    with temporary.open("wb") as file:
      file.write(data)
      file.flush()
      os.fsync(file.fileno())
    os.replace(temporary, path)
  except BaseException:
    temporary.unlink(missing_ok=True)
    raise
  folder = os.open(path.parent, os.O_RDONLY)
  try:
    os.fsync(folder)
  finally:
    os.close(folder)
