"""The files of a corpus."""

import contextlib
import dataclasses
import glob
import io
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from charlm.data.compression import decompress
from charlm.data.shakespeare import plays
from charlm.errors import InputError
from charlm.system.process import warn

# What a run's folder holds.
_OF_RUN = {"config.json", "vocabulary.json", "eval.txt", "valid.txt", "lock"}
_OF_RUN |= {"metrics.jsonl", "starts.jsonl", "checkpoints", "best", "summaries"}


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
