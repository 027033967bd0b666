"""Scores: log perplexity in nats per character, and its confidence interval."""

import dataclasses
import math
import sys
from typing import Any

import numpy as np
import tensorflow as tf

from charlm.data.vocabulary import PADDING_ID
from charlm.errors import InputError


def log_perplexity(preds: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
  """Averages each sequence's nats, then the means, as `Evaluator.lines` does.

  Args:
    preds: log-probabilities `[B, T, V]`.
    target: ids `[B, T]`; padding (id 1) does not count, nor does a sequence
      of padding alone.

  Returns nats per character, a scalar.
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
  """The nats that each scored character cost, and the means over them."""

  nats: np.ndarray  # [N]
  unknown: np.ndarray  # [N], whether the model does not know the character
  # [num_rows] characters of each row, if the score is the mean of their means.
  row_lengths: np.ndarray | None = None

  @property
  def num_characters(self) -> int:
    """How many characters are scored, N."""
    return len(self.nats)

  @property
  def num_unknown(self) -> int:
    """How many scored characters the model does not know."""
    return int(np.count_nonzero(self.unknown))

  @property
  def log_perplexity(self) -> float:
    """Nats per character, unknown ones included."""
    return float(self._values().mean())

  @property
  def interval(self) -> tuple[float, float]:
    """The 95 % confidence interval of the log perplexity."""
    return confidence_interval(self._values())

  @property
  def perplexity(self) -> float:
    """The exponential of the log perplexity, at most the largest float."""
    # The loss of a model that diverged can be too large for `math.exp`.
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
    return float(self._values(~self.unknown).mean())

  def to_dict(self) -> dict[str, Any]:
    """Returns the numbers that `eval.py --json` prints."""
    names = ["log_perplexity", "interval", "perplexity", "bits_per_character"]
    names += ["num_characters", "num_unknown", "log_perplexity_known"]
    numbers = {name: getattr(self, name) for name in names}
    if not math.isfinite(numbers["interval"][0]):
      numbers["interval"] = None  # JSON knows no infinity
    return numbers

  def rows(self) -> list[np.ndarray]:
    """Returns the nats of each row, in float64; without lengths, of one row."""
    nats = self.nats.astype(np.float64)
    if self.row_lengths is None:
      return [nats]
    return np.split(nats, np.cumsum(self.row_lengths)[:-1])

  def _values(self, counted: np.ndarray | bool = True) -> np.ndarray:
    """Returns the values whose mean is the score: nats, or the rows' means.

    Only characters that are `counted` `[N]` count, and rows with some of them.
    """
    counted = np.broadcast_to(counted, self.nats.shape)
    # A mean of millions of float32 can lose its last digits.
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
  """Returns the 95 % confidence interval of the mean of values `[N]`.

  It holds 95 % of the means of resamples. Neighbouring values are correlated,
  so a resample is made of blocks of sqrt(N) neighbours, drawn with replacement
  from the values as a ring (circular block bootstrap, Politis and Romano 1992).
  Means of n blocks spread too little by a factor of sqrt((n - 1) / n), which
  is corrected. A single value has no spread: its interval is unbounded.
  """
  if len(values) < 2:
    return -math.inf, math.inf
  size = round(len(values) ** 0.5)
  num_blocks = -(-len(values) // size)
  sums = np.cumsum([0.0, *values, *values[: size - 1]])
  block_sums = sums[size:] - sums[:-size]
  rng = np.random.default_rng(0)  # the same scores give the same interval
  mean, means = float(values.mean()), []
  for _ in range(num_resamples):
    drawn = block_sums[rng.integers(len(values), size=num_blocks)]
    means.append(drawn.sum() / (num_blocks * size))
  scale = (num_blocks / (num_blocks - 1)) ** 0.5
  low, high = mean + scale * (np.quantile(means, [0.025, 0.975]) - mean)
  return float(low), float(high)


def refuse_short(ids: np.ndarray, name: object = "the text") -> None:
  """Raises InputError, which names the text, for fewer than two ids `[N]`."""
  if len(ids) < 2:
    raise InputError(
      f"{name} has fewer than two characters, which leaves nothing to predict: "
      "give a longer one"
    )
