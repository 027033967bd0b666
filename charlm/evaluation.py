"""How well a model predicts a text: log perplexity, in nats per character."""

import dataclasses
import math
import sys
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from charlm.model import GRULM, State
from charlm.vocabulary import PADDING_ID, UNKNOWN_ID


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


@dataclasses.dataclass(frozen=True)
class Score:
  """Sums over the scored characters; each mean is one division."""

  sum_nats: float
  num_characters: int
  sum_nats_unknown: float  # the part of the above at unknown characters
  num_unknown: int

  @property
  def log_perplexity(self) -> float:
    """Nats per character, unknown ones included."""
    return self.sum_nats / self.num_characters

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
    if self.num_unknown == self.num_characters:
      return None
    known_nats = self.sum_nats - self.sum_nats_unknown
    return known_nats / (self.num_characters - self.num_unknown)

  def to_dict(self) -> dict[str, float | int | None]:
    """Returns the numbers that `eval.py --json` prints."""
    names = ["log_perplexity", "perplexity", "bits_per_character"]
    names += ["num_characters", "num_unknown", "log_perplexity_known"]
    return {name: getattr(self, name) for name in names}


class Evaluator:
  """Scores texts in one state-carrying pass, a piece at a time.

  The pieces only bound the memory: the result is that of a single pass.
  """

  def __init__(self, model: GRULM, piece_length: int = 1024) -> None:
    self._model = model
    self._piece_length = piece_length
    # XLA makes the loop over time faster on a CPU, but knows no cuDNN.
    xla = not tf.config.list_physical_devices("GPU")
    self._score_piece = tf.function(self._score_piece, jit_compile=xla)

  def score(self, ids: np.ndarray) -> Score:
    """Scores all characters of a text `[N]` but the first, given those before.

    Raises ValueError: fewer than two characters.
    """
    if len(ids) < 2:
      raise ValueError("a text of fewer than two characters has no score")
    sums = np.zeros([2])
    for targets, nats in self._pieces(ids):
      unknown = targets == UNKNOWN_ID
      sums += nats.sum(dtype=np.float64), nats[unknown].sum(dtype=np.float64)
    return Score(
      sum_nats=float(sums[0]),
      num_characters=len(ids) - 1,
      sum_nats_unknown=float(sums[1]),
      num_unknown=int(np.count_nonzero(ids[1:] == UNKNOWN_ID)),
    )

  def _pieces(self, ids: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields targets and their nats, both `[piece length or fewer]`."""
    size = self._piece_length
    states = self._model.initial_states(1)
    for start in range(0, len(ids) - 1, size):
      piece = ids[start : start + size + 1]
      # A last, shorter piece is filled up: another shape would be compiled.
      filled = np.full([1, size + 1], PADDING_ID, np.int32)
      filled[0, : len(piece)] = piece
      nats, states = self._score_piece(filled[:, :-1], filled[:, 1:], states)
      yield piece[1:], nats.numpy()[: len(piece) - 1]

  def _score_piece(
    self, inputs: tf.Tensor, targets: tf.Tensor, states: State
  ) -> tuple[tf.Tensor, State]:
    log_probs, states = self._model(inputs, states, return_state=True)
    return -tf.gather(log_probs, targets, batch_dims=2)[0], states
