"""Loads the corpus of a run, encoding it or reading it from the cache."""

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

_COPY_BYTES = 2**20  # copied at a time
_CHUNK = 2**15  # characters encoded at a time
_NUM_CODE_POINTS = 0x110000
_HEADER = 128  # bytes of the header of a one-dimensional .npy file
_TEMPORARY = ".encoding-"
_STALE_SECONDS = 86_400  # age of a temporary file that no process still writes
_FORMAT = 3  # increment it when texts are read or encoded differently
_READING = ("raw", "lowercase", "unit", "field", "skip_bad")  # in the cache key
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_IN_MEMORY = 2**28  # bytes of ids; larger texts go into a file


class Corpus(NamedTuple):
  """A whole text and its statistics."""

  text: Text
  counts: np.ndarray  # occurrences of each of the text's C characters, [C]
  sha256: str  # of the encoded text

  def frequent(self, min_count: int) -> list[str]:
    """Lists characters with at least `min_count` occurrences, or all bytes."""
    if self.text.encoding == "latin-1":
      return self.text.characters
    pairs = zip(self.text.characters, self.counts.tolist(), strict=True)
    return [char for char, count in pairs if count >= min_count]


class _Encoder:
  """Encodes a text chunk by chunk for `encode_text`."""

  def __init__(
    self, encoding: str, open_file: Callable[[], BinaryIO], max_bytes: float
  ) -> None:
    self._encoding = encoding
    self._open_file, self._max_bytes = open_file, max_bytes
    self._digest = hashlib.sha256()
    self._code_points = np.zeros(0, np.uint32)  # by id
    self._ids = np.full(_NUM_CODE_POINTS, -1, np.int32)  # by code point
    self._counts = np.zeros(_NUM_CODE_POINTS, np.int64)  # by code point
    self._dtype, self._size = np.dtype(np.uint8), 0
    # An .npy file; `finish` fills in its header.
    self.file: BinaryIO = io.BytesIO(bytes(_HEADER))
    self.file.seek(_HEADER)
    if encoding == "latin-1":  # ids are the byte values
      self._assign_ids(np.arange(256, dtype=np.uint32))

  def add(self, chunk: str) -> None:
    """Encodes the next chunk of the text."""
    data = chunk.encode(self._encoding)
    self._digest.update(data)
    if len(data) == len(chunk):  # one byte per character
      codes = np.frombuffer(data, np.uint8)
    else:
      codes = np.frombuffer(chunk.encode("utf-32-le"), np.uint32)
    counts = np.bincount(codes)
    self._counts[: len(counts)] += counts
    ids = self._ids[codes]
    if len(new := codes[ids < 0]):
      self._assign_ids(new)
      ids = self._ids[codes]
    self._size += len(ids)
    dtype = np.min_scalar_type(len(self._code_points) - 1)
    large = self._size * dtype.itemsize > self._max_bytes
    # The ids need a wider type, or more than the allowed memory.
    if dtype != self._dtype or (large and isinstance(self.file, io.BytesIO)):
      self._move(dtype, self._open_file() if large else io.BytesIO())
    self.file.write(ids.astype(dtype).data)

  def finish(self) -> Corpus:
    """Returns the corpus, whose ids stay in the encoder's file."""
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
      # Sync before the rename: otherwise a power failure could leave zeros.
      os.fsync(self.file.fileno())
      self.file.close()
      ids = np.asarray(np.load(self.file.name, mmap_mode="r"))
    text = Text(ids, self._code_points, self._encoding)
    counts = self._counts[self._code_points]
    return Corpus(text, counts, self._digest.hexdigest())

  def _assign_ids(self, code_points: np.ndarray) -> None:
    """Assigns ids to new characters in order of first occurrence."""
    new, first = np.unique(code_points, return_index=True)
    new = new[np.argsort(first)].astype(np.uint32)
    self._ids[new] = len(self._code_points) + np.arange(len(new))
    self._code_points = np.append(self._code_points, new)

  def _move(self, dtype: np.dtype, target: BinaryIO) -> None:
    """Moves the ids to another file and converts them to `dtype`."""
    self.file.seek(_HEADER)
    target.write(bytes(_HEADER))
    while data := self.file.read(_COPY_BYTES):
      target.write(np.frombuffer(data, self._dtype).astype(dtype).data)
    self.file.close()
    self.file, self._dtype = target, dtype


def read_text(config: Config, spec: str) -> Text:
  """Reads a text like a run's corpus, but without the cache.

  Raises InputError: it cannot be read.
  """
  chunks = read_sources(config, find_sources(spec))
  return encode_text(chunks, config.encoding).text


