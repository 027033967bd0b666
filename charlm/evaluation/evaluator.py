"""Scores texts by the protocols `stream`, `windows` and `lines`."""

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from charlm.data.text import Text
from charlm.data.vocabulary import PADDING_ID
from charlm.errors import InputError
from charlm.evaluation.score import Score, refuse_diverged
from charlm.model.language_model import LanguageModel
from charlm.system.devices import Choice

# Rows of a batch, and the least length to which they are padded.
_BATCH_SIZE, _MIN_CHUNK = 64, 64
# Whether XLA compiles scoring with a layer that is not `fast_with_xla`. It
# cannot call cuDNN.
_XLA_FOR_SCORES = Choice(True, False)


def xla_compiles_scores(fast_with_xla: bool) -> bool:
  """Decides whether XLA compiles scoring with a layer."""
  return fast_with_xla or _XLA_FOR_SCORES.here


class Evaluator:
  """Scores texts of ids `[N]`, N at least 2, chunk by chunk.

  `stream` is the default protocol. `windows` is for models with a context of
  fixed length, and `lines` computes the same as the function `log_perplexity`.
  """

  def __init__(
    self,
    model: LanguageModel,
    chunk_length: int = 1024,
    before_chunk: Callable[[], None] = lambda: None,
  ) -> None:
    """Prepares the graph function.

    Args:
      model: the model that predicts the texts.
      chunk_length: the largest number of characters per row and graph call;
        with several rows, rounded up to 64, 128, 256, ...
      before_chunk: is called before each chunk; an exception from it ends the
        evaluation.
    """
    self._model, self._chunk_length = model, chunk_length
    self._before_chunk = before_chunk
    xla = xla_compiles_scores(model.fast_with_xla)
    self._compiled_nats = tf.function(
      model.nats, jit_compile=xla, autograph=False
    )

  def stream(self, ids: np.ndarray) -> np.ndarray:
    """Returns the nats `[N - 1]` of all characters but the first.

    Each character is predicted from all those before it.
    """
    # A single row, since each state depends on the whole text before it.
    (nats,) = self._score_batch([ids], 1, self._chunk_length)
    return np.asarray(nats)

  def windows(self, ids: np.ndarray, window: int, stride: int) -> np.ndarray:
    """Returns the nats `[N - 1]` of all characters but the first.

    Each character is predicted from at most `window` characters before it. Each
    window starts from the initial state, `stride` characters after the previous
    one; the last one may be shorter. It scores the characters that no earlier
    window has scored. The stride is at least 1, and at most the window.
    """
    num_targets = len(ids) - 1
    # Up to the first window that holds the last character.
    starts = np.arange(0, max(1, num_targets - window + stride), stride)
    lengths = np.minimum(window, num_targets - starts)
    return self._score_rows(ids, starts, lengths, overlap=window - stride)

  def lines(
    self, ids: np.ndarray, newline: int
  ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores each line on its own, including its newline.

    A line is predicted from the initial state and a newline as first input.

    Returns nats `[M]`, the scored ids `[M]`, which end in a newline, and the
      length of each line.
    """
    # Adds a newline in front and, if the text does not end in one, at the end.
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
    """Scores R rows of a text `[N]`, each from the initial state.

    Row i reads from `starts[i]`, and scores the next `lengths[i]` characters,
    except for the first `overlap` of them, which another row scores. At the
    start of the text it scores these, too. Returns nats `[N - 1]`, which are
    undefined outside of the rows.
    """
    nats = np.empty(len(text) - 1, np.float32)
    for first in range(0, len(starts), _BATCH_SIZE):
      batch = slice(first, first + _BATCH_SIZE)
      chunks = list(zip(starts[batch], lengths[batch], strict=True))
      rows = [text[start : start + length + 1] for start, length in chunks]
      # Powers of two, since each new length is compiled again.
      chunk_length = _MIN_CHUNK
      while chunk_length < min(lengths[batch].max(), self._chunk_length):
        chunk_length *= 2
      scored = self._score_batch(rows, _BATCH_SIZE, chunk_length)
      for row, (start, length) in zip(scored, chunks, strict=True):
        skipped = overlap if start else 0
        nats[start + skipped : start + length] = row[skipped:length]
    return nats

  def _score_batch(
    self, rows: Sequence[np.ndarray], batch_size: int, chunk_length: int
  ) -> np.ndarray:
    """Scores a batch of R rows of ids, chunk by chunk.

    The batch is filled up with padding. Returns nats `[R, T]`, where T + 1 is
    the length of the longest row. They are undefined after the end of a row.
    """
    num_targets = max(map(len, rows)) - 1
    nats = np.empty([len(rows), num_targets], np.float32)
    states = self._model.initial_states(batch_size)
    for done in range(0, num_targets, chunk_length):
      self._before_chunk()
      # Short chunks are padded, since each new shape is compiled again.
      ids = np.full([batch_size, chunk_length + 1], PADDING_ID, np.int32)
      for i, row in enumerate(rows):
        chunk = row[done : done + chunk_length + 1]
        ids[i, : len(chunk)] = chunk
      padded, states = self._compiled_nats(ids[:, :-1], ids[:, 1:], states)
      scored = padded.numpy()[: len(rows), : num_targets - done]
      nats[:, done : done + chunk_length] = scored
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

  Returns the score, and a description of the protocol.

  Raises InputError: the model has diverged or, for `lines`, its vocabulary has
    no newline.
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
