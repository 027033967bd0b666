"""From the pieces of a text to its ids, in one pass and in bounded memory.

To encode is to find ids; an `encoding` is how characters are written as bytes.
"""

import hashlib
import io
import math
import os
from collections.abc import Callable, Iterable
from typing import BinaryIO, NamedTuple

import numpy as np

from charlm.data.text import Text

_BLOCK = 2**20  # bytes that are moved at a time
_PIECE = 2**15  # characters that are encoded at a time
_NUM_CODE_POINTS = 0x110000
_HEADER = 128  # bytes of it in an .npy file with one dimension


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
