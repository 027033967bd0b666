"""How well a model predicts a text: log perplexity, in nats per character."""

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from charlm.data.text import Text
from charlm.data.vocabulary import PADDING_ID
from charlm.errors import InputError
from charlm.evaluation.score import Score, refuse_diverged
from charlm.model.language_model import LanguageModel
from charlm.system.devices import Choice

# Rows of a batch, and the least length that they are padded to.
_BATCH_SIZE, _MIN_PIECE = 64, 64
# Whether XLA compiles scores by a layer that is not `fast_with_xla`: XLA cannot
# call cuDNN.
_XLA_FOR_SCORES = Choice(True, False)


def xla_compiles_scores(fast_with_xla: bool) -> bool:
  """Tells whether XLA should compile the scoring by a layer."""
  return fast_with_xla or _XLA_FOR_SCORES.here


class Evaluator:
  """Scores texts of ids `[N]`, of two characters at least, a piece at a time.

  `stream` is the protocol by default, `windows` that of models with a context
  of fixed length, and `lines` that of the function `log_perplexity`.
  """

  def __init__(
    self,
    model: LanguageModel,
    piece_length: int = 1024,
    before_piece: Callable[[], None] = lambda: None,
  ) -> None:
    """Takes a model.

    Args:
      model: the model that predicts the texts.
      piece_length: the most characters of a row in one graph call; with
        several rows, rounded up to 64, 128, 256, ...
      before_piece: is called before each piece; an exception from it ends the
        evaluation.
    """
    self._model, self._piece_length = model, piece_length
    self._before_piece = before_piece
    xla = xla_compiles_scores(model.fast_with_xla)
    self._compiled_nats = tf.function(
      model.nats, jit_compile=xla, autograph=False
    )

  def stream(self, ids: np.ndarray) -> np.ndarray:
    """Returns the nats `[N - 1]` of all characters but the first.

    A character is predicted from all those before.
    """
    # One row: what comes before a character cannot be cut into parallel parts.
    (nats,) = self._score_batch([ids], 1, self._piece_length)
    return np.asarray(nats)

  def windows(self, ids: np.ndarray, window: int, stride: int) -> np.ndarray:
    """Returns the nats `[N - 1]` of all characters but the first.

    A character is predicted from at most `window` before it. Each window starts
    from the zero state, `stride` characters after the one before; the last one
    may be shorter. A window scores what no window before it has scored. The
    stride is 1 at least, and at most the window.
    """
    num_targets = len(ids) - 1
    # Up to the first window that holds the last character.
    starts = np.arange(0, max(1, num_targets - window + stride), stride)
    lengths = np.minimum(window, num_targets - starts)
    return self._score_rows(ids, starts, lengths, overlap=window - stride)

  def lines(
    self, ids: np.ndarray, newline: int
  ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores each line alone, including its newline.

    A line is predicted from the zero state after a newline.

    Returns nats `[M]`, the ids `[M]` of what was scored, which ends in a
      newline, and the length of each line.
    """
    # A newline before it and, if it ends in none, after it.
    line_end = np.full(1, newline, ids.dtype)
    text = np.concatenate([line_end, ids])
    if text[-1] != newline:
      text = np.concatenate([text, line_end])
    ends = np.flatnonzero(text == newline)
    starts, lengths = ends[:-1], np.diff(ends)
    # Lines of about the same length need little padding.
    order = np.argsort(lengths, kind="stable")
    nats = self._score_rows(text, starts[order], lengths[order])
    return nats, text[1:], lengths

  def _score_rows(
    self,
    text: np.ndarray,
    starts: np.ndarray,
    lengths: np.ndarray,
    overlap: int = 0,
  ) -> np.ndarray:
    """Scores R rows from the zero state: `lengths` `[R]` characters each.

    They are the characters of the text `[N]` after `starts` `[R]`. The first
    `overlap` of them are left to other rows, except at the start of the text.
    Returns nats `[N - 1]`, which mean nothing outside of the rows.
    """
    nats = np.empty(len(text) - 1, np.float32)
    for first in range(0, len(starts), _BATCH_SIZE):
      batch = slice(first, first + _BATCH_SIZE)
      spans = list(zip(starts[batch], lengths[batch], strict=True))
      rows = [text[start : start + length + 1] for start, length in spans]
      # Few lengths, since each is compiled anew.
      piece_length = _MIN_PIECE
      while piece_length < min(lengths[batch].max(), self._piece_length):
        piece_length *= 2
      found = self._score_batch(rows, _BATCH_SIZE, piece_length)
      for row, (start, length) in zip(found, spans, strict=True):
        skipped = overlap if start else 0
        nats[start + skipped : start + length] = row[skipped:length]
    return nats

  def _score_batch(
    self, rows: Sequence[np.ndarray], batch_size: int, piece_length: int
  ) -> np.ndarray:
    """Scores R rows of ids side by side, a piece at a time.

    Empty rows fill up the batch. Returns nats `[R, T]` for a longest row
    `[T + 1]`. They mean nothing after the end of a row.
    """
    num_targets = max(map(len, rows)) - 1
    nats = np.empty([len(rows), num_targets], np.float32)
    states = self._model.initial_states(batch_size)
    for done in range(0, num_targets, piece_length):
      self._before_piece()
      # Short pieces are padded, since each shape is compiled anew.
      ids = np.full([batch_size, piece_length + 1], PADDING_ID, np.int32)
      for i, row in enumerate(rows):
        piece = row[done : done + piece_length + 1]
        ids[i, : len(piece)] = piece
      found, states = self._compiled_nats(ids[:, :-1], ids[:, 1:], states)
      scored = found.numpy()[: len(rows), : num_targets - done]
      nats[:, done : done + piece_length] = scored
    return nats


def score_text(
  evaluator: Evaluator,
  vocab: list[str],
  text: Text,
  protocol: str = "stream",
  window: int = 1,
  stride: int = 1,
) -> tuple[Score, str]:
  """Scores a text by a protocol: `stream`, `windows` or `lines`.

  `window` and `stride` are numbers of characters, for `windows`.

  Returns the score, and the protocol in words.

  Raises InputError: a model that has diverged or, by `lines`, one that does not
    know the newline.
  """
  ids, description, lengths = text.ids_in(vocab), protocol, None
  if protocol == "windows":
    nats, ids = evaluator.windows(ids, window, stride), ids[1:]
    description = f"windows of {window}, {stride} apart"
  elif protocol == "lines":
    if "\n" not in vocab:
      raise InputError(
        "the vocabulary has no newline, which a score by lines needs: give "
        "--protocol=stream or windows"
      )
    nats, ids, lengths = evaluator.lines(ids, vocab.index("\n"))
  else:
    nats, ids = evaluator.stream(ids), ids[1:]
  score = Score.of(text, nats=nats, ids=ids, line_lengths=lengths)
  refuse_diverged(score.log_perplexity)
  return score, description
