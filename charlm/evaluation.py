"""How well a model predicts a text: log perplexity, in nats per character."""

import dataclasses
import itertools
import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from charlm.config import InputError
from charlm.model import GRULM, State
from charlm.vocabulary import PADDING_ID, UNKNOWN_ID

_BATCH_SIZE, _MIN_PIECE = 64, 64


def log_perplexity(preds: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
  """Averages each sequence over its unpadded positions, then the sequences.

  Args:
    preds: log-probabilities `[B, T, V]`.
    target: ids `[B, T]`; padding (id 1) does not count, nor does a sequence
      of padding alone.

  Returns Nats per character, a scalar.
  """
  preds = tf.convert_to_tensor(preds)
  target = tf.cast(target, tf.int32)
  scored = target != PADDING_ID
  log_probs = tf.gather(preds, target, batch_dims=2)  # [B, T]
  sums = tf.reduce_sum(tf.where(scored, log_probs, 0), axis=1)
  counts = tf.reduce_sum(tf.cast(scored, preds.dtype), axis=1)
  num_rows = tf.cast(tf.math.count_nonzero(counts), preds.dtype)
  return -tf.reduce_sum(tf.math.divide_no_nan(sums, counts)) / num_rows


@dataclasses.dataclass(frozen=True, eq=False)
class Score:
  """What each scored character cost; each mean is one division."""

  nats: np.ndarray  # [N]
  unknown: np.ndarray  # [N], whether the model does not know the character
  # [num_rows] characters of each row, where the rows' means are averaged.
  row_lengths: np.ndarray | None = None

  @property
  def num_characters(self) -> int:
    """N."""
    return len(self.nats)

  @property
  def num_unknown(self) -> int:
    """How many of them the model does not know."""
    return int(np.count_nonzero(self.unknown))

  @property
  def log_perplexity(self) -> float:
    """Nats per character, unknown ones included."""
    return float(self._units().mean())

  @property
  def interval(self) -> tuple[float, float]:
    """The 95 % confidence interval of the log perplexity."""
    return confidence_interval(self._units())

  @property
  def perplexity(self) -> float:
    """The exponential of the log perplexity, at most the largest float."""
    return math.exp(min(self.log_perplexity, math.log(sys.float_info.max)))

  @property
  def bits_per_character(self) -> float:
    """The log perplexity in bits."""
    return self.log_perplexity / math.log(2)

  @property
  def log_perplexity_known(self) -> float | None:
    """Nats per known character; None where there is none."""
    if self.unknown.all():
      return None
    return float(self._units(~self.unknown).mean())

  def to_dict(self) -> dict[str, Any]:
    """Returns the numbers that `eval.py --json` prints."""
    names = ["log_perplexity", "interval", "perplexity", "bits_per_character"]
    names += ["num_characters", "num_unknown", "log_perplexity_known"]
    numbers = {name: getattr(self, name) for name in names}
    if not math.isfinite(numbers["interval"][0]):
      numbers["interval"] = None  # JSON knows no infinity
    return numbers

  def _units(self, counted: np.ndarray | bool = True) -> np.ndarray:
    """Returns that whose mean is the score: nats, or the rows' means.

    Only characters that are `counted` `[N]` count, and rows with some of them.
    """
    counted = np.broadcast_to(counted, self.nats.shape)
    nats = self.nats.astype(np.float64)
    if self.row_lengths is None:
      return nats[counted]
    first = np.cumsum(self.row_lengths) - self.row_lengths
    sums = np.add.reduceat(np.where(counted, nats, 0), first)
    counts = np.add.reduceat(counted, first, dtype=np.int64)
    return sums[counts > 0] / counts[counts > 0]


def confidence_interval(
  values: np.ndarray, num_resamples: int = 2000
) -> tuple[float, float]:
  """Returns where 95 % of the means of resampled values `[N]` lie.

  What is hard to predict comes in passages, so the resamples are made of blocks
  of sqrt(N) neighbours, drawn with replacement from all that there are on a
  ring (the circular block bootstrap, Politis and Romano 1992). The spread of
  few blocks is too small by a known factor, which is undone. A single value
  has no spread: the interval is then unbounded.
  """
  if len(values) < 2:
    return -math.inf, math.inf
  size = round(len(values) ** 0.5)
  num_blocks = -(-len(values) // size)
  ends = np.cumsum([0.0, *values, *values[: size - 1]])
  blocks = ends[size:] - ends[:-size]
  rng = np.random.default_rng(0)
  mean, means = float(values.mean()), []
  for _ in range(num_resamples):
    drawn = blocks[rng.integers(len(values), size=num_blocks)]
    means.append(drawn.sum() / (num_blocks * size))
  scale = (num_blocks / (num_blocks - 1)) ** 0.5
  low, high = mean + scale * (np.quantile(means, [0.025, 0.975]) - mean)
  return float(low), float(high)


class Evaluator:
  """Scores texts `[N]`, a piece at a time, which only bounds the memory.

  `stream` is the reference's protocol, `windows` that of models with a context
  of fixed length, `lines` that of `log_perplexity`.
  """

  def __init__(
    self,
    model: GRULM,
    piece_length: int = 1024,
    between: Callable[[], None] = lambda: None,
  ) -> None:
    """Takes what is called before each piece; it raises to give up."""
    self._model = model
    self._piece_length = piece_length
    self._between = between
    # XLA makes the loop over time faster on a CPU, but knows no cuDNN.
    xla = not tf.config.list_physical_devices("GPU")
    self._score_piece = tf.function(self._score_piece, jit_compile=xla)

  def stream(self, ids: np.ndarray) -> Score:
    """Scores all characters but the first, given all those before.

    Raises InputError: fewer than two characters.
    """
    refuse_short(ids)
    (nats,) = self._score_batch([ids], 1, self._piece_length)
    return Score(nats, ids[1:] == UNKNOWN_ID)

  def windows(self, ids: np.ndarray, window: int, stride: int) -> Score:
    """Scores the same characters, each given at most those of a window.

    Each window starts from the zero state, `stride` characters after the one
    before. The first is scored whole, of each later one the last `stride`.

    Raises:
      InputError: fewer than two characters.
      ValueError: a stride over the window.
    """
    refuse_short(ids)
    if not 1 <= stride <= window:
      raise ValueError(f"stride is {stride}: give 1 to {window}, the window")
    num_targets = len(ids) - 1
    starts = range(0, max(1, num_targets - window + stride), stride)
    rows = [ids[start : start + window + 1] for start in starts]
    nats = self._score_rows(rows)
    parts = [nats[0], *(x[window - stride :] for x in nats[1:])]
    return Score(np.concatenate(parts), ids[1:] == UNKNOWN_ID)

  def lines(self, ids: np.ndarray, newline: int) -> Score:
    """Scores each line alone, up to its newline; averages the lines' means.

    A line is predicted from the zero state after a newline.

    Raises InputError: no character.
    """
    text = np.concatenate([[newline], ids])
    refuse_short(text)
    if text[-1] != newline:
      text = np.append(text, newline)
    ends = np.flatnonzero(text == newline)
    rows = [text[a : b + 1] for a, b in itertools.pairwise(ends)]
    return Score(
      np.concatenate(self._score_rows(rows)),
      np.concatenate([row[1:] == UNKNOWN_ID for row in rows]),
      np.diff(ends),
    )

  def _score_rows(self, rows: list[np.ndarray]) -> list[np.ndarray]:
    """Returns the nats of all characters but the first of each row."""
    # Rows of about the same length together need little filling.
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
      self._between()
      # What is missing is filled up: another shape would be compiled.
      filled = np.full([batch_size, size + 1], PADDING_ID, np.int32)
      for row, ids in zip(filled, rows, strict=False):
        piece = ids[start : start + size + 1]
        row[: len(piece)] = piece
      nats, states = self._score_piece(filled[:, :-1], filled[:, 1:], states)
      pieces.append(nats.numpy())
    nats = np.concatenate(pieces, axis=1)
    return [x[: len(row) - 1] for x, row in zip(nats, rows, strict=False)]

  def _score_piece(
    self, inputs: tf.Tensor, targets: tf.Tensor, states: State
  ) -> tuple[tf.Tensor, State]:
    log_probs, states = self._model(inputs, states, return_state=True)
    return -tf.gather(log_probs, targets, batch_dims=2), states


def refuse_short(ids: np.ndarray, name: object = "the text") -> None:
  """Raises InputError, naming it, for a text `[N]` with nothing to predict."""
  if len(ids) < 2:
    raise InputError(
      f"{name} has fewer than two characters, which leaves nothing to predict: "
      "give a longer one"
    )
