"""Scores: log perplexity in nats per character, and its confidence interval."""

import dataclasses
import functools
import math
import sys
from collections.abc import Sized
from typing import TypedDict

import numpy as np
import tensorflow as tf

from charlm.data.text import Text
from charlm.data.vocabulary import PADDING_ID, UNKNOWN_ID
from charlm.errors import InputError, all_finite


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


class ScoreNumbers(TypedDict):
  """What `eval.py --json` prints of a score."""

  unit: str
  log_perplexity: float
  interval: tuple[float, float] | None  # None: of too few values
  perplexity: float
  bits_per_character: float
  bits_per_byte: float
  num_characters: int
  num_unknown: int
  log_perplexity_known: float | None


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Score:
  """The nats of a text's characters, and all that is computed of them."""

  nats: np.ndarray  # the loss of each scored character, [N]
  ids: np.ndarray  # of these characters, [N]
  num_bytes: int  # of these characters
  unit: str = "character"
  # By lines: how many characters each line has. They are averaged line by line.
  line_lengths: np.ndarray | None = None

  @classmethod
  def of(
    cls,
    text: Text,
    *,
    nats: np.ndarray,
    ids: np.ndarray,
    line_lengths: np.ndarray | None = None,
  ) -> "Score":
    """Returns the score of a text whose characters were scored.

    All but the first are; by lines, all, and a newline at the end even if it is
    missing.
    """
    by_lines = line_lengths is not None
    scored = text if by_lines else text.part(1, len(text))
    ends_line = str(text.part(max(0, len(text) - 1), len(text))) == "\n"
    return cls(
      nats=nats,
      ids=ids,
      num_bytes=scored.num_bytes() + (by_lines and not ends_line),
      unit="byte" if text.encoding == "latin-1" else "character",
      line_lengths=line_lengths,
    )

  def __repr__(self) -> str:
    return (
      f"Score({self.log_perplexity:.4f} nats per {self.unit}"
      f"{self._interval_in_words}; {self.num_characters:,} scored, "
      f"{self.num_unknown:,} unknown)"
    )

  @functools.cached_property
  def values(self) -> np.ndarray:
    """What is averaged: the nats or, by lines, the mean nats of each line."""
    if self.line_lengths is None:
      return self.nats
    return _sum_lines(self.nats, self.line_lengths) / self.line_lengths

  @property
  def num_characters(self) -> int:
    """How many characters are scored."""
    return len(self.nats)

  @property
  def num_unknown(self) -> int:
    """How many of these the model does not know."""
    return int(np.count_nonzero(self.ids == UNKNOWN_ID))

  @property
  def log_perplexity(self) -> float:
    """Nats per unit, unknown ones included."""
    # In float64: a mean of millions of float32 can lose its last digits.
    return float(self.values.mean(dtype=np.float64))

  @property
  def interval(self) -> tuple[float, float]:
    """The 95 % confidence interval of the log perplexity.

    It is unbounded where the method gives nonsense: a loss below zero.
    """
    low, high = confidence_interval(self.values)
    return (low, high) if low >= 0 else (-math.inf, math.inf)

  @property
  def _interval_in_words(self) -> str:
    low, high = self.interval
    bounded = math.isfinite(low)  # not of few characters or lines
    return f" (95 % interval {low:.4f} to {high:.4f})" if bounded else ""

  @property
  def perplexity(self) -> float:
    """The exponential of the log perplexity, at most the largest float."""
    # The loss of a model that diverged can be too large for `math.exp`.
    return math.exp(min(self.log_perplexity, math.log(sys.float_info.max)))

  @property
  def bits_per_character(self) -> float:
    """The log perplexity in bits, per unit."""
    return self.log_perplexity / math.log(2)

  @property
  def bits_per_byte(self) -> float:
    """The bits of all scored characters over their bytes, for any alphabet."""
    return float(self.nats.sum(dtype=np.float64)) / math.log(2) / self.num_bytes

  @property
  def bits(self) -> dict[str, float]:
    """The bits per unit and per byte; of bytes, the latter alone."""
    return {self.unit: self.bits_per_character, "byte": self.bits_per_byte}

  def in_words(self, step: int, protocol: str) -> str:
    """Returns the lines that `eval.py` prints."""
    lines = [
      f"step                {step:,}",
      f"protocol            {protocol}",
      f"log perplexity      {self.log_perplexity:.4f} nats per {self.unit}"
      f"{self._interval_in_words}",
      f"perplexity          {self.perplexity:.4f}",
      *(f"bits per {unit:<11}{value:.4f}" for unit, value in self.bits.items()),
      f"{self.unit + 's scored':20}{self.num_characters:,}, "
      f"{self.num_unknown:,} of them unknown",
    ]
    nats = self.log_perplexity_known
    if nats is not None and self.num_unknown:
      lines.append(
        f"without unknown     {nats:.4f} nats per {self.unit} "
        f"({nats / math.log(2):.4f} bits)"
      )
    return "\n".join(lines)

  @property
  def log_perplexity_known(self) -> float | None:
    """Nats per known character; None where there is none.

    By lines, it is the mean over the lines that have one.
    """
    known = self.ids != UNKNOWN_ID
    if not known.any():
      return None
    if self.line_lengths is None:
      return float(self.nats.mean(dtype=np.float64, where=known))
    sums = _sum_lines(np.where(known, self.nats, 0), self.line_lengths)
    counts = _sum_lines(known, self.line_lengths)
    return float((sums[counts > 0] / counts[counts > 0]).mean())

  def to_dict(self) -> ScoreNumbers:
    """Returns what JSON, which knows no infinity, can hold of it."""
    interval = self.interval
    return {
      "unit": self.unit,
      "log_perplexity": self.log_perplexity,
      "interval": interval if math.isfinite(interval[0]) else None,
      "perplexity": self.perplexity,
      "bits_per_character": self.bits_per_character,
      "bits_per_byte": self.bits_per_byte,
      "num_characters": self.num_characters,
      "num_unknown": self.num_unknown,
      "log_perplexity_known": self.log_perplexity_known,
    }