def encode_text(
  chunks: Iterable[str],
  encoding: str = "utf-8",
  open_file: Callable[[], BinaryIO] = io.BytesIO,
  in_memory: float = math.inf,
) -> Corpus:
  """Encodes a text chunk by chunk.

  Args:
    chunks: consecutive chunks of the text, of any length.
    encoding: `utf-8`, or `latin-1` for a text of bytes.
    open_file: opens a new file for more ids than fit in memory, which are then
      memory-mapped.
    in_memory: the largest size of ids in memory, in bytes; by default
      unlimited.

  Raises OSError: the file cannot be written.
  """
  encoder = _Encoder(encoding, open_file, in_memory)
  try:
    for chunk in chunks:
      # Shorter chunks are more often pure ASCII, which is faster.
      for start in range(0, len(chunk), _CHUNK):
        encoder.add(chunk[start : start + _CHUNK])
    return encoder.finish()
  except BaseException:
    encoder.file.close()
    raise


class Cache:
  """The cache of one encoded corpus, in a folder of its own."""

  def __init__(
    self, folder: Path, config: Config, sources: list[Source]
  ) -> None:
    """Names the cache by the sources and the flags that affect the text.

    `folder` contains the caches of all corpora, and need not exist.
    """
    # Lists, to compare equal after a JSON round trip; None if not a file.
    self._stamps = [s and [*s] for s in (x.stamp() for x in sources)]
    names = [stamp and stamp[0] for stamp in self._stamps]
    flags = [getattr(config, name) for name in _READING]
    key = sha256([json.dumps([_FORMAT, names, flags]).encode()])[:32]
    self._encoding, self._path = config.encoding, folder / key
    self._temporary: Path | None = None

  def load(self) -> Corpus | None:
    """Returns the cached corpus; None if there is none or its files changed.

    Discards a damaged cache with a warning.
    """
    # Shakespeare's plays have no stamp, nor has standard input, whose text may
    # differ in each run.
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
    except (EOFError, KeyError, ValueError) as error:  # truncated
      warn(f"{self._path} cannot be used ({error}): encoding the corpus again")
      shutil.rmtree(self._path, ignore_errors=True)
      return None

  def open_file(self) -> BinaryIO:
    """Opens a new file for ids, and discards the previous one, if any.

    Raises OSError: it cannot be written.
    """
    self._path.parent.mkdir(parents=True, exist_ok=True)
    self.discard()
    # Removes temporary files of killed processes.
    for ids in self._path.parent.glob(f"{_TEMPORARY}*/ids.npy"):
      with contextlib.suppress(OSError):  # another process removes it, too
        if ids.stat().st_mtime < time.time() - _STALE_SECONDS:
          shutil.rmtree(ids.parent)
    self._temporary = Path(mkdtemp(prefix=_TEMPORARY, dir=self._path.parent))
    return (self._temporary / "ids.npy").open("w+b")

  def save(self, corpus: Corpus) -> None:
    """Caches a corpus if its ids are in a file and its sources have stamps.

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
    # Another process may have been faster. Replacing its folder on a network
    # file system would break its memory map.
    if self.load():
      return
    shutil.rmtree(self._path, ignore_errors=True)
    with contextlib.suppress(OSError):  # another process saved it just now
      self._temporary.rename(self._path)

  def discard(self) -> None:
    """Removes an unsaved file; memory maps of it stay valid."""
    if self._temporary:
      shutil.rmtree(self._temporary, ignore_errors=True)


def load_lines(spec: str, lowercase: bool = False) -> list[str]:
  """Returns the cleaned lines of a corpus.

  Args:
    spec: as `--corpus`.
    lowercase: also convert each line to lower case.

  Raises InputError: no file is found, it is not UTF-8, or it has no text.
  """
  return str(load_corpus(Config(lowercase=lowercase), spec).text).split("\n")


def load_corpus(config: Config, spec: str, folder: str = "") -> Corpus:
  """Loads a corpus, encoded or from the cache.

  Args:
    config: determines how files are read.
    spec: as `find_sources`.
    folder: caches the ids of a corpus in files; by default, ids are in memory
      or, above 256 MiB, in the cache directory.

  Raises:
    InputError: no file is found, it does not match the config, it has no text,
      or the disk for the ids is full.
    OSError: the ids cannot be written.
  """
  sources = find_sources(spec)
  if config.field and not any(source.is_json_lines for source in sources):
    warn(f"field has no effect on {sources[0].name}: it is not named *.jsonl")
  place = Path(folder or cache_folder())
  cache = Cache(place, config, sources)
  if corpus := cache.load():
    return corpus
  # With a folder, ids of any size go into a file.
  in_memory = 0 if folder else _IN_MEMORY
  try:
    corpus = encode_text(
      chunks=read_sources(config, sources),
      encoding=config.encoding,
      open_file=cache.open_file,
      in_memory=in_memory,
    )
    # Whitespace alone is no text, except with unit byte, where `characters`
    # always contains all 256.
    if not len(corpus.text) or not "".join(corpus.text.characters).strip():
      raise InputError(f"{spec} has no line of text: give another file")
    cache.save(corpus)
  except OSError as error:
    if error.errno not in _FULL:
      raise
    raise InputError(
      f"{error.strerror} while writing ids to {place}: free some space, or "
      "give another --corpus_cache"
    ) from error
  finally:
    cache.discard()
  return corpus
