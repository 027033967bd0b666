"""The corpus of a run: its text, encoded or found in the cache."""

import contextlib
import errno
import hashlib
import io
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import mkdtemp
from typing import BinaryIO, NamedTuple

import numpy as np

from charlm.config import Config
from charlm.data.cleaning import read_sources
from charlm.data.sources import Source, find_sources
from charlm.data.text import Text, sha256
from charlm.errors import InputError
from charlm.system.files import cache_folder
from charlm.system.messages import warn

_BLOCK = 2**20  # bytes that are moved at a time
_PIECE = 2**15  # characters that are encoded at a time
_NUM_CODE_POINTS = 0x110000
_HEADER = 128  # bytes of it in an .npy file with one dimension
_TEMPORARY = ".encoding-"
_SECONDS_LEFT = 86_400  # after which no process writes a temporary file
_FORMAT = 3  # incremented when texts are read or encoded otherwise
_READING = ("raw", "lowercase", "unit", "field", "skip_bad")  # flags
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_IN_MEMORY = 2**28  # bytes of ids; if there are more, all go into a file


class Corpus(NamedTuple):
  """A whole text, and what was found while it was encoded."""

  text: Text
  counts: np.ndarray  # of each of the text's C characters, [C]
  sha256: str  # of the text in its encoding

  def frequent(self, min_count: int) -> list[str]:
    """Lists characters that occur `min_count` times or more; of bytes, all."""
    if self.text.encoding == "latin-1":
      return self.text.characters
    pairs = zip(self.text.characters, self.counts.tolist(), strict=True)
    return [char for char, count in pairs if count >= min_count]


class _Encoder:
  """What `encode_text` does with each piece."""

  def __init__(
    self, encoding: str, open_file: Callable[[], BinaryIO], max_bytes: float
  ) -> None:
    self._encoding = encoding
    self._open_file, self._max_bytes = open_file, max_bytes
    self._digest = hashlib.sha256()
    self._code_points = np.zeros(0, np.uint32)  # in the order of their ids
    self._ids = np.full(_NUM_CODE_POINTS, -1, np.int32)  # of code points
    self._counts = np.zeros(_NUM_CODE_POINTS, np.int64)  # of code points
    self._dtype, self._size = np.dtype(np.uint8), 0
    # An .npy file, whose header is known at the end.
    self.file: BinaryIO = io.BytesIO(bytes(_HEADER))
    self.file.seek(_HEADER)
    if encoding == "latin-1":  # ids are the bytes: the file is the text
      self._learn(np.arange(256, dtype=np.uint32))

  def add(self, piece: str) -> None:
    """Encodes the next piece of the text."""
    data = piece.encode(self._encoding)
    self._digest.update(data)
    if len(data) == len(piece):  # a byte for each character
      codes = np.frombuffer(data, np.uint8)
    else:
      codes = np.frombuffer(piece.encode("utf-32-le"), np.uint32)
    counts = np.bincount(codes)
    self._counts[: len(counts)] += counts
    ids = self._ids[codes]
    if len(new := codes[ids < 0]):
      self._learn(new)
      ids = self._ids[codes]
    self._size += len(ids)
    dtype = np.min_scalar_type(len(self._code_points) - 1)
    large = self._size * dtype.itemsize > self._max_bytes
    # Too narrow, or too large for the memory.
    if dtype != self._dtype or (large and isinstance(self.file, io.BytesIO)):
      self._move(dtype, self._open_file() if large else io.BytesIO())
    self.file.write(ids.astype(dtype).data)

  def finish(self) -> Corpus:
    """Returns the corpus of all pieces, whose ids the encoder's file holds."""
    if isinstance(self.file, io.BytesIO):
      data = np.frombuffer(self.file.getbuffer(), np.uint8)
      ids = data[_HEADER:].view(self._dtype)
    else:
      header = {
        "descr": np.lib.format.dtype_to_descr(self._dtype),
        "fortran_order": False,
        "shape": (self._size,),
      }
      self.file.seek(0)
      np.lib.format.write_array_header_1_0(self.file, header)
      self.file.flush()
      # Before it is renamed: after a power failure, it could be of zeros.
      os.fsync(self.file.fileno())
      self.file.close()
      ids = np.asarray(np.load(self.file.name, mmap_mode="r"))
    text = Text(ids, self._code_points, self._encoding)
    counts = self._counts[self._code_points]
    return Corpus(text, counts, self._digest.hexdigest())

  def _learn(self, code_points: np.ndarray) -> None:
    """Gives ids to new characters, in the order in which they first occur."""
    new, first = np.unique(code_points, return_index=True)
    new = new[np.argsort(first)].astype(np.uint32)
    self._ids[new] = len(self._code_points) + np.arange(len(new))
    self._code_points = np.append(self._code_points, new)

  def _move(self, dtype: np.dtype, target: BinaryIO) -> None:
    """Moves the ids to another file, in a type that may be a wider one."""
    self.file.seek(_HEADER)
    target.write(bytes(_HEADER))
    while data := self.file.read(_BLOCK):
      target.write(np.frombuffer(data, self._dtype).astype(dtype).data)
    self.file.close()
    self.file, self._dtype = target, dtype


