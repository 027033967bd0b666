"""The protocols of `eval.py`: what a character is predicted from."""

import numpy as np

from charlm.data.vocabulary import encode
from charlm.errors import InputError
from charlm.evaluation.dynamic import DynamicEvaluator
from charlm.evaluation.evaluator import Evaluator
from charlm.evaluation.score import Score
from charlm.model.language_model import GRULM


def score_text(
  model: GRULM,
  vocab: list[str],
  ids: np.ndarray,
  protocol: str,
  window: int,
  stride: int,
) -> tuple[Score, str]:
  """Scores a text `[N]` by a protocol: `stream`, `windows` or `lines`.

  Returns the score, and the protocol in words.

  Raises InputError: `lines`, of a model that does not know the newline.
  """
  evaluator = Evaluator(model)
  if protocol == "windows":
    words = f"windows of {window}, {stride} apart"
    return evaluator.windows(ids, window, stride), words
  if protocol == "lines":
    return evaluator.lines(ids, newline_id(vocab)), "lines"
  return evaluator.stream(ids), "stream"


def score_dynamic(
  model: GRULM, vocab: list[str], ids: np.ndarray, valid: str
) -> tuple[Score, str]:
  """Scores a text `[N]` by dynamic evaluation, along its stream.

  Args:
    model: is left as it was.
    vocab: the model's vocabulary.
    ids: the text.
    valid: the valid text, on which the learning rate is chosen.

  Returns the score, and the protocol in words.

  Raises InputError: no valid text.
  """
  if not valid:
    raise InputError(
      "dynamic evaluation chooses its learning rate on text that is neither "
      "trained on nor scored: train a run with --valid_lines"
    )
  evaluator = DynamicEvaluator(model, encode(valid, vocab))
  words = f"stream, dynamic at a learning rate of {evaluator.learning_rate:g}"
  return evaluator.stream(ids), words


def newline_id(vocab: list[str]) -> int:
  """Returns the newline's id.

  Raises InputError: the vocabulary has no newline.
  """
  if "\n" not in vocab:
    raise InputError(
      "the vocabulary has no newline, since the corpus is one line: give "
      "--protocol=stream or windows, and leave out --per_line"
    )
  return vocab.index("\n")
