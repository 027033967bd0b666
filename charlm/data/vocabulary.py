"""Characters and their ids.

A vocabulary is a list of strings: `[UNK]` (unknown) at id 0, the empty string
(padding) at id 1, then, sorted, the characters of the corpus that are frequent
enough or, with unit byte, all 256. A run with an initial model appends its new
characters to that model's vocabulary.
"""

import json
from collections.abc import Iterable, Sequence

import numpy as np

UNKNOWN_ID = 0
PADDING_ID = 1
SPECIAL = ["[UNK]", ""]
NUM_SPECIAL = len(SPECIAL)  # number of ids that stand for no character


def build_vocabulary(lines: list[str]) -> list[str]:
  """Builds a vocabulary of all characters in the lines, joined by newlines."""
  return extend_vocab(SPECIAL, "\n".join(lines))


def extend_vocab(known: Sequence[str], new: Iterable[str]) -> list[str]:
  """Appends the characters that a vocabulary lacks, sorted."""
  # Sorted, so that ids do not depend on the order of the text.
  return [*known, *sorted(set(new) - set(known))]


def vocabulary_to_json(vocab: list[str]) -> str:
  """Returns the content of `vocabulary.json`, a JSON list."""
  return json.dumps(vocab) + "\n"


def encode(text: str, vocab: list[str]) -> np.ndarray:
  """Returns the ids of a text, `[N]` in the smallest unsigned type that fits.

  Unknown characters become id 0.
  """
  table = id_of_code_point(vocab)
  # Looks up all code points at once. Lone surrogates, which UTF-8 excludes, are
  # unknown characters, too.
  data = text.encode("utf-32-le", "surrogatepass")
  ids = table[np.minimum(np.frombuffer(data, np.uint32), len(table) - 1)]
  return ids.astype(np.min_scalar_type(len(vocab) - 1))


def decode(ids: np.ndarray, vocab: list[str]) -> str:
  """Returns the text of ids `[N]` without padding."""
  return "".join([vocab[i] for i in ids.tolist()])


def unknown_characters(text: Iterable[str], vocab: list[str]) -> str:
  """Lists the characters that the vocabulary lacks, at most 20."""
  unknown = sorted(set(text) - set(vocab))
  more = f" and {len(unknown) - 20:,} more" if len(unknown) > 20 else ""
  return " ".join(map(repr, unknown[:20])) + more


def id_of_code_point(vocab: list[str]) -> np.ndarray:
  """Returns a table from code points to ids, `[largest code point + 2]`.

  The last entry is 0, for all larger code points.
  """
  code_points = [ord(char) for char in vocab[NUM_SPECIAL:]]
  table = np.zeros(max(code_points, default=0) + 2, np.int64)
  table[code_points] = np.arange(NUM_SPECIAL, len(vocab))
  return table
