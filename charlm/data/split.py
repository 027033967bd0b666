"""How a text is split: what is trained on, what chooses, what is scored."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from charlm.config import Config
from charlm.data.cleaning import split_lines
from charlm.data.corpus import Corpus, load_corpus
from charlm.data.text import Text
from charlm.errors import InputError

_MAX_EVAL_LINES = 1000  # by default


class Split(NamedTuple):
  """The parts of a text; only the first trains a model's weights."""

  train: Text
  valid: Text  # may choose among checkpoints and settings; may be empty
  eval: Text  # scored; chooses the best checkpoint if there is no valid text


def split_text(
  text: Text, config: Config, load: Callable[[str], Text] | None = None
) -> Split:
  """Splits a text into its parts, the last first.

  The eval text is the last `eval_chars` characters or, if that is 0, the last
  `eval_lines` lines; the valid text, the `valid_chars` characters or
  `valid_lines` lines before it; and the train text, what is left. If both
  numbers of the eval text are 0, it has a tenth of the lines, 1,000 at most. Of
  a text of fewer than ten lines, it has a tenth of the characters. If
  `valid_lines` is -1, the valid text is half as large. The newline before a
  part that is taken by lines belongs to no part. For `eval_corpus` and
  `valid_corpus` nothing is cut off: `load` loads them, by default as
  `load_corpus` does.

  Raises InputError: as `load_corpus`, or a part is too short to be of use.
  """
  load = load or (lambda spec: load_corpus(config, spec).text)
  # From the end backwards: the parts follow each other as train, valid, eval.
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
        f"the {name} text leaves none of the corpus' {len(text)} characters to "
        f"train on: {lower}give a longer corpus"
      )
    if len(part) < 2 and value:
      raise InputError(
        f"the text of {flag} is a single character or none, which "
        f"leaves nothing to predict: {remedy}"
      )
    parts[name] = part
  return Split(train=rest, valid=parts["valid"], eval=parts["eval"])


def _sizes(text: Text, config: Config) -> dict[str, tuple[str, Any]]:
  """Returns, for the eval and the valid text, the flag that counts, its value.

  A value that stands for a share of the text is replaced by its number.
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
  """Returns the size of the eval text by default: lines or chars, a number."""
  num_lines = 1 + len(_newlines(text, 10 * _MAX_EVAL_LINES))
  if num_lines >= 10:
    return "lines", min(num_lines // 10, _MAX_EVAL_LINES)
  return "chars", max(2, len(text) // 10)


def load_texts(config: Config, cache: str = "") -> tuple[Corpus, Split]:
  """Returns the corpus that a config names, and its parts.

  `cache` is a folder for the ids, as `folder` of `load_corpus`.

  Raises InputError or OSError: as `load_corpus` and `split_text`.
  """
  corpus = load_corpus(config, config.corpus, cache)
  split = split_text(
    corpus.text, config, lambda spec: load_corpus(config, spec, cache).text
  )
  return corpus, split


def train_text(text: Text, config: Config) -> Text:
  """Returns the part of a corpus that a run trains on.

  It needs none of the files that may hold the other parts.

  Raises InputError: as `split_text`.
  """
  # What these files hold does not change the rest: any text will do.
  return split_text(text, config, lambda _: text).train


def _cut(text: Text, flag: str, number: int) -> tuple[Text, Text]:
  """Returns a text without its end, and its end."""
  length = len(text)
  if flag.endswith("_chars") or not number:
    first = max(0, length - number)
    return text.part(0, first), text.part(first, length)
  newlines = _newlines(text, number)
  if number > len(newlines):
    num_lines = 1 + len(newlines)
    remedy = f"lower --{flag}, or give --{flag.replace('lines', 'chars')}"
    if flag == "eval_lines" and num_lines == 1:  # not even 1 would do
      remedy = "give a corpus of more lines, or --eval_chars"
    raise InputError(
      f"{flag} is {number}, but there are only {num_lines} lines to take them "
      f"from, which leaves nothing to train on: {remedy}"
    )
  last = int(newlines[-number])
  return text.part(0, last), text.part(last + 1, length)


def _newlines(text: Text, number: int) -> np.ndarray:
  """Returns the places `[M]` of newlines that begin a line, in order.

  These are the last ones, `number` or more, or all if there are fewer.
  """
  places = text.last_places_of("\n", number + 1)
  return places[places < len(text) - 1]  # one at the end begins none


def count_shared_lines(train: Text, other: Text) -> int:
  """Counts the distinct lines of `other` that are also in `train`."""
  lines = set(filter(None, split_lines(other.pieces())))
  return len(lines.intersection(split_lines(train.pieces())))
