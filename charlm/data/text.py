"""A text as ids of its own characters.

Ids are assigned in order of first occurrence (in a text of bytes, they are the
byte values). A text of any size is therefore encoded in one pass, before its
vocabulary is known. A table then maps these ids to those of a vocabulary.
"""

import functools
import hashlib
from collections.abc import Iterable, Iterator

import numpy as np

from charlm.data.vocabulary import encode

_CHUNK = 2**20  # characters


class Text:
  """A text `[N]`, or a part of one."""

  def __init__(
    self, ids: np.ndarray, code_points: np.ndarray, encoding: str
  ) -> None:
    """Wraps ids without copying them.

    Args:
      ids: `[N]`.
      code_points: the character of each id, uint32.
      encoding: `utf-8`, or `latin-1` for a text of bytes.
    """
    self.ids, self._code_points, self.encoding = ids, code_points, encoding

  def __len__(self) -> int:
    return len(self.ids)

  def __str__(self) -> str:
    return "".join(self.chunks())

  @functools.cached_property
  def sha256(self) -> str:
    """The hash of the text in its encoding."""
    return sha256(self.data())

  @property
  def characters(self) -> list[str]:
    """All characters by id; a part may contain only some of them."""
    return [chr(x) for x in self._code_points]

  def part(self, start: int, stop: int) -> "Text":
    """Returns the characters from `start` to `stop` or the end, as a view."""
    return Text(self.ids[start:stop], self._code_points, self.encoding)

  def table(self, vocab: list[str]) -> np.ndarray:
    """Returns the vocabulary's id of each of the C characters, `[C]`.

    Unknown characters become id 0. The dtype is the smallest that fits, usually
    uint8.
    """
    return encode("".join(self.characters), vocab)

  def ids_in(self, vocab: list[str]) -> np.ndarray:
    """Returns the text as ids of a vocabulary, `[N]`."""
    return self.table(vocab)[self.ids]

  def chunks(self) -> Iterator[str]:
    """Yields the text in chunks."""
    for ids in self._id_chunks():
      yield self._code_points[ids].tobytes().decode("utf-32-le")

  def data(self) -> Iterator[bytes]:
    """Yields the encoded text in chunks."""
    return (chunk.encode(self.encoding) for chunk in self.chunks())

  def num_bytes(self) -> int:
    """Returns the size of the encoded text."""
    counts = np.zeros(len(self._code_points), np.int64)
    for ids in self._id_chunks():
      counts += np.bincount(ids, minlength=len(counts))
    sizes = [len(char.encode(self.encoding)) for char in self.characters]
    return int(np.dot(sizes, counts))

  def last_places_of(self, character: str, number: int) -> np.ndarray:
    """Returns the sorted positions of a character's last occurrences, `[M]`.

    Reads chunks from the end until it has at least `number` positions, so that
    most of a large text is not read.
    """
    (char_id,) = np.nonzero(self._code_points == ord(character))
    places, left = [np.zeros(0, np.int64)], number
    for start in reversed(range(0, len(self), _CHUNK)) if len(char_id) else ():
      if left <= 0:
        break
      here = np.flatnonzero(self.ids[start : start + _CHUNK] == char_id[0])
      places.append(start + here)
      left -= len(here)
    return np.concatenate(places[::-1])

  def _id_chunks(self) -> Iterator[np.ndarray]:
    for start in range(0, len(self), _CHUNK):
      yield self.ids[start : start + _CHUNK]


def readable(text: str, encoding: str) -> str:
  """Returns a model's text for display: bytes are decoded as UTF-8."""
  return text.encode(encoding, "replace").decode(errors="replace")


def sha256(chunks: Iterable[bytes]) -> str:
  """Hashes the concatenated chunks."""
  digest = hashlib.sha256()
  for chunk in chunks:
    digest.update(chunk)
  return digest.hexdigest()