def read_text(config: Config, spec: str) -> Text:
  """Reads a text as the corpus of a run is read.

  Raises InputError: it cannot be read.
  """
  pieces = read_sources(config, find_sources(spec))
  return encode_text(pieces, config.encoding).text


def encode_text(
  pieces: Iterable[str],
  encoding: str = "utf-8",
  open_file: Callable[[], BinaryIO] = io.BytesIO,
  in_memory: float = math.inf,
) -> Corpus:
  """Encodes a text that comes in pieces.

  Args:
    pieces: of the text, of any lengths.
    encoding: `utf-8`, or `latin-1` for a text of bytes.
    open_file: opens a new file for the ids if they are many, which are then a
      memory map.
    in_memory: the most bytes of ids that are kept in memory; by default all.

  Raises OSError: the file cannot be written.
  """
  encoder = _Encoder(encoding, open_file, in_memory)
  try:
    for piece in pieces:
      # Short ones: in most texts many of these are ASCII, which is faster.
      for start in range(0, len(piece), _PIECE):
        encoder.add(piece[start : start + _PIECE])
    return encoder.finish()
  except BaseException:
    encoder.file.close()
    raise


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


def load_lines(spec: str, lowercase: bool = False) -> list[str]:
  """Returns the cleaned lines of a corpus.

  Args:
    spec: as `--corpus`.
    lowercase: also lower-case each line.

  Raises InputError: nothing there, not UTF-8, or no line with a character.
  """
  return str(load_corpus(Config(lowercase=lowercase), spec).text).split("\n")


def load_corpus(config: Config, spec: str, folder: str = "") -> Corpus:
  """Returns a corpus, encoded.

  Args:
    config: says how files are read.
    spec: `shakespeare`, `-` for standard input, or a file, a glob, a folder
      (its `*.txt`, sorted), or several of these separated by commas.
    folder: if the corpus is in files, a folder there keeps its ids; by default
      they are in memory or, above 256 MiB, in a folder in the user's cache.

  Raises:
    InputError: nothing there, not as the config says, or no line with a
      character, or the disk of the ids is full.
    OSError: the ids cannot be written.
  """
  sources = find_sources(spec)
  if config.field and not any(source.is_json_lines for source in sources):
    warn(f"field has no effect on {sources[0].name}: its name is not *.jsonl")
  place = Path(folder or cache_folder())
  cache = Cache(place, config, sources)
  if corpus := cache.load():
    return corpus
  # Whoever names a folder wants the file, however small.
  in_memory = 0 if folder else _IN_MEMORY
  try:
    corpus = encode_text(
      pieces=read_sources(config, sources),
      encoding=config.encoding,
      open_file=cache.open_file,
      in_memory=in_memory,
    )
    # White space alone is no text, except of bytes, whose `characters` are
    # always all 256.
    if not len(corpus.text) or not "".join(corpus.text.characters).strip():
      raise InputError(f"{spec} has no line of text: give another file")
    cache.save(corpus)
  except OSError as error:
    if error.errno not in _FULL:
      raise
    raise InputError(
      f"{error.strerror} for the ids in {place}: free some space, or give "
      "another --corpus_cache"
    ) from error
  finally:
    cache.discard()
  return corpus
