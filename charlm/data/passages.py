"""Passages of a text that also occur in another one."""

import dataclasses
import operator
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from charlm.data.text import Text, readable

MIN_LENGTH = 30  # characters; shorter ones recur without being copied


class Passage(NamedTuple):
  """Characters of a text that occur in the text that was searched."""

  start: int  # in the text
  length: int
  place: int  # of the first occurrence in the text that was searched


@dataclasses.dataclass(frozen=True)
class Found:
  """The passages of one text, in their order; they may overlap."""

  passages: tuple[Passage, ...]
  share: float  # fraction of the text's characters in a passage

  def to_dict(self) -> dict[str, Any]:
    """Returns what `sample.py --format=jsonl` prints of it."""
    passages = [passage._asdict() for passage in self.passages]
    return {"share": round(self.share, 6), "passages": passages}

  def in_words(self, text: str, encoding: str) -> str:
    """Says how much of the text was found, and where the longest passage is."""
    if not self.passages:
      return f"no passage of {MIN_LENGTH} characters is in the training text"
    start, length, place = max(self.passages, key=lambda found: found.length)
    number = f"{len(self.passages)} passage{'s' * (len(self.passages) > 1)}"
    return (
      f"{self.share:.1%} is in {number} of {MIN_LENGTH} characters or more of "
      f"the training text; the longest, {length:,} characters at {place:,}: "
      f"{readable(text[start : start + length], encoding)!r}"
    )


def find_passages(texts: Sequence[str], searched: Text) -> list[Found]:
  """Finds the passages of each text that occur in the text that is searched.

  Each stretch of `MIN_LENGTH` characters that occurs there is in a passage. A
  passage is as long as the first occurrence of its first stretch allows.
  `searched` is scanned once, in pieces.
  """
  wanted = {stretch for text in texts for stretch in _stretches(text)}
  places: dict[str, int] = {}  # where each of them first occurs
  held, done = "", 0
  for piece in searched.pieces() if wanted else ():
    held += piece
    for place, stretch in enumerate(_stretches(held), done):
      if stretch in wanted:
        places.setdefault(stretch, place)
    cut = max(0, len(held) - MIN_LENGTH + 1)
    held, done = held[cut:], done + cut
  return [_passages(text, places, searched) for text in texts]


def _stretches(text: str) -> Iterator[str]:
  return (text[i : i + MIN_LENGTH] for i in range(len(text) - MIN_LENGTH + 1))


def _passages(text: str, places: dict[str, int], searched: Text) -> Found:
  passages: list[Passage] = []
  covered = end = 0
  for start, stretch in enumerate(_stretches(text)):
    if stretch not in places or start + MIN_LENGTH <= end:
      continue
    place = places[stretch]
    other = str(searched.part(place, place + len(text) - start))
    # What differs ends the passage, as does the end of either text.
    length = [*map(operator.eq, text[start:], other), False].index(False)
    covered += start + length - max(start, end)
    end = start + length
    passages.append(Passage(start, length, place))
  return Found(tuple(passages), covered / len(text) if text else 0.0)
