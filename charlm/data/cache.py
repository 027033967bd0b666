"""Encoded corpora in files, so that a large one is encoded once.

A file has the ids and, after them, a zip archive of one JSON object, which
describes them. Its name is a hash of the paths of the corpus' files and of the
flags that affect reading; it is used only if these files have kept their sizes
and the times of their last change.
"""

import contextlib
import fcntl
import json
import os
import tempfile
import time
import zipfile
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from charlm.config import Config
from charlm.data.encoding import Corpus
from charlm.data.sources import Source
from charlm.data.text import OpenFile, StoredIds, Text, sha256
from charlm.system.process import warn

_ABOUT = "charlm 2.json"  # other versions' files lack this member
_READING = ("raw", "lowercase", "unit", "field", "skip_bad")  # flags


class Cache:
  """The cache file of one corpus."""

  def __init__(
    self, folder: Path, config: Config, sources: list[Source]
  ) -> None:
    """Takes a folder, which need not exist, and what is encoded."""
    # Lists, to compare with those from JSON; None for what is not a file.
    self._stamps = [s and [*s] for s in (x.stamp() for x in sources)]
    names = [stamp and stamp[0] for stamp in self._stamps]
    flags = [getattr(config, name) for name in _READING]
    key = sha256([json.dumps([names, flags]).encode()])[:32]
    self._folder, self._encoding = folder, config.encoding
    self._path = folder / f"{key}.ids"
    self._temporary: list[str] = []  # the files that are not saved yet

  def load(self, verify: bool = False) -> Corpus | None:
    """Opens the corpus; None if it is not kept, or its files have changed.

    Warns if what is kept is damaged.

    Args:
      verify: compare the text's SHA-256, too.
    """
    # The plays have no stamp, nor has standard input, which may be another text
    # in each start.
    # A named pipe in the cache file's place would wait for a writer.
    if None in self._stamps or not os.path.isfile(self._path):
      return None
    try:
      opened = OpenFile(self._path.open("rb"))
      with zipfile.ZipFile(opened.file) as archive:
        about = json.loads(archive.read(_ABOUT))  # compares its checksum
        num_bytes = archive.getinfo(_ABOUT).header_offset
      if about["stamps"] != self._stamps:
        return None
      ids = StoredIds(opened, np.dtype(about["dtype"]), 0, about["size"])
      if num_bytes != len(ids) * ids.dtype.itemsize:
        raise ValueError("it is truncated")
      text = Text(ids, np.array(about["characters"], np.uint32), self._encoding)
      if verify and about["sha256"] != sha256(text.data()):
        raise ValueError("its SHA-256 differs")
      return Corpus(text, np.array(about["counts"]), about["sha256"])
    except Exception as error:  # unreadable, or one of zipfile's for damage
      cause = str(error).partition(":")[0]  # without a remedy
      warn(f"{self._path} cannot be used ({cause}): the corpus is encoded anew")
      return None

  def open_file(self) -> BinaryIO:
    """Opens a new file in the folder for `save`.

    Raises OSError: it cannot be written.
    """
    self._folder.mkdir(parents=True, exist_ok=True)
    for path in self._folder.glob(f".{self._path.name}.*"):
      # Those that no process holds, as after a kill.
      with contextlib.suppress(OSError), path.open("rb") as file:
        # A new one may not be locked yet.
        if time.time() - os.fstat(file.fileno()).st_mtime > 60:
          fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
          path.unlink()
    handle, name = tempfile.mkstemp("", f".{self._path.name}.", self._folder)
    self._temporary.append(name)
    fcntl.flock(handle, fcntl.LOCK_EX)  # as long as the file is in use
    return cast(BinaryIO, os.fdopen(handle, "w+b"))

  def save(self, corpus: Corpus) -> None:
    """Saves a corpus if its sources and its ids are in files.

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
    }
    file = ids.opened.file
    file.seek(0, os.SEEK_END)
    with zipfile.ZipFile(file, "w") as archive:
      # Given a name alone, `writestr` would write the current time, too.
      archive.writestr(zipfile.ZipInfo(_ABOUT), json.dumps(about))
    file.flush()
    os.fsync(file.fileno())
    os.replace(self._temporary[-1], self._path)
    self._temporary.pop()

  def discard(self) -> None:
    """Removes what was opened and not saved."""
    while self._temporary:
      # If the encoder moved the ids to a file of wider ids, the file before is
      # closed, and so unlocked: another process may have removed it.
      Path(self._temporary.pop()).unlink(missing_ok=True)
