"""Encoded corpora in folders, so that a large one is encoded once.

A folder holds the ids, `ids.npy`, and what describes them, `about.json`. Its
name is a hash of the paths of the corpus' files and of the flags that affect
reading; it is used only if these files have kept their sizes and the times of
their last change.
"""

import contextlib
import json
import shutil
import time
from pathlib import Path
from tempfile import mkdtemp
from typing import BinaryIO

import numpy as np

from charlm.config import Config
from charlm.data.sources import Source
from charlm.data.text import Text, sha256
from charlm.data.text_to_ids import Corpus
from charlm.system.process import warn

_TEMPORARY = ".encoding-"
_SECONDS_LEFT = 86_400  # after which no process writes a temporary file
_FORMAT = 3  # incremented when texts are read or encoded otherwise
_READING = ("raw", "lowercase", "unit", "field", "skip_bad")  # flags


class Cache:
  """The folder of one corpus."""

  def __init__(
    self, folder: Path, config: Config, sources: list[Source]
  ) -> None:
    """Takes where the folder is, which need not exist, and what is encoded."""
    # Lists, to compare with those from JSON; None for what is not a file.
    self._stamps = [s and [*s] for s in (x.stamp() for x in sources)]
    names = [stamp and stamp[0] for stamp in self._stamps]
    flags = [getattr(config, name) for name in _READING]
    key = sha256([json.dumps([_FORMAT, names, flags]).encode()])[:32]
    self._encoding, self._path = config.encoding, folder / key
    self._temporary: Path | None = None

  def load(self) -> Corpus | None:
    """Opens the corpus; None if it is not kept, or its files have changed.

    Warns if what is kept is damaged.
    """
    # The plays have no stamp, nor has standard input, which may be another text
    # in each start.
    if None in self._stamps:
      return None
    try:
      about = json.loads((self._path / "about.json").read_bytes())
      if about["stamps"] != self._stamps:
        return None
      ids = np.asarray(np.load(self._path / "ids.npy", mmap_mode="r"))
      text = Text(ids, np.array(about["characters"], np.uint32), self._encoding)
      return Corpus(text, np.array(about["counts"]), about["sha256"])
    except OSError:
      return None
    except (EOFError, KeyError, ValueError) as error:  # cut off
      warn(f"{self._path} cannot be used ({error}): the corpus is encoded anew")
      shutil.rmtree(self._path, ignore_errors=True)
      return None

  def open_file(self) -> BinaryIO:
    """Opens a new file for ids, in place of one that it opened before.

    Raises OSError: it cannot be written.
    """
    self._path.parent.mkdir(parents=True, exist_ok=True)
    self.discard()
    # What kills have left of other encodings.
    for ids in self._path.parent.glob(f"{_TEMPORARY}*/ids.npy"):
      with contextlib.suppress(OSError):  # another process removes it, too
        if ids.stat().st_mtime < time.time() - _SECONDS_LEFT:
          shutil.rmtree(ids.parent)
    self._temporary = Path(mkdtemp(prefix=_TEMPORARY, dir=self._path.parent))
    return (self._temporary / "ids.npy").open("w+b")

  def save(self, corpus: Corpus) -> None:
    """Keeps a corpus whose ids are in a file that was opened, if it can be.

    Raises OSError: it cannot be written.
    """
    if None in self._stamps or not self._temporary:
      return
    about = {
      "stamps": self._stamps,
      "characters": [ord(char) for char in corpus.text.characters],
      "counts": corpus.counts.tolist(),
      "sha256": corpus.sha256,
    }
    (self._temporary / "about.json").write_text(json.dumps(about))
    # Another process may have been faster. On a network's disk it would lose
    # what it has mapped if its folder were replaced.
    if self.load():
      return
    shutil.rmtree(self._path, ignore_errors=True)
    with contextlib.suppress(OSError):  # faster since then
      self._temporary.rename(self._path)

  def discard(self) -> None:
    """Removes what was opened and not saved; a memory map of it stays whole."""
    if self._temporary:
      shutil.rmtree(self._temporary, ignore_errors=True)
