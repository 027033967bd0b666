"""Characters and their ids.

A vocabulary is a list of strings: `[UNK]` (unknown) at id 0, the empty string
(padding) at id 1, then the characters of the corpus in sorted order. A run with
an initial run starts with the initial run's vocabulary, and appends the
characters that are new.
"""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from charlm.errors import InputError
from charlm.options import is_utf8

if TYPE_CHECKING:
  import tensorflow as tf

UNKNOWN_ID = 0
PADDING_ID = 1
SPECIAL = ["[UNK]", ""]
NUM_SPECIAL = len(SPECIAL)  # the ids that stand for no character


def build_vocabulary(
  lines: list[str], initial: Sequence[str] = tuple(SPECIAL)
) -> list[str]:
  """Collects the characters of the lines and of the newlines between them.

  The entries of `initial`, an initial run's vocabulary, keep their ids.
  """
  return [*initial, *sorted(set("\n".join(lines)) - set(initial))]


def vocabulary_from_json(text: str) -> list[str]:
  """Reads `vocabulary.json`, a JSON list, since newline and space are entries.

  Raises InputError: not a list of `[UNK]`, "" and distinct characters.
  """
  try:
    vocab = json.loads(text)
  except (ValueError, RecursionError) as error:
    raise InputError(f"not JSON ({error})") from error
  if not isinstance(vocab, list) or vocab[:NUM_SPECIAL] != SPECIAL:
    raise InputError('not a list that starts with "[UNK]" and ""')
  chars = vocab[NUM_SPECIAL:]
  # In any order: the characters of an initial run come first.
  if not all(isinstance(char, str) and len(char) == 1 for char in chars):
    raise InputError("an entry is not a single character")
  if not is_utf8("".join(chars)):
    raise InputError("an entry is a lone surrogate")
  if not chars or len(set(chars)) < len(chars):
    raise InputError("the characters are missing or not distinct")
  return vocab


def vocabulary_to_json(vocab: list[str]) -> str:
  """Returns the text of `vocabulary.json`."""
  return json.dumps(vocab) + "\n"


def encode(text: str, vocab: list[str]) -> np.ndarray:
  """Returns the ids of a text, `[N]` in the smallest unsigned type that fits.

  Unknown characters become id 0.
  """
  table = _id_of_code_point(vocab)
  # All code points at once, instead of a look-up for each character.
  # Lone surrogates, which no UTF-8 holds, are unknown characters too.
  data = text.encode("utf-32-le", "surrogatepass")
  code_points = np.frombuffer(data, np.uint32)
  ids = table[np.minimum(code_points, len(table) - 1)]
  return ids.astype(np.min_scalar_type(len(vocab) - 1))


def decode(ids: np.ndarray, vocab: list[str]) -> str:
  """Returns the text of ids `[N]`; padding disappears."""
  return "".join(vocab[i] for i in ids)


def unknown_characters(text: str, vocab: list[str]) -> list[str]:
  """Lists the characters of a text that the vocabulary lacks, sorted."""
  return sorted(set(text) - set(vocab))


def line_to_tensor(
  line: "str | list[str] | tf.Tensor", vocab: list[str]
) -> "tf.Tensor | tf.RaggedTensor":
  """Converts UTF-8 characters to int64 ids.

  Args:
    line: a string, or a list or tensor of strings.
    vocab: the vocabulary.

  Returns:
    `[N]` for a string, else one ragged row each. Unknown characters are id 0.
  """
  import tensorflow as tf

  table = tf.constant(_id_of_code_point(vocab))
  code_points = tf.strings.unicode_decode(line, "UTF-8")
  return tf.ragged.map_flat_values(
    lambda c: tf.gather(table, tf.minimum(c, len(table) - 1)), code_points
  )


def text_from_ids(
  ids: "tf.Tensor | tf.RaggedTensor", vocab: list[str]
) -> "tf.Tensor":
  """Joins the characters of ids `[..., N]` into string tensors `[...]`.

  Padding disappears, unknown characters read `[UNK]`.
  """
  import tensorflow as tf

  ids = tf.cast(ids, tf.int64)
  return tf.strings.reduce_join(tf.gather(vocab, ids), axis=-1)


def _id_of_code_point(vocab: list[str]) -> np.ndarray:
  """Returns a table `[largest code point + 2]` of ids; its last one is 0."""
  code_points = [ord(char) for char in vocab[NUM_SPECIAL:]]
  table = np.zeros(max(code_points, default=0) + 2, np.int64)
  table[code_points] = np.arange(NUM_SPECIAL, len(vocab))
  return table
