"""Writing a file so that it is there whole or not at all."""

import os
import pathlib
import tempfile


def write_atomically(path: pathlib.Path, data: bytes) -> None:
  """Writes a file under a temporary name, syncs it and renames it.

  Raises:
    OSError: the old file, if any, is then untouched.
  """
  with tempfile.NamedTemporaryFile(
    dir=path.parent, prefix=f".{path.name}.", delete=False
  ) as file:
    try:
      file.write(data)
      file.flush()
      os.fsync(file.fileno())
      os.chmod(file.name, 0o666 & ~_umask())
      os.replace(file.name, path)
    except BaseException:
      os.unlink(file.name)
      raise
  folder = os.open(path.parent, os.O_RDONLY)
  try:
    os.fsync(folder)
  finally:
    os.close(folder)


def _umask() -> int:
  umask = os.umask(0)
  os.umask(umask)
  return umask
