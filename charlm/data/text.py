"""A text as ids of its own characters, in memory or in a mapped file.

The characters have ids in the order in which they first occur (in a text of
bytes, the bytes' values), so that a text of any size is encoded in one pass,
before its vocabulary is known. A table then leads from these ids to those of a
vocabulary.
"""

import functools
import hashlib
from collections.abc import Iterable, Iterator

import numpy as np

from charlm.data.vocabulary import encode

_BLOCK = 2**20  # characters


class Text:
  """A text `[N]`, or a part of one."""

  def __init__(
    self, ids: np.ndarray, code_points: np.ndarray, encoding: str
  ) -> None:
    """Takes ids and what they mean.

    Args:
      ids: `[N]`; of a large text, a memory map, of which parts are no copies.
      code_points: the character of each id, uint32.
      encoding: `utf-8`, or `latin-1` for a text of bytes.
    """
    self.ids, self._code_points, self.encoding = ids, code_points, encoding

  def __len__(self) -> int:
    return len(self.ids)

  def __str__(self) -> str:
    return "".join(self.pieces())

  @functools.cached_property
  def sha256(self) -> str:
    """The hash of the text in its encoding."""
    return sha256(self.data())

  @property
  def characters(self) -> list[str]:
    """The characters in the order of their ids; a part may lack some."""
    return [chr(x) for x in self._code_points]

  def part(self, start: int, stop: int) -> "Text":
    """Returns the characters from `start` to `stop`, or to the end."""
    return Text(self.ids[start:stop], self._code_points, self.encoding)

  def table(self, vocab: list[str]) -> np.ndarray:
    """Returns the id in a vocabulary of each of the C characters, `[C]`.

    Characters that the vocabulary lacks become id 0. The type is the smallest
    one that fits, mostly a byte for each id.
    """
    return encode("".join(self.characters), vocab)

  def ids_in(self, vocab: list[str]) -> np.ndarray:
    """Returns the text in the ids of a vocabulary, `[N]`, in memory."""
    return self.table(vocab)[self.ids]

  def pieces(self) -> Iterator[str]:
    """Yields the text in pieces."""
    for ids in self._blocks():
      yield self._code_points[ids].tobytes().decode("utf-32-le")

  def data(self) -> Iterator[bytes]:
    """Yields the text in pieces, in its encoding."""
    return (piece.encode(self.encoding) for piece in self.pieces())

  def counts(self) -> np.ndarray:
    """Counts each of the text's C characters, `[C]`, by id, int64."""
    counts = np.zeros(len(self._code_points), np.int64)
    for ids in self._blocks():
      counts += np.bincount(ids, minlength=len(counts))
    return counts

  def num_bytes(self, counts: np.ndarray | None = None) -> int:
    """Returns the size in the text's encoding.

    If the result of `counts` is given, that saves a pass over the text.
    """
    sizes = [len(char.encode(self.encoding)) for char in self.characters]
    return int(np.dot(sizes, self.counts() if counts is None else counts))

  def last_places_of(self, character: str, number: int) -> np.ndarray:
    """Returns where a character occurs, `[M]`, in order.

    It reads from the end, until it has `number` places or more: most of a large
    text is not read.
    """
    (found,) = np.nonzero(self._code_points == ord(character))
    places, left = [np.zeros(0, np.int64)], number
    for start in reversed(range(0, len(self), _BLOCK)) if len(found) else ():
      if left <= 0:
        break
      here = np.flatnonzero(self.ids[start : start + _BLOCK] == found[0])
      places.append(start + here)
      left -= len(here)
    return np.concatenate(places[::-1])

  def _blocks(self) -> Iterator[np.ndarray]:
    for start in range(0, len(self), _BLOCK):
      yield self.ids[start : start + _BLOCK]


def readable(text: str, encoding: str) -> str:
  """Returns a model's text for a person: bytes are read as UTF-8."""
  return text.encode(encoding, "replace").decode(errors="replace")


def sha256(chunks: Iterable[bytes]) -> str:
  """Hashes what is yielded, as one."""
  digest = hashlib.sha256()
  for chunk in chunks:
    digest.update(chunk)
  return digest.hexdigest()
