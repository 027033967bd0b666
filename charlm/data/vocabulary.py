"""Characters and their ids.

A vocabulary is a list of strings: `[UNK]` (unknown) at id 0, the empty string
(padding) at id 1, then, in sorted order, the characters of the corpus that are
frequent enough or, for bytes, all 256. A run that begins with an initial model
takes its vocabulary, and appends the characters that are new.
"""

import json
from collections.abc import Iterable, Sequence

import numpy as np

UNKNOWN_ID = 0
PADDING_ID = 1
SPECIAL = ["[UNK]", ""]
NUM_SPECIAL = len(SPECIAL)  # how many ids stand for no character


def build_vocabulary(lines: list[str]) -> list[str]:
  """Collects the characters of the lines and of the newlines between them."""
  return extend_vocab(SPECIAL, "\n".join(lines))


def extend_vocab(known: Sequence[str], new: Iterable[str]) -> list[str]:
  """Appends the characters that a vocabulary lacks, sorted."""
  # Sorted, so that ids do not depend on where in the text a character is.
  return [*known, *sorted(set(new) - set(known))]


def vocabulary_to_json(vocab: list[str]) -> str:
  """Returns the text of `vocabulary.json`.

  It is a JSON list, since newline and space are entries.
  """
  return json.dumps(vocab) + "\n"


def encode(text: str, vocab: list[str]) -> np.ndarray:
  """Returns the ids of a text, `[N]` in the smallest unsigned type that fits.

  Unknown characters become id 0.
  """
  table = id_of_code_point(vocab)
  # All code points at once, instead of a look-up for each character.
  # Lone surrogates, which no UTF-8 holds, are unknown characters too.
  data = text.encode("utf-32-le", "surrogatepass")
  ids = table[np.minimum(np.frombuffer(data, np.uint32), len(table) - 1)]
  return ids.astype(np.min_scalar_type(len(vocab) - 1))


def decode(ids: np.ndarray, vocab: list[str]) -> str:
  """Returns the text of ids `[N]`; padding disappears."""
  return "".join([vocab[i] for i in ids.tolist()])


def unknown_characters(text: Iterable[str], vocab: list[str]) -> str:
  """Names the characters of a text that the vocabulary lacks, 20 at the most.

  Returns the empty string if there are none.
  """
  unknown = sorted(set(text) - set(vocab))
  more = f" and {len(unknown) - 20:,} more" if len(unknown) > 20 else ""
  return " ".join(map(repr, unknown[:20])) + more


def id_of_code_point(vocab: list[str]) -> np.ndarray:
  """Returns a table `[largest code point + 2]` of ids; the last one is 0."""
  code_points = [ord(char) for char in vocab[NUM_SPECIAL:]]
  table = np.zeros(max(code_points, default=0) + 2, np.int64)
  table[code_points] = np.arange(NUM_SPECIAL, len(vocab))
  return table