def _sum_lines(values: np.ndarray, lengths: np.ndarray) -> np.ndarray:
  """Adds up the values of each line, in float64."""
  starts = np.cumsum(lengths) - lengths
  return np.add.reduceat(values, starts, dtype=np.float64)


def confidence_interval(
  values: np.ndarray, num_resamples: int = 2000
) -> tuple[float, float]:
  """Returns the 95 % confidence interval of the mean of values `[N]`.

  It holds 95 % of the means of resamples. Neighbouring values are correlated,
  so a resample is made of stretches of sqrt(N) neighbours, drawn with
  replacement from the values as a ring (circular block bootstrap, Politis and
  Romano 1992). The mean of a resample of M values, in stretches of n, has the
  variance (N - n) / M of that of the mean of N independent values, which is
  corrected. A single value has no spread: its interval is unbounded.
  """
  if len(values) < 2:
    return -math.inf, math.inf
  size = max(1, round(len(values) ** 0.5))
  num_drawn = -(-len(values) // size)
  ring = np.concatenate([[0], values, values[: size - 1]], dtype=np.float64)
  ring = np.cumsum(ring)
  stretches = (ring[size:] - ring[:-size]) / size  # their means
  rng = np.random.default_rng(0)  # the same scores give the same interval
  mean = float(values.mean(dtype=np.float64))
  means = [
    stretches[rng.integers(len(values), size=num_drawn)].mean()
    for _ in range(num_resamples)
  ]
  scale = (num_drawn * size / (len(values) - size)) ** 0.5
  low, high = mean + scale * (np.quantile(means, [0.025, 0.975]) - mean)
  return float(low), float(high)


def refuse_diverged(nats: float) -> None:
  """Raises InputError for what is not finite, as a diverged model gives it."""
  if not all_finite(nats):
    raise InputError("the model has diverged: give another --checkpoint")


def refuse_short(text: Sized, name: object) -> None:
  """Raises InputError, which names the text, for fewer than two characters."""
  if len(text) < 2:
    raise InputError(
      f"{name} has fewer than two characters, once it is cleaned as the corpus "
      "was, which leaves nothing to predict: give a longer one"
    )
