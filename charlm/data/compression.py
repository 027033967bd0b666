"""The content of files that may be compressed."""

import bz2
import dataclasses
import functools
import gzip
import importlib
import io
import lzma
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

from charlm.errors import InputError

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

  def readinto(self, buffer: Any) -> int:
    """Reads into a buffer; returns the number of bytes, 0 at the end."""
    data = self._file.read(len(buffer))
    buffer[: len(data)] = data
    self.num_bytes += len(data)
    return len(data)


_Content: TypeAlias = "io.BufferedReader[CountedFile]"


@dataclasses.dataclass(frozen=True)
class _Compression:
  name: str
  suffix: str
  magic: bytes  # what its data begins with
  read: Callable[[_Content], Iterator[bytes]]


def decompress(name: str, file: CountedFile) -> Iterator[bytes]:
  """Yields the content of a file in chunks, decompressed if it is compressed.

  Raises InputError, with the name: data that is damaged, or that becomes more
    than 1,000 times as large (above 256 MiB).
  """
  content = io.BufferedReader(file, _CHUNK)
  kind = _kind_of(name, content.peek(10)[:10])
  size = 0
  try:
    for chunk in (kind.read if kind else _read_plain)(content):
      size += len(chunk)
      if size > max(_ALWAYS_ALLOWED, _MAX_EXPANSION * file.num_bytes):
        raise InputError(
          f"{name} becomes more than {_MAX_EXPANSION:,} times as large when it "
          "is decompressed: if that is right, decompress it and give the result"
        )
      yield chunk
  except EOFError as error:
    raise InputError(
      f"{name} is {kind and kind.name} data, cut off at byte "
      f"{file.num_bytes}: give the whole file"
    ) from error
  except Exception as error:  # each library has its own
    # The system's errors, which have a number, do not come from the data.
    other = isinstance(error, InputError) or getattr(error, "errno", None)
    if not kind or other:
      raise
    raise InputError(
      f"{name} is {kind.name} data, but damaged ({error}): give a whole copy"
    ) from error


def without_suffix(name: str) -> str:
  """Returns a file's name without what tells of a compression."""
  for kind in _COMPRESSIONS:
    name = name.removesuffix(kind.suffix)
  return name


def _kind_of(name: str, start: bytes) -> _Compression | None:
  if start[1:4] == b"\x2a\x4d\x18" and start[0] >> 4 == 5:
    return _COMPRESSIONS[-1]  # a frame to be skipped, as parallel zstd writes
  for kind in _COMPRESSIONS:
    if start.startswith(kind.magic) and (
      kind.name != "bzip2" or start.endswith(_BZIP2_BLOCKS)
    ):
      return kind
    if start and name.endswith(kind.suffix):
      raise InputError(
        f"{name} is not {kind.name} data, despite its name: give a file that "
        "is, or rename it"
      )
  return None


def _read_plain(file: "_Content | gzip.GzipFile") -> Iterator[bytes]:
  return iter(functools.partial(file.read, _CHUNK), b"")


def _read_gzip(file: _Content) -> Iterator[bytes]:
  return _read_plain(gzip.GzipFile(fileobj=file))


def _read_streams(create: Callable[[], Any], file: _Content) -> Iterator[bytes]:
  """Yields what the streams of a file hold, one after the other.

  Python's own readers end without a word at a second stream that is damaged.
  """
  decompressor, data = create(), b""
  while True:
    if decompressor.eof:
      # Zeros may fill up a stream.
      data = decompressor.unused_data.lstrip(b"\0")
      while not data:
        if not (more := file.read(_CHUNK)):
          return
        data = more.lstrip(b"\0")
      decompressor = create()
    elif decompressor.needs_input and not (data := file.read(_CHUNK)):
      raise EOFError
    if chunk := decompressor.decompress(data, _CHUNK):
      yield chunk
    data = b""


def _create_zstd() -> Any:
  # The standard library has it from Python 3.14 on.
  try:
    zstd = importlib.import_module("backports.zstd")
  except ImportError as error:
    raise InputError(
      "zstd data needs the extra zstd: install it by pip install -e '.[zstd]', "
      "or decompress the file"
    ) from error
  # A window of up to 2 GB, as published corpora have it.
  options = {zstd.DecompressionParameter.window_log_max: 31}
  return zstd.ZstdDecompressor(options=options)


def _streams(
  create: Callable[[], Any],
) -> Callable[[_Content], Iterator[bytes]]:
  return functools.partial(_read_streams, create)


_COMPRESSIONS = (
  _Compression("gzip", ".gz", b"\x1f\x8b\x08", _read_gzip),
  _Compression("bzip2", ".bz2", b"BZh", _streams(bz2.BZ2Decompressor)),
  _Compression("xz", ".xz", b"\xfd7zXZ\0", _streams(lzma.LZMADecompressor)),
  _Compression("zstd", ".zst", b"\x28\xb5\x2f\xfd", _streams(_create_zstd)),
)
# What follows `BZh` and the level: the mark of a block, or that of the end.
_BZIP2_BLOCKS = (b"1AY&SY", b"\x17rE8P\x90")
