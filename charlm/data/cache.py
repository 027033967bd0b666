"""Encoded corpora in files, so that a large one is encoded once.

A file has the ids, a JSON object that describes them, the object's size and
checksum, and magic bytes. Its name is a hash of the paths of the corpus' files
and of the flags that affect reading; it is used only if these files have kept
their sizes and the times of their last change.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import pathlib
import tempfile
import time
import zlib
from typing import Any, BinaryIO, cast

import numpy as np

from charlm.config import Config
from charlm.data.encoding import Corpus
from charlm.data.sources import Source
from charlm.data.text import OpenFile, StoredIds, Text
from charlm.system.process import warn

_MAGIC = b"charlm 1"  # with another version's, the file is written anew
_TAIL = 8 + 4 + len(_MAGIC)  # bytes: size, CRC-32, magic
_BLOCK = 2**24  # ids that have one checksum
_READING = ("raw", "lowercase", "unit", "field", "skip_bad")  # flags


class Cache:
  """The cache file of one corpus."""

  def __init__(
    self, folder: pathlib.Path, config: Config, sources: list[Source]
  ) -> None:
    """Takes a folder, which need not exist, and what is encoded."""
    # Lists, to compare with those from JSON; None for what is not a file.
    self._stamps = [s and [*s] for s in (x.stamp() for x in sources)]
    names = [stamp and stamp[0] for stamp in self._stamps]
    flags = [getattr(config, name) for name in _READING]
    key = hashlib.sha256(json.dumps([names, flags]).encode()).hexdigest()[:32]
    self._folder, self._encoding = folder, config.encoding
    self._path = folder / f"{key}.ids"
    self._temporary: list[str] = []  # the files that are not saved yet

  def load(self, verify: bool = False) -> Corpus | None:
    """Opens the corpus; None if it is not there, or its files have changed.

    Args:
      verify: compare the checksums of the ids, too.
    """
    try:
      opened = OpenFile(self._path.open("rb"))
    except OSError:  # missing; or unreadable, which `open_file` will tell
      return None
    try:
      about = _read_about(opened.file)
      # Standard input, which has no stamp, is another text in each start; the
      # plays have none either.
      if None in self._stamps or about["stamps"] != self._stamps:
        return None
      dtype = np.dtype(about["dtype"])
      ids = StoredIds(opened, dtype, 0, about["size"])
      if verify and about["crc32"] != _checksums(ids):
        raise ValueError("its checksums differ")
      text = Text(ids, np.array(about["characters"], np.uint32), self._encoding)
      return Corpus(text, np.array(about["counts"]), about["sha256"])
    except (ValueError, TypeError, LookupError, OverflowError) as error:
      warn(f"{self._path} cannot be used ({error}): the corpus is encoded anew")
      return None

  def open_file(self) -> BinaryIO:
    """Opens a new file in the folder for `save`.

    Raises OSError: it cannot be written.
    """
    self._folder.mkdir(parents=True, exist_ok=True)
    for path in self._folder.glob(f".{self._path.name}.*"):
      _remove_left_over(path)
    handle, name = tempfile.mkstemp("", f".{self._path.name}.", self._folder)
    self._temporary.append(name)
    fcntl.flock(handle, fcntl.LOCK_EX)  # as long as the file is in use
    return cast(BinaryIO, os.fdopen(handle, "w+b"))

  def save(self, corpus: Corpus) -> None:
    """Saves a corpus of files whose ids are in a file; else does nothing.

    Raises OSError: it cannot be written.
    """
    ids = corpus.text.ids
    if not isinstance(ids, StoredIds) or None in self._stamps:
      return
    about = {
      "stamps": self._stamps,
      "dtype": ids.dtype.name,
      "size": len(ids),
      "characters": [ord(char) for char in corpus.text.characters],
      "counts": corpus.counts.tolist(),
      "sha256": corpus.sha256,
      "crc32": _checksums(ids),
    }
    data = json.dumps(about).encode()
    file = ids.opened.file
    file.seek(0, os.SEEK_END)
    file.write(data + len(data).to_bytes(8, "little"))
    file.write(zlib.crc32(data).to_bytes(4, "little") + _MAGIC)
    file.flush()
    os.fsync(file.fileno())
    os.replace(self._temporary.pop(), self._path)

  def discard(self) -> None:
    """Removes what was opened and not saved."""
    while self._temporary:
      # One that was replaced by a larger one is not held any more, and another
      # start may have removed it.
      pathlib.Path(self._temporary.pop()).unlink(missing_ok=True)


def _remove_left_over(path: pathlib.Path) -> None:
  """Removes a file that no process holds, as after a kill."""
  with contextlib.suppress(OSError), path.open("rb") as file:
    # A new one may not be locked yet.
    if time.time() - os.fstat(file.fileno()).st_mtime > 60:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
      path.unlink()


def _read_about(file: BinaryIO) -> dict[str, Any]:
  """Reads what describes the ids of a file.

  Raises ValueError: it is not whole, or of another version.
  """
  end = file.seek(0, os.SEEK_END)
  file.seek(max(0, end - _TAIL))
  tail = file.read()
  if len(tail) < _TAIL or not tail.endswith(_MAGIC):
    raise ValueError("cut off, or of another version")
  start = end - _TAIL - int.from_bytes(tail[:8], "little")
  file.seek(max(0, start))
  data = file.read()[:-_TAIL]
  if zlib.crc32(data) != int.from_bytes(tail[8:12], "little"):
    raise ValueError("cut off, or its description has changed")
  about: dict[str, Any] = json.loads(data)
  if start != about["size"] * np.dtype(about["dtype"]).itemsize:
    raise ValueError("cut off")
  return about


def _checksums(ids: StoredIds) -> list[int]:
  starts = range(0, len(ids), _BLOCK)
  return [zlib.crc32(ids[start : start + _BLOCK].data) for start in starts]
