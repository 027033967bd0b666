"""How well a model predicts a text: log perplexity, in nats per character."""

from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf

from charlm.data.text import Text
from charlm.data.vocabulary import PADDING_ID
from charlm.errors import InputError
from charlm.evaluation.score import Score, Tally, refuse_diverged, refuse_short
from charlm.model.language_model import GRULM
from charlm.system.choices import XLA_FOR_SCORES

# Rows of a batch, and the least length that they are padded to.
_BATCH_SIZE, _MIN_PIECE = 64, 64
# Characters that `lines` reads at a time. It sorts the lines in them by length,
# and scores a longer line by itself.
BLOCK = 2**19


class Evaluator:
  """Scores texts of ids `[N]`, a piece at a time.

  `stream` is the protocol by default, `windows` that of models with a context
  of fixed length, and `lines` that of the function `log_perplexity`.
  """

  def __init__(
    self,
    model: GRULM,
    piece_length: int = 1024,
    before_piece: Callable[[], None] = lambda: None,
    keep_nats: bool = False,
  ) -> None:
    """Takes a model.

    Args:
      model: the model that predicts the texts.
      piece_length: the most characters of a row in one graph call; with
        several rows, rounded up to 64, 128, 256, ...
      before_piece: is called before each piece; an exception from it ends the
        evaluation.
      keep_nats: keep each character's nats in the scores; memory then grows
        with the text.
    """
    self._model, self._piece_length = model, piece_length
    self._before_piece, self._keep_nats = before_piece, keep_nats
    how = {"jit_compile": XLA_FOR_SCORES.here, "autograph": False}
    self._compiled_nats = tf.function(model.nats, **how)

  def stream(self, ids: np.ndarray) -> Score:
    """Scores all characters but the first, given all those before.

    Raises InputError: fewer than two characters.
    """
    refuse_short(ids)
    return self._stream(ids, 0, len(ids) - 1)

  def windows(self, ids: np.ndarray, window: int, stride: int) -> Score:
    """Scores all characters but the first, given at most `window` before each.

    Each window starts from the zero state, `stride` characters after the one
    before; the last one may be shorter. A window scores what no window before
    it has scored.

    Raises:
      InputError: fewer than two characters.
      ValueError: a stride below 1 or above the window.
    """
    refuse_short(ids)
    if not 1 <= stride <= window:
      raise ValueError(f"stride is {stride}: give 1 to {window}, the window")
    num_targets = len(ids) - 1
    tally = Tally(num_targets, self._keep_nats)
    # Up to the first window that holds the last character.
    starts = range(0, max(1, num_targets - window + stride), stride)
    for i in range(0, len(starts), _BATCH_SIZE):
      first = np.array(starts[i : i + _BATCH_SIZE])
      lengths = np.minimum(window, num_targets - first)
      # One read for all windows of the batch, which touch or overlap.
      text = ids[first[0] : first[-1] + lengths[-1] + 1]
      nats = self._score_rows(text, first - first[0], lengths, window - stride)
      # The batch before has scored the characters in which the two overlap.
      begin = window - stride if i else 0
      tally.add(nats[begin:], text[begin + 1 :])
    return tally.score()

  def lines(self, ids: np.ndarray, newline: int) -> Score:
    """Scores each line alone, including its newline; averages their means.

    A line is predicted from the zero state after a newline.

    Raises InputError: no character.
    """
    # A newline before it and, if it ends in none, after it.
    line_end = np.full(1, newline, ids.dtype)
    text = np.concatenate([line_end, ids])
    if text[-1] != newline:
      text = np.concatenate([text, line_end])
    refuse_short(text)
    # Counted first, since `Tally` sizes its sums by the number of lines.
    num_lines = int(np.count_nonzero(text[1:] == newline))
    tally, start = Tally(num_lines, self._keep_nats), 0
    while start < len(text) - 1:
      block = text[start : start + BLOCK + 1]
      # The first is `block[0]`, the end of the line before.
      ends = np.flatnonzero(block == newline)
      if len(ends) > 1:
        first, lengths = ends[:-1], np.diff(ends)
        block = block[: ends[-1] + 1]
        nats = self._score_rows(block, first, lengths, overlap=0)
        tally.add(nats, block[1:], lengths)
        start += len(block) - 1
      else:  # a line that is longer than the block
        stop = start + BLOCK
        while newline not in (ahead := text[stop + 1 : stop + BLOCK + 1]):
          stop += BLOCK
        stop += 1 + int(np.argmax(ahead == newline))
        tally.add_row(self._stream(text, start, stop))
        start = stop
    return tally.score()

  def _stream(self, text: np.ndarray, start: int, stop: int) -> Score:
    """Scores the characters from `start + 1` to `stop`, inclusive."""
    tally = Tally(stop - start, self._keep_nats)
    # One row: what comes before a character cannot be cut into parallel parts.
    batch = [start], [stop - start], 1
    for done, nats in self._pieces(text, *batch, self._piece_length):
      first = start + 1 + done
      targets = text[first : min(first + self._piece_length, stop + 1)]
      tally.add(nats[0, : len(targets)], targets)
    return tally.score()

  def _score_rows(
    self,
    text: np.ndarray,
    starts: np.ndarray,
    lengths: np.ndarray,
    overlap: int,
  ) -> np.ndarray:
    """Scores R rows from the zero state: `lengths` `[R]` characters each.

    They are those after `starts` `[R]`. Together the rows cover the text. Each
    row but the first leaves out its first `overlap` characters, which rows
    before it score. Returns the nats `[N - 1]` of the text `[N]`.
    """
    found = np.empty(len(text) - 1, np.float32)
    # Rows of about the same length need little padding.
    order = np.argsort(lengths, kind="stable")
    for i in range(0, len(order), _BATCH_SIZE):
      rows = order[i : i + _BATCH_SIZE]
      # Few lengths, since each is compiled anew.
      longest, size = lengths[rows[-1]], _MIN_PIECE
      while size < min(longest, self._piece_length):
        size *= 2
      batch = starts[rows].tolist(), lengths[rows].tolist()
      for done, nats in self._pieces(text, *batch, _BATCH_SIZE, size):
        for row, start, length, scored in zip(rows, *batch, nats, strict=False):
          low = max(done, overlap if row else 0)
          high = min(done + size, length)
          if low < high:
            found[start + low : start + high] = scored[low - done : high - done]
    return found

  def _pieces(
    self,
    text: np.ndarray,
    starts: list[int],
    lengths: list[int],
    batch_size: int,
    size: int,
  ) -> Iterator[tuple[int, np.ndarray]]:
    """Scores rows side by side, `size` characters at a time.

    Yields, for each piece, where in the rows it is, and nats
    `[batch_size, size]`, which mean nothing after the end of a row.
    """
    states = self._model.initial_states(batch_size)
    for done in range(0, max(lengths), size):
      self._before_piece()
      # Short pieces are padded, since each shape is compiled anew.
      filled = np.full([batch_size, size + 1], PADDING_ID, np.int32)
      for row, start, length in zip(filled, starts, lengths, strict=False):
        if done < length:
          stop = start + min(done + size, length) + 1
          row[: stop - start - done] = text[start + done : stop]
      inputs, targets = filled[:, :-1], filled[:, 1:]
      nats, states = self._compiled_nats(inputs, targets, states)
      yield done, nats.numpy()


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

  Raises InputError: too short a text, a model that has diverged or, by `lines`,
    one that does not know the newline.
  """
  ids, words = text.ids_in(vocab), protocol
  if protocol == "windows":
    score = evaluator.windows(ids, window, stride)
    words = f"windows of {window}, {stride} apart"
  elif protocol == "lines":
    score = evaluator.lines(ids, newline_id(vocab))
  else:
    score = evaluator.stream(ids)
  refuse_diverged(score.log_perplexity)
  return score.with_size_of(text, protocol == "lines"), words


def newline_id(vocab: list[str]) -> int:
  """Returns the newline's id.

  Raises InputError: the vocabulary has no newline.
  """
  if "\n" not in vocab:
    raise InputError(
      "the vocabulary has no newline, which a score by lines needs: give "
      "--protocol=stream or windows"
    )
  return vocab.index("\n")
