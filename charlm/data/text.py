"""A text as ids of its own characters, in memory or in a file.

The characters have ids in the order in which they first occur (in a text of
bytes, the bytes' values), so that a text of any size is encoded in one pass,
before its vocabulary is known. `Ids` then reads the text in the ids of a
vocabulary.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator
from typing import BinaryIO, Protocol

import numpy as np

from charlm.data.vocabulary import encode
from charlm.errors import InputError

_BLOCK = 2**20  # characters


class OpenFile:
  """A file that is closed, without a warning, when nothing refers to it."""

  def __init__(self, file: BinaryIO) -> None:
    self.file = file

  # Parts of a text share the file: none knows when the others are gone.
  def __del__(self) -> None:
    try:  # noqa: SIM105 - at the interpreter's end, `contextlib` is gone
      self.file.close()
    except OSError:  # of a full disk: a write has raised it before
      pass


class StoredIds:
  """Ids `[N]` in a file, which are read where a slice asks for them.

  Not a memory map, which would end the process where the file is truncated.
  """

  def __init__(
    self, opened: OpenFile, dtype: np.dtype, start: int, stop: int
  ) -> None:
    """Takes a file of ids, and which of them: from `start` to `stop`."""
    self.opened, self.dtype = opened, dtype
    self._start, self._stop = start, stop

  def __len__(self) -> int:
    return self._stop - self._start

  def __getitem__(self, key: slice) -> np.ndarray:
    start, stop, _ = key.indices(len(self))
    width, size = self.dtype.itemsize, max(0, stop - start)
    num_bytes, offset = size * width, (self._start + start) * width
    # Not `seek` and `read`: parts share the file, and so its position.
    data = os.pread(self.opened.file.fileno(), num_bytes, offset)
    if len(data) < num_bytes:
      raise InputError("the encoded corpus was truncated: start again")
    return np.frombuffer(data, self.dtype)

  def part(self, start: int, stop: int) -> "StoredIds":
    """Returns the ids from `start` to `stop`, unread."""
    first = self._start
    return StoredIds(self.opened, self.dtype, first + start, first + stop)


class Text:
  """A text `[N]`, or a part of one."""

  def __init__(
    self, ids: np.ndarray | StoredIds, code_points: np.ndarray, encoding: str
  ) -> None:
    """Takes ids and what they mean.

    Args:
      ids: `[N]`.
      code_points: the character of each id, uint32.
      encoding: `utf-8`, or `latin-1` for a text of bytes.
    """
    self.ids, self._code_points, self.encoding = ids, code_points, encoding

  def __len__(self) -> int:
    return len(self.ids)

  def __str__(self) -> str:
    return "".join(self.pieces())

  @property
  def characters(self) -> list[str]:
    """The characters in the order of their ids; a part may lack some."""
    return [chr(x) for x in self._code_points]

  def part(self, start: int, stop: int) -> "Text":
    """Returns the characters from `start` to `stop`, or to the end."""
    ids, end = self.ids, max(start, min(stop, len(self)))
    own = ids.part(start, end) if isinstance(ids, StoredIds) else ids[start:end]
    return Text(own, self._code_points, self.encoding)

  def pieces(self) -> Iterator[str]:
    """Yields the text in pieces."""
    for _, ids in self._blocks():
      yield _look_up(self._code_points, ids).tobytes().decode("utf-32-le")

  def data(self) -> Iterator[bytes]:
    """Yields the text in pieces, in its encoding."""
    return (piece.encode(self.encoding) for piece in self.pieces())

  def counts(self) -> np.ndarray:
    """Counts each of the text's C characters, `[C]`, by id, int64."""
    counts = np.zeros(len(self._code_points), np.int64)
    for _, ids in self._blocks():
      counts += np.bincount(ids, minlength=len(counts))
    return counts

  def num_bytes(self, counts: np.ndarray | None = None) -> int:
    """Returns the size in the text's encoding.

    If the result of `counts` is given, that saves a pass over the text.
    """
    sizes = [len(char.encode(self.encoding)) for char in self.characters]
    return int(np.dot(sizes, self.counts() if counts is None else counts))

  def ends_with(self, character: str) -> bool:
    """Tells whether a character is the last one."""
    return str(self.part(max(0, len(self) - 1), len(self))) == character

  def nth_from_end(self, character: str, number: int, stop: int) -> int:
    """Finds a character before `stop`, counting from the end.

    Returns the position of the `number`-th one, or -1.
    """
    (found,) = np.nonzero(self._code_points == ord(character))
    # The valid and eval texts are short: most of a large text is not read.
    for start, ids in self._blocks(reverse=True) if len(found) else ():
      places = np.flatnonzero(ids[: max(0, stop - start)] == found[0])
      if number <= len(places):
        return start + int(places[-number])
      number -= len(places)
    return -1

  def _blocks(self, reverse: bool = False) -> Iterator[tuple[int, np.ndarray]]:
    starts = range(0, len(self), _BLOCK)
    for start in reversed(starts) if reverse else starts:
      yield start, self.ids[start : start + _BLOCK]


class IdsLike(Protocol):
  """The ids of a text `[N]`: an array, or what reads its slices from a file."""

  def __len__(self) -> int:
    """Returns N."""

  def __getitem__(self, part: slice, /) -> np.ndarray:
    """Returns the ids from `part.start` up to `part.stop`, both from 0 to N."""


class Ids:
  """A text `[N]` in the ids of a vocabulary, which are read in parts."""

  def __init__(self, text: Text, vocab: list[str]) -> None:
    """Takes a text; characters that the vocabulary lacks become id 0."""
    # What is read has the table's type: for most vocabularies a byte for each
    # id, an eighth of int64's memory.
    self.table = encode("".join(text.characters), vocab)
    self.own = text.ids  # of the text's own characters

  def __len__(self) -> int:
    return len(self.own)

  def __getitem__(self, key: slice) -> np.ndarray:
    return _look_up(self.table, self.own[key])


def _look_up(table: np.ndarray, ids: np.ndarray) -> np.ndarray:
  """Returns the entries of a text's own ids in a table of its characters.

  Raises InputError: an id of no character, from a file that has changed.
  """
  try:
    return table[ids]
  except IndexError as error:
    raise InputError(
      "the encoded corpus has changed: run train.py with --verify_corpus, or "
      "delete its .ids file, to encode it anew"
    ) from error


def gather(
  ids: np.ndarray | StoredIds | Ids, starts: np.ndarray, size: int
) -> np.ndarray:
  """Returns `size` ids from each of the starts on, `[len(starts), size]`.

  The text, of at least `size` characters, is circular: its first character
  follows its last.

  Raises InputError: a file of ids has been truncated or changed.
  """
  if isinstance(ids, Ids):
    return _look_up(ids.table, gather(ids.own, starts, size))
  if isinstance(ids, StoredIds):
    firsts, end = (starts % len(ids)).tolist(), len(ids)
    # What is missing at the end comes from the start.
    pairs = [(ids[i : i + size], ids[: max(0, i + size - end)]) for i in firsts]
    return np.concatenate([x for pair in pairs for x in pair]).reshape(-1, size)
  return ids[(starts[:, np.newaxis] + np.arange(size)) % len(ids)]


def readable(text: str, encoding: str) -> str:
  """Returns a model's text for a person: bytes are read as UTF-8."""
  return text.encode(encoding, "replace").decode(errors="replace")


def sha256(chunks: Iterable[bytes]) -> str:
  """Hashes what is yielded, as one."""
  digest = hashlib.sha256()
  for chunk in chunks:
    digest.update(chunk)
  return digest.hexdigest()
