"""Loads the corpus of a run: reads, cleans and encodes its files."""

import hashlib
import os
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from charlm.config import Config
from charlm.data.cleaning import read_sources
from charlm.data.sources import find_sources
from charlm.data.text import Text
from charlm.errors import InputError

_CHUNK = 2**20  # ids converted at a time
_NUM_CODE_POINTS = 0x110000


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


def encode_text(chunks: Iterable[str], encoding: str = "utf-8") -> Corpus:
  """Encodes a text chunk by chunk; takes less than 3 bytes a character.

  More than 65,536 different characters take 6.

  Args:
    chunks: consecutive chunks of the text, of any length.
    encoding: `utf-8`, or `latin-1` for a text of bytes.
  """
  digest = hashlib.sha256()
  counts = np.zeros(_NUM_CODE_POINTS, np.int64)  # by code point
  id_of = np.full(_NUM_CODE_POINTS, -1, np.int32)  # by code point
  characters = np.zeros(0, np.uint32)  # code points by id
  if encoding == "latin-1":  # ids are the byte values
    characters = np.arange(256, dtype=np.uint32)
    id_of[:256] = characters
  # A bytearray grows in place, which an array of NumPy does not.
  ids, dtype = bytearray(), np.dtype(np.uint8)
  for chunk in chunks:
    data = chunk.encode(encoding)
    digest.update(data)
    if len(data) == len(chunk):  # one byte per character
      codes = np.frombuffer(data, np.uint8)
    else:
      codes = np.frombuffer(chunk.encode("utf-32-le"), np.uint32)
    occurrences = np.bincount(codes)
    counts[: len(occurrences)] += occurrences
    chunk_ids = id_of.take(codes)
    if chunk_ids.min(initial=0) < 0:
      # New ids follow the order of first occurrence.
      new, first = np.unique(codes[chunk_ids < 0], return_index=True)
      new = new[np.argsort(first)].astype(np.uint32)
      id_of[new] = len(characters) + np.arange(len(new))
      characters = np.append(characters, new)
      chunk_ids = id_of.take(codes)
      narrow, dtype = dtype, np.min_scalar_type(len(characters) - 1)
      if dtype != narrow:
        ids = _converted(ids, narrow, dtype)
    ids += chunk_ids.astype(dtype).data
  text = Text(np.frombuffer(ids, dtype), characters, encoding)
  return Corpus(text, counts[characters], digest.hexdigest())


def _converted(ids: bytearray, old: np.dtype, new: np.dtype) -> bytearray:
  """Returns ids as a wider type, and empties the array that held them."""
  converted = bytearray()
  while ids:
    converted += np.frombuffer(ids[:_CHUNK], old).astype(new).data
    del ids[:_CHUNK]  # frees its memory as it shrinks
  return converted


def load_lines(spec: str, lowercase: bool = False) -> list[str]:
  """Returns the cleaned lines of a corpus.

  Args:
    spec: as `--corpus`.
    lowercase: also convert each line to lower case.

  Raises InputError: as `load_corpus`.
  """
  return str(load_corpus(Config(lowercase=lowercase), spec).text).split("\n")


def load_corpus(config: Config, spec: str) -> Corpus:
  """Reads a corpus that has text.

  Raises InputError: as `read_corpus`, or it has no text.
  """
  corpus = read_corpus(config, spec)
  # Whitespace alone is no text, except with unit byte, where `characters`
  # always contains all 256.
  if not len(corpus.text) or not "".join(corpus.text.characters).strip():
    raise InputError(f"{spec} has no line of text: give another file")
  return corpus


def read_corpus(config: Config, spec: str) -> Corpus:
  """Reads and encodes a text, which may be empty.

  Args:
    config: determines how files are read.
    spec: as `find_sources`.

  Raises InputError: no file is found, it cannot be read as text, or it is too
    large for the memory.
  """
  sources = find_sources(spec)
  _refuse_large(spec, sum(source.size for source in sources))
  chunks = _measured(read_sources(config, sources), spec)
  return encode_text(chunks, config.encoding)


def _measured(chunks: Iterable[str], spec: str) -> Iterator[str]:
  """Yields the chunks; raises InputError when they become too large."""
  size = 0
  for chunk in chunks:
    size += len(chunk)
    _refuse_large(spec, size)
    yield chunk


def _refuse_large(spec: str, size: int) -> None:
  """Raises InputError: this many bytes or characters may not fit in memory."""
  memory = _memory()
  if size > memory // 3:  # the most that `encode_text` takes
    raise InputError(
      f"{spec} has {size / 1e9:.1f} GB or more, above a third of the memory "
      f"here, {memory / 1e9:.1f} GB: give fewer files, or pipe in a part, "
      "head -c 1G FILE | train.py --corpus=-"
    )


def _memory() -> int:
  return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
