"""The files of a corpus, and their content as bytes, decompressed."""

import bz2
import contextlib
import dataclasses
import glob
import gzip
import importlib
import io
import lzma
import os
import pathlib
import sys
from collections.abc import Callable, Iterator
from typing import Any, cast

from charlm.data.shakespeare import plays
from charlm.errors import InputError

CHUNK = 2**21  # bytes that are read at a time
# Text hardly ever shrinks to a hundredth, while a file of a megabyte that was
# made to do harm can hold a thousand gigabytes.
_MAX_EXPANSION = 1000
_ALWAYS_ALLOWED = 2**28  # bytes


class _Counted(io.RawIOBase):
  """A file that counts the bytes read from it."""

  def __init__(self, file: io.BufferedIOBase) -> None:
    self._file, self.num_bytes = file, 0

  def readable(self) -> bool:
    return True

  def readinto(self, buffer: Any) -> int:
    data = self._file.read(len(buffer))
    buffer[: len(data)] = data
    self.num_bytes += len(data)
    return len(data)


@dataclasses.dataclass
class Source:
  """A file, the plays, or standard input."""

  name: str  # a path, `shakespeare`, or `-`
  num_read: int = 0  # bytes of the file so far

  @property
  def path(self) -> pathlib.Path | None:
    """The file's path; None where there is no file."""
    special = self.name in ("shakespeare", "-")
    return None if special else pathlib.Path(self.name)

  @property
  def is_json_lines(self) -> bool:
    """Whether its name ends in `.jsonl`, or in that and `.gz` or the like."""
    names = [self.name.removesuffix(kind.suffix) for kind in _COMPRESSIONS]
    return any(name.endswith(".jsonl") for name in names)

  def stamp(self) -> tuple[str, int, int] | None:
    """Returns absolute path, size, and modification time in ns of a file."""
    if not self.path:
      return None
    status = self.path.stat()
    return str(self.path.absolute()), status.st_size, status.st_mtime_ns

  @contextlib.contextmanager
  def open(self) -> Iterator[io.BufferedIOBase]:
    """Opens it for reading, as it is.

    Raises InputError: no standard input.
    """
    if self.name == "shakespeare":
      yield io.BytesIO(plays())
    elif self.path:
      with self.path.open("rb") as file:
        yield file
    elif sys.stdin is None:
      raise InputError("standard input is closed: give a file in place of -")
    else:
      yield cast(io.BufferedIOBase, sys.stdin.buffer)

  def read(self) -> Iterator[bytes]:
    """Yields the content in chunks, decompressed where it is compressed.

    Raises InputError: compressed data that is damaged, or that becomes more
      than 1,000 times as large, or a file that changes in the meantime.
    """
    before = self.stamp()
    with self.open() as file:
      counted = _Counted(file)
      for chunk in _decompressed(self.name, counted):
        self.num_read = counted.num_bytes
        yield chunk
    if self.stamp() != before:
      raise InputError(
        f"{self.name} changed while it was read: start again when nothing "
        "writes to it"
      )


@dataclasses.dataclass(frozen=True)
class _Compression:
  name: str
  suffix: str
  magic: bytes  # what its data begins with
  open: Callable[..., Any]


def _open_zstd(file: Any) -> Any:
  # The standard library has it from Python 3.14 on.
  try:
    zstd = importlib.import_module("backports.zstd")
  except ImportError as error:
    raise InputError(
      "zstd data needs the extra zstd: install it by pip install -e '.[zstd]', "
      "or decompress the file"
    ) from error
  return zstd.ZstdFile(file)


_COMPRESSIONS = (
  _Compression(
    "gzip", ".gz", b"\x1f\x8b\x08", lambda f: gzip.GzipFile(fileobj=f)
  ),
  _Compression("bzip2", ".bz2", b"BZh", bz2.BZ2File),
  _Compression("xz", ".xz", b"\xfd7zXZ\0", lzma.LZMAFile),
  _Compression("zstd", ".zst", b"\x28\xb5\x2f\xfd", _open_zstd),
)
# What follows `BZh` and the level: the mark of a block, or that of the end.
_BZIP2_BLOCKS = (b"1AY&SY", b"\x17rE8P\x90")


def _decompressed(name: str, counted: _Counted) -> Iterator[bytes]:
  content: Any = io.BufferedReader(counted, CHUNK)
  kind = _compression(name, content.peek(10)[:10])
  stream, size = kind.open(content) if kind else content, 0
  while True:
    try:
      chunk = stream.read(CHUNK)
    except EOFError as error:
      raise InputError(
        f"{name} is {kind and kind.name} data, cut off at byte "
        f"{counted.num_bytes}: give the whole file"
      ) from error
    except Exception as error:  # each library has its own
      if not kind or getattr(error, "errno", None):
        raise  # from the system
      raise InputError(
        f"{name} is {kind.name} data, but damaged ({error}): give a whole copy"
      ) from error
    if not chunk:
      return
    size += len(chunk)
    if size > max(_ALWAYS_ALLOWED, _MAX_EXPANSION * counted.num_bytes):
      raise InputError(
        f"{name} becomes more than {_MAX_EXPANSION:,} times as large when it "
        "is decompressed: if that is right, decompress it and give the result"
      )
    yield chunk


def _compression(name: str, start: bytes) -> _Compression | None:
  for kind in _COMPRESSIONS:
    if start.startswith(kind.magic) and (
      kind.name != "bzip2" or start.endswith(_BZIP2_BLOCKS)
    ):
      return kind
    if start and name.endswith(kind.suffix):
      raise InputError(
        f"{name} is not {kind.name} data, as its name says: give a file that "
        "is, or rename it"
      )
  return None


def find_sources(spec: str) -> list[Source]:
  """Finds what a corpus is made of.

  Takes `shakespeare`, `-` for standard input, a file, a glob, a folder (its
  `*.txt`, sorted), or several of these separated by commas.

  Raises InputError: nothing there, or not a regular file.
  """
  # A file's name may have commas.
  parts = [spec] if os.path.exists(spec) else spec.split(",")
  return [source for part in parts for source in _sources_of(part)]


def _sources_of(part: str) -> list[Source]:
  if part in ("shakespeare", "-"):
    return [Source(part)]
  path = os.path.expanduser(part)
  if not part:
    raise InputError("an empty path among the files: leave out the comma")
  if os.path.isdir(path):
    paths = sorted(glob.glob(os.path.join(glob.escape(path), "*.txt")))
  elif os.path.exists(path):
    paths = [path]
  else:
    found = glob.glob(path, recursive=True)
    paths = sorted(p for p in found if not os.path.isdir(p))
  if not paths:
    raise InputError(
      f"no file at {part}: give a text file, a glob such as 'folder/*.md', a "
      "folder with *.txt files, or the name shakespeare"
    )
  for name in paths:
    if not os.path.isfile(name):
      raise InputError(
        f"{name} is not a regular file: give one, or its content as - on "
        "standard input"
      )
  return [Source(name) for name in paths]
