"""The files of a corpus, decompressed as their suffixes say."""

import bz2
import contextlib
import dataclasses
import functools
import glob
import gzip
import io
import lzma
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from charlm.data.shakespeare import plays
from charlm.errors import InputError
from charlm.system.messages import warn

# What a run's folder holds.
_OF_RUN = {"config.json", "vocabulary.json", "eval.txt", "valid.txt", "lock"}
_OF_RUN |= {"metrics.jsonl", "starts.jsonl", "checkpoints", "best", "summaries"}
_CHUNK = 2**21  # bytes that are read at a time


@dataclasses.dataclass
class Source:
  """A file, the plays, or standard input."""

  name: str  # a path, `shakespeare`, or `-`
  is_file: bool = True

  @property
  def is_json_lines(self) -> bool:
    """Whether its name ends in `.jsonl`, or in that and `.gz` or the like."""
    return bool(re.search(r"\.jsonl(\.(gz|bz2|xz|zst))?\Z", self.name))

  def stamp(self) -> tuple[str, int, int, int] | None:
    """Returns a file's absolute path, size, mtime, ctime (ns); else None."""
    path = Path(self.name).absolute()
    # A pipe's times change with what goes through it.
    if not self.is_file or not path.is_file():
      return None
    status = path.stat()
    # The ctime changes even where another file takes this one's place.
    return str(path), status.st_size, status.st_mtime_ns, status.st_ctime_ns

  @contextlib.contextmanager
  def open(self) -> Iterator[io.BufferedIOBase]:
    """Opens it for reading, without decompressing it.

    Raises InputError: plays that cannot be fetched.
    """
    if self.is_file:
      with open(self.name, "rb") as file:
        yield file
    elif self.name == "shakespeare":
      yield io.BytesIO(plays())
    else:
      yield cast(io.BufferedIOBase, sys.stdin.buffer)

  def read(self) -> Iterator[bytes]:
    """Yields the content in chunks, decompressed as its name says.

    Raises InputError: what `decompress` refuses, or a file that changes in the
      meantime.
    """
    if self.name == "-" and sys.stdin.isatty():
      warn("reads the text from the terminal: Ctrl-D ends it")
    before = self.stamp()
    with self.open() as file:
      yield from decompress(self.name, file)
    if self.stamp() != before:
      raise InputError(f"{self.name} changed while it was read: start again")


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
    return [Source(part, is_file=False)]
  path = os.path.expanduser(part)
  if not part:
    raise InputError("an empty path: name a file, or leave out a comma")
  if os.path.isdir(path):
    path = os.path.join(glob.escape(path), "*.txt")
  elif os.path.exists(path):
    return [_file(path)]
  found = glob.glob(path, recursive=True)
  paths = {path for path in found if not os.path.isdir(path)}
  # What charlm wrote is no part of a text. Sorted, since each disk lists a
  # folder in an order of its own.
  texts = sorted(p for p in paths if not _is_own(p))
  if paths and not texts:
    raise InputError(
      f"all files at {part} are of runs or caches: name those to be read"
    )
  if not texts:
    raise InputError(
      f"no file at {part}: give a text file, a glob such as 'folder/*.md', a "
      "folder with *.txt files, or the name shakespeare"
    )
  return [_file(path) for path in texts]


def _file(path: str) -> Source:
  if not os.path.isfile(path):
    raise InputError(
      f"{path} is not a regular file: give one, or - and pipe its content in"
    )
  return Source(path)


def _is_own(path: str) -> bool:
  """Tells whether a file belongs to a run's folder, or is a corpus' cache."""
  file = Path(path)
  # As `Cache` names them.
  if re.search(r"\b[0-9a-f]{32}/(ids\.npy|about\.json)\Z", path):
    return True
  # A run has `vocabulary.json` and `lock` before, and a copy perhaps no `lock`.
  return any(
    part.name in _OF_RUN
    and part.with_name("vocabulary.json").exists()
    and (
      part.with_name("config.json").exists() or part.with_name("lock").exists()
    )
    for part in (file, *file.parents)
  )


try:
  from backports import zstd

  _HAS_ZSTD = True
except ImportError:
  _HAS_ZSTD = False


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
