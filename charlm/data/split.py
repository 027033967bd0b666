"""Splits a text into the train, valid and eval text."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from charlm.config import Config
from charlm.data.corpus import Corpus, load_corpus
from charlm.data.text import Text
from charlm.errors import InputError

_MAX_EVAL_LINES = 1000  # by default


class Split(NamedTuple):
  """The parts of a text; only `train` updates the weights."""

  train: Text
  valid: Text  # for choosing checkpoints and settings; may be empty
  eval: Text  # scored; also chooses the best checkpoint if `valid` is empty


def split_text(
  text: Text, config: Config, load: Callable[[str], Text] | None = None
) -> Split:
  """Splits a text into its parts, from the end backwards.

  The eval text is the last `eval_chars` characters or, if that is 0, the last
  `eval_lines` lines. If both are 0, it is a tenth of the lines, at most 1,000,
  or a tenth of the characters if the text has fewer than ten lines. The valid
  text is the `valid_chars` characters or `valid_lines` lines before it, or half
  as large as the eval text if `valid_lines` is -1. The rest is the train text.
  The newline before a part that is split off by lines belongs to no part.

  `eval_corpus` and `valid_corpus` are loaded by `load`, by default
  `load_corpus`, instead of being split off.

  Raises InputError: as `load_corpus`, or a part is too short.
  """
  load = load or (lambda spec: load_corpus(config, spec).text)
  rest, parts = text, {}
  sizes = _sizes(text, config)
  for name, other in (("eval", "give --eval_chars"), ("valid", "leave it out")):
    flag, value = sizes[name]
    if flag.endswith("_corpus"):
      part, remedy = load(value), "give a longer file"
    else:
      rest, part = _cut(rest, flag, value)
      remedy = f"raise --{flag}, or {other}"
    if not len(rest):
      lower = f"lower --{flag}, or " if getattr(config, flag) else ""
      raise InputError(
        f"the {name} text leaves none of the {len(text)} characters of the "
        f"corpus for training: {lower}give a longer corpus"
      )
    if len(part) < 2 and value:
      raise InputError(
        f"the text of {flag} has fewer than two characters, which leaves "
        f"nothing to predict: {remedy}"
      )
    parts[name] = part
  return Split(train=rest, valid=parts["valid"], eval=parts["eval"])


def _sizes(text: Text, config: Config) -> dict[str, tuple[str, Any]]:
  """Returns the flag that determines the eval and valid text, and its value.

  Values that stand for a share of the text are replaced by numbers.
  """
  sizes = {}
  for name in ("eval", "valid"):
    flags = (f"{name}_corpus", f"{name}_chars", f"{name}_lines")
    flag = next((flag for flag in flags if getattr(config, flag)), flags[-1])
    sizes[name] = flag, getattr(config, flag)
  measure, number = _default_size(text)
  if sizes["eval"] == ("eval_lines", 0):
    sizes["eval"] = f"eval_{measure}", number
  if sizes["valid"] == ("valid_lines", -1):
    if not config.eval_corpus:
      flag, number = sizes["eval"]
      measure = flag.removeprefix("eval_")
    least = 2 if measure == "chars" else 1
    sizes["valid"] = f"valid_{measure}", max(least, number // 2)
  return sizes


def _default_size(text: Text) -> tuple[str, int]:
  """Returns the default size of the eval text: lines or chars, and a number."""
  num_lines = 1 + len(_newlines(text, 10 * _MAX_EVAL_LINES))
  if num_lines >= 10:
    return "lines", min(num_lines // 10, _MAX_EVAL_LINES)
  return "chars", max(2, len(text) // 10)


def load_texts(config: Config) -> tuple[Corpus, Split]:
  """Loads the corpus of a config and splits it.

  Raises InputError: as `load_corpus` and `split_text`.
  """
  corpus = load_corpus(config, config.corpus)
  return corpus, split_text(corpus.text, config)


def train_text(text: Text, config: Config) -> Text:
  """Returns the train text of a corpus, without reading any other file.

  Raises InputError: as `split_text`.
  """
  # The other files do not affect the train text: any text will do.
  return split_text(text, config, lambda _: text).train


def _cut(text: Text, flag: str, number: int) -> tuple[Text, Text]:
  """Splits the last lines or characters off a text."""
  length = len(text)
  if flag.endswith("_chars") or not number:
    start = max(0, length - number)
    return text.part(0, start), text.part(start, length)
  newlines = _newlines(text, number)
  if number > len(newlines):
    num_lines = 1 + len(newlines)
    remedy = f"lower --{flag}, or give --{flag.replace('lines', 'chars')}"
    if flag == "eval_lines" and num_lines == 1:  # too few for any number
      remedy = "give a corpus of more lines, or --eval_chars"
    raise InputError(
      f"{flag} is {number}, but only {num_lines} lines are available, which "
      f"leaves nothing to train on: {remedy}"
    )
  last = int(newlines[-number])
  return text.part(0, last), text.part(last + 1, length)


def _newlines(text: Text, number: int) -> np.ndarray:
  """Returns the sorted positions `[M]` of newlines that begin a line.

  These are the last ones, at least `number` unless the text has fewer.
  """
  places = text.last_places_of("\n", number + 1)
  return places[places < len(text) - 1]  # a newline at the end begins no line


def count_shared_lines(train: Text, other: Text) -> int:
  """Counts the distinct lines of `other` that are also in `train`."""
  lines = set(filter(None, split_lines(other.chunks())))
  return len(lines.intersection(split_lines(train.chunks())))


def split_lines(chunks: Iterable[str]) -> Iterator[str]:
  """Yields the lines of a text, split at line feeds."""
  # A list: appending to a string would copy it each time.
  incomplete: list[str] = []  # the chunks of the current line
  for chunk in chunks:
    if "\n" in chunk:
      *lines, rest = ("".join(incomplete) + chunk).split("\n")
      yield from lines
      incomplete = [rest]
    else:
      incomplete.append(chunk)
  yield "".join(incomplete)
