"""Where in a text a model does well or badly.

`text` is the scored characters `[N]` (a text without its first character),
`nats` the loss of each, `[N]`, and `encoding` that of the run's texts.
"""

import re
from collections.abc import Sequence

import numpy as np

from charlm.reporting.types import MeanLoss

_WORD = re.compile(r"[^\W\d_]+")
# Of a text of bytes: those above ASCII are taken for parts of letters.
_WORD_OF_BYTES = re.compile(r"[A-Za-z\x80-\xff]+")


def by_class(text: str, nats: np.ndarray, encoding: str) -> list[MeanLoss]:
  """Groups characters by what they are, the commonest first."""
  # By name first: a set of names has another order in each process.
  names = np.array([_class_of(char, encoding) for char in text])
  groups = _grouped(names, nats, sorted(set(names)))
  return sorted(groups, key=lambda group: -group["num_characters"])


def by_position_in_word(
  text: str, nats: np.ndarray, encoding: str
) -> list[MeanLoss]:
  """Groups letters by their place in a run of letters; the rest is left out.

  Takes the whole text `[N + 1]`, whose first word may begin before what is
  scored.
  """
  places = np.zeros(len(text), int)
  pattern = _WORD_OF_BYTES if encoding == "latin-1" else _WORD
  for word in pattern.finditer(text):
    places[word.start() : word.end()] = np.arange(1, len(word[0]) + 1)
  # Later places are too rare for a mean of their own.
  places = np.minimum(places[1:], 10)
  return _grouped(places, nats, range(1, 11), last="10 or more")


def by_context_length(nats: np.ndarray, window: int) -> list[MeanLoss]:
  """Groups by how many characters a prediction could see.

  The nats must be those of windows that start from the zero state and do not
  overlap.
  """
  context = np.arange(len(nats)) % window + 1
  level = np.ceil(np.log2(context)).astype(int)  # 1, 2, 3-4, 5-8, ...
  groups = _grouped(level, nats, range(level.max(initial=0) + 1))
  for group in groups:
    group["name"] = _span(int(group["name"]), window)
  return groups


def worst_passages(
  nats: np.ndarray, length: int = 100, number: int = 5
) -> list[tuple[int, float]]:
  """Finds the passages with the highest loss, none of which overlap.

  Returns the start of each and its mean nats.
  """
  length = min(length, len(nats))
  # Differences of running sums take one pass, whatever the length.
  sums = np.cumsum(np.concatenate([[0.0], nats]))
  means = (sums[length:] - sums[:-length]) / length
  found: list[tuple[int, float]] = []
  while len(found) < number and np.isfinite(means).any():
    start = int(np.argmax(means))
    found.append((start, float(means[start])))
    means[max(0, start - length + 1) : start + length] = -np.inf
  return found


def _class_of(char: str, encoding: str) -> str:
  if encoding == "latin-1" and not char.isascii():
    return "byte above ASCII"
  if char == "\n":
    return "newline"
  if char.isspace():
    return "space"
  if char.isalpha():
    return "capital letter" if char.isupper() else "other letter"
  return "digit" if char.isdigit() else "punctuation"


def _grouped(
  keys: np.ndarray, nats: np.ndarray, order: Sequence[object], last: str = ""
) -> list[MeanLoss]:
  groups: list[MeanLoss] = []
  for key in order:
    chosen = nats[keys == key]
    if len(chosen):
      name = last if last and key == order[-1] else str(key)
      mean = float(chosen.mean(dtype=np.float64))
      groups.append(
        {"name": name, "num_characters": len(chosen), "mean_nats": mean}
      )
  return groups


def _span(level: int, window: int) -> str:
  first, last = 2**level // 2 + 1, min(2**level, window)
  return str(last) if first >= last else f"{first} to {last}"
