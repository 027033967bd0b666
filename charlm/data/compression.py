"""The content of files that may be compressed, as their suffixes say."""

import bz2
import functools
import gzip
import io
import lzma
from collections.abc import Iterator
from typing import IO, cast

from charlm.errors import InputError

try:
  from backports import zstd

  _HAS_ZSTD = True
except ImportError:
  _HAS_ZSTD = False

_CHUNK = 2**21  # bytes that are read at a time


def decompress(name: str, file: io.BufferedIOBase) -> Iterator[bytes]:
  """Yields the content of a file in chunks, decompressed as its name says.

  Raises InputError, with the name: data that is cut off, not what the name
    says, or damaged (but in the header of a later stream, where bz2 and lzma
    end); or a name of zstd data where the extra zstd is missing.
  """
  compressed = name.endswith((".gz", ".bz2", ".xz", ".zst"))
  if name.endswith(".zst") and not _HAS_ZSTD:
    raise InputError(f"{name} needs zstd: pip install -e '.[zstd]'")
  content = _open(name, file) if compressed else file
  try:
    yield from iter(functools.partial(content.read, _CHUNK), b"")
  except Exception as error:  # each library has its own
    # The system's errors, which have a number, do not come from the data.
    if not compressed or getattr(error, "errno", None):
      raise
    raise InputError(
      f"{name} cannot be decompressed ({error}): give a whole copy, or rename "
      "it if it is not compressed"
    ) from error


def _open(name: str, file: io.BufferedIOBase) -> io.BufferedIOBase:
  """Opens a file by its suffix."""
  if name.endswith(".gz"):
    return gzip.GzipFile(fileobj=file)
  if name.endswith(".bz2"):
    return bz2.BZ2File(file)
  if name.endswith(".xz"):
    return lzma.LZMAFile(cast(IO[bytes], file))
  # A window of up to 2 GB, as published corpora have it.
  options = {int(zstd.DecompressionParameter.window_log_max): 31}
  return zstd.ZstdFile(file, options=options)
