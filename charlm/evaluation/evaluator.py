"""How well a model predicts a text: log perplexity, in nats per character."""

import itertools
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from charlm.data.vocabulary import PADDING_ID, UNKNOWN_ID
from charlm.errors import InputError
from charlm.evaluation.score import Score, refuse_short
from charlm.model.language_model import GRULM

# Rows of a batch, and the least length that they are padded to.
_BATCH_SIZE, _MIN_PIECE = 64, 64


class Evaluator:
  """Scores texts `[N]`, a piece at a time, which only bounds the memory.

  `stream` is the protocol of the reference (the Keras notebook that trains
  `GRULM`), `windows` that of models with a context of fixed length, `lines`
  that of `log_perplexity`.
  """

  def __init__(
    self,
    model: GRULM,
    piece_length: int = 1024,
    before_piece: Callable[[], None] = lambda: None,
  ) -> None:
    """Takes a model.

    Args:
      model: the model that predicts the texts.
      piece_length: the most characters of a row in one graph call.
      before_piece: is called before each piece; an exception from it ends the
        evaluation.
    """
    self._model, self._piece_length = model, piece_length
    self._before_piece = before_piece
    # XLA makes the loop over time faster on a CPU, but cannot call cuDNN.
    xla = not tf.config.list_physical_devices("GPU")
    self._compiled_nats = tf.function(model.nats, jit_compile=xla)

  def stream(self, ids: np.ndarray) -> Score:
    """Scores all characters but the first, given all those before.

    Raises InputError: fewer than two characters.
    """
    refuse_short(ids)
    # One row: what comes before a character cannot be cut into parallel parts.
    (nats,) = self._score_batch([ids], 1, self._piece_length)
    return Score(nats, ids[1:] == UNKNOWN_ID)

  def windows(self, ids: np.ndarray, window: int, stride: int) -> Score:
    """Scores all characters but the first, given at most `window` before each.

    Each window starts from the zero state, `stride` characters after the one
    before. All targets of the first window are scored, and the last `stride` of
    each later one.

    Raises:
      InputError: fewer than two characters.
      ValueError: a stride below 1 or above the window.
    """
    refuse_short(ids)
    if not 1 <= stride <= window:
      raise ValueError(f"stride is {stride}: give 1 to {window}, the window")
    num_targets = len(ids) - 1
    # Up to the first window that holds the last character.
    starts = range(0, max(1, num_targets - window + stride), stride)
    nats = self._score_rows([ids[a : a + window + 1] for a in starts])
    parts = [nats[0], *(x[window - stride :] for x in nats[1:])]
    return Score(np.concatenate(parts), ids[1:] == UNKNOWN_ID)

  def lines(self, ids: np.ndarray, newline: int) -> Score:
    """Scores each line alone, including its newline; averages their means.

    A line is predicted from the zero state after a newline.

    Raises InputError: no character.
    """
    # The first line follows a newline, too.
    text = np.concatenate([[newline], ids])
    refuse_short(text)
    if text[-1] != newline:
      text = np.append(text, newline)
    ends = np.flatnonzero(text == newline)
    rows = [text[a : b + 1] for a, b in itertools.pairwise(ends)]
    nats = np.concatenate(self._score_rows(rows))
    return Score(nats, text[1:] == UNKNOWN_ID, np.diff(ends))

  def _score_rows(self, rows: list[np.ndarray]) -> list[np.ndarray]:
    """Returns the nats of all characters but the first of each row."""
    # Rows of about the same length need little padding.
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    nats: dict[int, np.ndarray] = {}
    for first in range(0, len(rows), _BATCH_SIZE):
      chosen = order[first : first + _BATCH_SIZE]
      # Few lengths, since each is compiled anew.
      longest, size = len(rows[chosen[-1]]) - 1, _MIN_PIECE
      while size < min(longest, self._piece_length):
        size *= 2
      batch = [rows[i] for i in chosen]
      scored = self._score_batch(batch, _BATCH_SIZE, size)
      nats.update(zip(chosen, scored, strict=True))
    return [nats[i] for i in range(len(rows))]

  def _score_batch(
    self, rows: list[np.ndarray], batch_size: int, size: int
  ) -> list[np.ndarray]:
    """Scores rows side by side, `size` characters at a time."""
    states, pieces = self._model.initial_states(batch_size), []
    for start in range(0, max(map(len, rows)) - 1, size):
      self._before_piece()
      # Short pieces are padded, since each shape is compiled anew.
      filled = np.full([batch_size, size + 1], PADDING_ID, np.int32)
      for row, ids in zip(filled, rows, strict=False):
        piece = ids[start : start + size + 1]
        row[: len(piece)] = piece
      inputs, targets = filled[:, :-1], filled[:, 1:]
      nats, states = self._compiled_nats(inputs, targets, states)
      pieces.append(nats.numpy())
    nats = np.concatenate(pieces, axis=1)
    return [x[: len(row) - 1] for x, row in zip(nats, rows, strict=False)]


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
