"""Passages of a text that also occur in another one."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypedDict

import numpy as np

from charlm.data.text import Text, readable

MIN_LENGTH = 30  # characters; shorter ones recur without being copied
_BLOCK = 2**20  # characters searched at a time
_BASE = 0x9E3779B97F4A7C15  # of a polynomial modulo 2**64; any large odd number


class Passage(NamedTuple):
  """Characters of a text that occur in the text that was searched."""

  start: int  # in the text
  length: int
  place: int  # of the first occurrence in the text that was searched


class FoundNumbers(TypedDict):
  """What `sample.py --format=jsonl` prints of the passages of one text."""

  share: float
  passages: list[dict[str, int]]  # with the fields of `Passage`


class Found(NamedTuple):
  """The passages of one text, in their order; they may overlap."""

  passages: tuple[Passage, ...]
  share: float  # fraction of the text's characters in a passage

  def to_dict(self) -> FoundNumbers:
    """Returns what JSON can hold of it."""
    passages = [passage._asdict() for passage in self.passages]
    return {"share": round(self.share, 6), "passages": passages}

  def in_words(self, text: str, encoding: str) -> Iterator[str]:
    """Yields a line on how much was found, then one for each passage.

    Args:
      text: whose passages these are, of the train text.
      encoding: of the run.
    """
    yield (
      f"{self.share:.1%} is in passages of {MIN_LENGTH} characters or more of "
      "the train text"
    )
    for start, length, place in self.passages:
      words = readable(text[start : start + length], encoding)
      yield f"{length:,} characters at {place:,} of the train text: {words!r}"


def find_passages(texts: Sequence[str], searched: Text) -> list[Found]:
  """Finds the passages of each text that occur in the text that is searched.

  Each stretch of `MIN_LENGTH` characters that occurs there is in a passage. A
  passage begins with such a stretch and goes on for as long as it equals
  `searched` from the stretch's first occurrence on. `searched` is scanned once,
  in blocks.
  """
  ids = {char: i for i, char in enumerate(searched.characters)}
  coded = [
    np.array([ids.get(char, len(ids)) for char in text], np.uint32)
    for text in texts
  ]
  hashes = [_hashes(text) for text in coded]
  wanted = np.unique(np.concatenate([*hashes, np.empty(0, np.uint64)]))
  places = _first_places(wanted, searched)
  return [
    _passages(text, places[np.searchsorted(wanted, own)], searched)
    for text, own in zip(coded, hashes, strict=True)
  ]


def _hashes(ids: np.ndarray) -> np.ndarray:
  """Hashes each stretch of ids: `[N]` to `[N - MIN_LENGTH + 1]` or `[0]`."""
  hashes, width = ids.astype(np.uint64), 1  # of stretches of `width` ids
  while width < MIN_LENGTH:
    # Two neighbours make one of twice the width. In the last round they may
    # overlap.
    step = min(width, MIN_LENGTH - width)
    power = np.uint64(pow(_BASE, width, 2**64))
    hashes = hashes[:-step] * power + hashes[step:]
    width += step
  return hashes


def _first_places(wanted: np.ndarray, searched: Text) -> np.ndarray:
  """Returns where each of the sorted hashes first occurs, or -1."""
  places = np.full(len(wanted), -1)
  for start in range(0, len(searched) if len(wanted) else 0, _BLOCK):
    hashes = _hashes(searched.ids[start : start + _BLOCK + MIN_LENGTH - 1])
    # Without the last one, so that each result is an index.
    nearest = np.searchsorted(wanted[:-1], hashes)
    hits = np.flatnonzero(wanted[nearest] == hashes)
    found, first = np.unique(nearest[hits], return_index=True)
    new = places[found] < 0
    places[found[new]] = start + hits[first[new]]
  return places


def _passages(text: np.ndarray, places: np.ndarray, searched: Text) -> Found:
  passages: list[Passage] = []
  covered = end = 0  # how many characters are in a passage; where the last ends
  for start in np.flatnonzero(places >= 0).tolist():
    if start + MIN_LENGTH <= end:
      continue
    place = int(places[start])
    other = searched.ids[place : place + len(text) - start]
    same = text[start : start + len(other)] == other
    length = len(same) if same.all() else int(np.argmin(same))
    if length >= MIN_LENGTH:  # not another stretch with the same hash
      covered += start + length - max(start, end)
      end = start + length
      passages.append(Passage(start, length, place))
  return Found(tuple(passages), covered / max(1, len(text)))
