"""Finds the passages of a text that are copied from another one."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypedDict

import numpy as np

from charlm.data.text import Text, readable

MIN_LENGTH = 30  # characters; shorter ones also recur by chance
_CHUNK = 2**20  # characters searched at a time
_BASE = 0x9E3779B97F4A7C15  # of the hash modulo 2**64; any large odd number


class Passage(NamedTuple):
  """Consecutive characters of a text that occur in the searched text."""

  start: int  # in the text
  length: int
  place: int  # start of the first occurrence in the searched text


class FoundNumbers(TypedDict):
  """The passages of one text in `sample.py --format=jsonl`."""

  share: float
  passages: list[dict[str, int]]  # the fields of `Passage`


class Found(NamedTuple):
  """The passages of one text in order; they may overlap."""

  passages: tuple[Passage, ...]
  share: float  # fraction of the text's characters that are in a passage

  def to_dict(self) -> FoundNumbers:
    """Returns the passages as JSON-serialisable data."""
    passages = [passage._asdict() for passage in self.passages]
    return {"share": round(self.share, 6), "passages": passages}

  def in_words(self, text: str, encoding: str) -> Iterator[str]:
    """Yields a summary line, then a line for each passage.

    Args:
      text: the text that contains the passages.
      encoding: the run's encoding.
    """
    yield (
      f"{self.share:.1%} is copied from the train text, in passages of "
      f"{MIN_LENGTH} characters or more"
    )
    for start, length, place in self.passages:
      passage = readable(text[start : start + length], encoding)
      yield f"{length:,} characters at {place:,} of the train text: {passage!r}"


def find_passages(texts: Sequence[str], searched: Text) -> list[Found]:
  """Finds the passages of each text that occur in the searched text.

  Passages cover every chunk of `MIN_LENGTH` characters that occurs there. A
  passage begins with such a chunk, and extends as long as it matches `searched`
  from the chunk's first occurrence on. `searched` is scanned once, in chunks.
  """
  ids = {char: i for i, char in enumerate(searched.characters)}
  encoded = [
    np.array([ids.get(char, len(ids)) for char in text], np.uint32)
    for text in texts
  ]
  hashes = [_hashes(text) for text in encoded]
  wanted = np.unique(np.concatenate([*hashes, np.empty(0, np.uint64)]))
  places = _first_places(wanted, searched)
  return [
    _passages(text, places[np.searchsorted(wanted, own)], searched)
    for text, own in zip(encoded, hashes, strict=True)
  ]


def _hashes(ids: np.ndarray) -> np.ndarray:
  """Hashes each chunk of ids: `[N]` to `[N - MIN_LENGTH + 1]` or `[0]`."""
  hashes, width = ids.astype(np.uint64), 1  # of chunks of `width` ids
  while width < MIN_LENGTH:
    # Combines two neighbours into a chunk twice as wide. In the last round they
    # may overlap.
    step = min(width, MIN_LENGTH - width)
    power = np.uint64(pow(_BASE, width, 2**64))
    hashes = hashes[:-step] * power + hashes[step:]
    width += step
  return hashes


def _first_places(wanted: np.ndarray, searched: Text) -> np.ndarray:
  """Returns the first occurrence of each of the sorted hashes, or -1."""
  places = np.full(len(wanted), -1)
  for start in range(0, len(searched) if len(wanted) else 0, _CHUNK):
    hashes = _hashes(searched.ids[start : start + _CHUNK + MIN_LENGTH - 1])
    # Without the last hash, so that each result is a valid index.
    nearest = np.searchsorted(wanted[:-1], hashes)
    hits = np.flatnonzero(wanted[nearest] == hashes)
    matched, first = np.unique(nearest[hits], return_index=True)
    new = places[matched] < 0
    places[matched[new]] = start + hits[first[new]]
  return places


def _passages(text: np.ndarray, places: np.ndarray, searched: Text) -> Found:
  passages: list[Passage] = []
  covered = end = 0  # characters in passages; the end of the last passage
  for start in np.flatnonzero(places >= 0).tolist():
    if start + MIN_LENGTH <= end:
      continue
    place = int(places[start])
    other = searched.ids[place : place + len(text) - start]
    same = text[start : start + len(other)] == other
    length = len(same) if same.all() else int(np.argmin(same))
    if length >= MIN_LENGTH:  # not a hash collision
      covered += start + length - max(start, end)
      end = start + length
      passages.append(Passage(start, length, place))
  return Found(tuple(passages), covered / max(1, len(text)))
