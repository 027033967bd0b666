"""Finds the files of a corpus and decompresses them by suffix."""

import bz2
import contextlib
import dataclasses
import functools
import glob
import gzip
import io
import lzma
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

from charlm.data.shakespeare import plays
from charlm.errors import InputError
from charlm.system.messages import warn

# The contents of a run's folder.
_RUN_NAMES = {"config.json", "vocabulary.json", "eval.txt", "valid.txt", "lock"}
_RUN_NAMES |= {"metrics.jsonl", "starts.jsonl"}
_RUN_NAMES |= {"checkpoints", "best", "summaries"}
_DECOMPRESS: dict[str, Callable[..., io.BufferedIOBase]] = {
  ".gz": gzip.open,
  ".bz2": bz2.open,
  ".xz": lzma.open,
}
# Bytes per read. Lines are stripped twice as fast as in chunks of a megabyte.
_CHUNK = 2**16


@dataclasses.dataclass
class Source:
  """A file, Shakespeare's plays, or standard input."""

  name: str  # a path, `shakespeare`, or `-`
  is_file: bool = True

  @property
  def size(self) -> int:
    """The size of a file in bytes; 0 where the text's is not known."""
    known = self.is_file and self._decompress is None
    return os.path.getsize(self.name) if known else 0

  @contextlib.contextmanager
  def open(self) -> Iterator[io.BufferedIOBase]:
    """Opens the source for reading, without decompressing it.

    Raises InputError: the plays cannot be downloaded.
    """
    if self.is_file:
      with open(self.name, "rb") as file:
        yield file
    elif self.name == "shakespeare":
      yield io.BytesIO(plays())
    else:
      yield cast(io.BufferedIOBase, sys.stdin.buffer)

  def read(self) -> Iterator[bytes]:
    """Yields the content in chunks, decompressed by suffix.

    Raises InputError: the data is truncated, damaged or in another format. bz2
      and lzma stop silently at a damaged header of a later stream.
    """
    if self.name == "-" and sys.stdin.isatty():
      warn("reading the text from the terminal: end it with Ctrl-D")
    with self.open() as file:
      content = self._decompress(file) if self._decompress else file
      try:
        yield from iter(functools.partial(content.read, _CHUNK), b"")
      except Exception as error:  # each library raises its own
        # Errors with an errno come from the system, not from the data.
        if not self._decompress or getattr(error, "errno", None):
          raise
        raise InputError(
          f"{self.name} cannot be decompressed ({error}): give a complete "
          "copy, or rename it if it is not compressed"
        ) from error

  @property
  def _decompress(self) -> Callable[..., io.BufferedIOBase] | None:
    return _DECOMPRESS.get(os.path.splitext(self.name)[1])


def find_sources(spec: str) -> list[Source]:
  """Finds the sources of a corpus.

  `spec` is `shakespeare`, `-` for standard input, a file, a glob, a folder (its
  `*.txt`, sorted), or several of these separated by commas.

  Raises InputError: no file is found, or it is not a regular file.
  """
  # A file name may contain commas.
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
  matches = glob.glob(path, recursive=True)
  paths = {path for path in matches if not os.path.isdir(path)}
  # Skips charlm's own files. Sorted, since the order of `glob` depends on the
  # file system.
  texts = sorted(p for p in paths if not _is_own(p))
  if paths and not texts:
    raise InputError(
      f"all files at {part} belong to runs: name the files to read"
    )
  if not texts:
    raise InputError(
      f"no file at {part}: give a text file, a glob such as 'folder/*.md', a "
      "folder with *.txt files, or shakespeare"
    )
  return [_file(path) for path in texts]


def _file(path: str) -> Source:
  if not os.path.isfile(path):
    raise InputError(
      f"{path} is not a regular file: give one, or - and pipe in its content"
    )
  return Source(path)


def _is_own(path: str) -> bool:
  """Returns whether a file belongs to a run."""
  file = Path(path)
  # A run has `vocabulary.json` and `lock` before `config.json`; a copy of a run
  # may lack `lock`.
  return any(
    part.name in _RUN_NAMES
    and part.with_name("vocabulary.json").exists()
    and (
      part.with_name("config.json").exists() or part.with_name("lock").exists()
    )
    for part in (file, *file.parents)
  )
