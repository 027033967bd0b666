"""The content of files that may be compressed."""

import bz2
import functools
import gzip
import io
import lzma
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeAlias

from charlm.errors import InputError

try:
  # Not `compression.zstd`, which Python has only from 3.14 on.
  from backports import zstd

  _HAS_ZSTD = True
except ImportError:
  _HAS_ZSTD = False
if TYPE_CHECKING:
  from _typeshed import WriteableBuffer

_Decompressor: TypeAlias = (
  "bz2.BZ2Decompressor | lzma.LZMADecompressor | zstd.ZstdDecompressor"
)

_CHUNK = 2**21  # bytes that are read at a time
# Against decompression bombs: a megabyte of one can hold a thousand gigabytes.
# Text hardly ever shrinks to a hundredth.
_MAX_EXPANSION = 1000
_ALWAYS_ALLOWED = 2**28  # bytes


class CountedFile(io.RawIOBase):
  """A file that counts the bytes read from it."""

  def __init__(self, file: io.BufferedIOBase) -> None:
    self._file, self.num_bytes = file, 0

  def readable(self) -> bool:
    """Returns True, as `io` asks."""
    return True

  def readinto(self, buffer: "WriteableBuffer") -> int:
    """Reads into a buffer; returns the number of bytes, 0 at the end."""
    num_bytes = self._file.readinto(buffer)
    self.num_bytes += num_bytes
    return num_bytes


def decompress(name: str, file: CountedFile) -> Iterator[bytes]:
  """Yields the content of a file in chunks, decompressed if it is compressed.

  Raises InputError, with the name: data that is damaged; that is not what the
    name says; that grows beyond both 1,000 times its size and 256 MiB; or that
    needs the extra zstd, which is missing.
  """
  content = io.BufferedReader(file, _CHUNK)
  start = content.peek(10)[:10]
  kind = next((k for k, magic in _MAGIC.items() if re.match(magic, start)), "")
  if start and not kind and name.endswith((".gz", ".bz2", ".xz", ".zst")):
    raise InputError(
      f"{name} is no gzip, bzip2, xz or zstd data: replace or rename it"
    )
  if kind == "zstd" and not _HAS_ZSTD:
    raise InputError(
      f"{name} is zstd data, which needs pip install -e '.[zstd]'"
    )
  size = 0
  try:
    for chunk in _read(kind, content):
      size += len(chunk)
      if size > max(_ALWAYS_ALLOWED, _MAX_EXPANSION * file.num_bytes):
        raise InputError(
          f"{name} expands to more than {_MAX_EXPANSION:,} times its size: "
          "decompress it, if that is right, and give the result"
        )
      yield chunk
  except EOFError as error:
    raise InputError(
      f"{name} is {kind} data, cut off at byte {file.num_bytes}: give all of it"
    ) from error
  except Exception as error:  # each library has its own
    # The system's errors, which have a number, do not come from the data.
    other = isinstance(error, InputError) or getattr(error, "errno", None)
    if not kind or other:
      raise
    raise InputError(
      f"{name} is {kind} data, but damaged ({error}): give a whole copy"
    ) from error


def _read(kind: str, file: io.BufferedIOBase) -> Iterator[bytes]:
  """Yields what a file of a kind, or of none, holds: all of its streams.

  Python's `bz2` and `lzma` files end without an error at a second stream that
  is damaged, so only `gzip`'s, which raise one, are used here.
  """
  if kind not in _CREATE:
    plain = gzip.GzipFile(fileobj=file) if kind == "gzip" else file
    yield from iter(functools.partial(plain.read, _CHUNK), b"")
    return
  decompressor, data = _CREATE[kind](), b""
  while True:
    if decompressor.eof:
      # A stream may be followed by zeros, which pad it.
      data = decompressor.unused_data.lstrip(b"\0")
      while not data:
        if not (more := file.read(_CHUNK)):
          return
        data = more.lstrip(b"\0")
      decompressor = _CREATE[kind]()
    elif decompressor.needs_input and not (data := file.read(_CHUNK)):
      raise EOFError
    if chunk := decompressor.decompress(data, _CHUNK):
      yield chunk
    data = b""  # until it needs input, it gives out what it has taken


# What the data of each compression begins with, as regular expressions.
_MAGIC = {
  "gzip": rb"\x1f\x8b\x08",
  # After `BZh` and the level: the mark of a block, or that of the end.
  "bzip2": rb"BZh[1-9](1AY&SY|\x17rE8P\x90)",
  "xz": rb"\xfd7zXZ\0",
  # Or a frame to be skipped, as parallel zstd writes.
  "zstd": rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18",
}
_CREATE: dict[str, Callable[[], _Decompressor]] = {
  "bzip2": bz2.BZ2Decompressor,
  "xz": lzma.LZMADecompressor,
  # A window of up to 2 GB, as published corpora have it.
  "zstd": lambda: zstd.ZstdDecompressor(
    options={zstd.DecompressionParameter.window_log_max: 31}
  ),
}
