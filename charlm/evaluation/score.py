"""Scores: log perplexity in nats per character, and its confidence interval."""

import dataclasses
import math
import sys
from collections.abc import Sized
from typing import TypedDict

import numpy as np
import tensorflow as tf

from charlm.data.text import Text
from charlm.data.vocabulary import PADDING_ID, UNKNOWN_ID
from charlm.errors import InputError

MAX_BLOCKS = 2**19  # the most blocks whose sums a score holds


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
  interval: tuple[float, float] | None  # None: of one value alone
  perplexity: float
  bits_per_character: float
  bits_per_byte: float
  num_characters: int
  num_unknown: int
  log_perplexity_known: float | None


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Score:
  """The mean of values: a character's nats or, by lines, a line's mean nats.

  Up to `MAX_BLOCKS` values are held one by one. If there are more, sums over
  blocks of neighbours are held; the last block can have fewer values.
  """

  values: np.ndarray  # [2, M]: the sum of each block, and how many it has
  known: np.ndarray  # [2, M], the same over known characters alone
  num_characters: int  # that are scored
  num_unknown: int  # of these, those that the model does not know
  nats: np.ndarray  # each character's loss, [num_characters]; empty: not kept
  num_bytes: int = 0  # of the scored characters, where they were counted
  unit: str = "character"

  def __repr__(self) -> str:
    interval = "{:.4f} to {:.4f}".format(*self.interval)
    return (
      f"Score({self.log_perplexity:.4f} nats per {self.unit}, {interval}; "
      f"{self.num_characters:,} scored, {self.num_unknown:,} unknown)"
    )

  @property
  def log_perplexity(self) -> float:
    """Nats per unit, unknown ones included."""
    return _mean(*self.values)

  @property
  def interval(self) -> tuple[float, float]:
    """The 95 % confidence interval of the log perplexity."""
    return confidence_interval(*self.values)

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
    """Bits per byte, comparable across alphabets.

    Bits per character, times characters, over bytes. By lines, this product is
    not the bits of the whole text. Only for what `with_size_of` returned.
    """
    return self.bits_per_character * self.num_characters / self.num_bytes

  @property
  def bits(self) -> dict[str, float]:
    """The bits per unit and per byte; a score of bytes has one number."""
    return {self.unit: self.bits_per_character, "byte": self.bits_per_byte}

  def in_words(self, step: int, protocol: str) -> str:
    """Returns the lines that `eval.py` prints."""
    low, high = self.interval
    lines = [
      f"step                {step:,}",
      f"protocol            {protocol}",
      f"log perplexity      {self.log_perplexity:.4f} nats per {self.unit} "
      f"(95 % interval {low:.4f} to {high:.4f})",
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
    """Nats per known character; None where there is none."""
    return _mean(*self.known) if self.known[1].any() else None

  def with_size_of(self, text: Text, by_lines: bool = False) -> "Score":
    """Returns a copy with the text's unit and the number of scored bytes.

    All characters but the first are scored; by lines, all, and a newline at the
    end even if it is missing.
    """
    scored = text if by_lines else text.part(1, len(text))
    num_bytes = scored.num_bytes() + (by_lines and not text.ends_with("\n"))
    unit = "byte" if text.encoding == "latin-1" else "character"
    return dataclasses.replace(self, num_bytes=num_bytes, unit=unit)

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


class Tally:
  """Adds up a score, from the pieces of a text in their order."""

  def __init__(self, num_values: int, keep_nats: bool = False) -> None:
    """Takes the number of values to come; the score holds nats if asked to."""
    self._length = max(1, -(-num_values // MAX_BLOCKS))  # values of a block
    self._blocks = np.zeros([4, -(-num_values // self._length)])
    self._done = self._num_characters = self._num_unknown = 0
    self._keep_nats, self._nats = keep_nats, [np.empty(0, np.float32)]

  def add(
    self, nats: np.ndarray, ids: np.ndarray, lengths: np.ndarray | None = None
  ) -> None:
    """Adds characters: nats `[n]`, ids `[n]`, and the lengths of whole rows.

    Without lengths, each character is a value; with them, each row's mean.
    """
    if self._keep_nats:
      self._nats.append(nats)
    known = ids != UNKNOWN_ID
    self._num_characters += len(nats)
    self._num_unknown += len(nats) - int(np.count_nonzero(known))
    ones, of_known = np.ones(len(nats)), np.where(known, nats, 0)
    # For each value, sum and number of all characters, then of known ones. In
    # float64, since a mean of millions of float32 can lose its last digits.
    values = np.stack([nats, ones, of_known, known], dtype=np.float64)
    if lengths is not None:
      # Each row becomes one value, its mean, unless no character of it counts.
      values = np.add.reduceat(values, np.cumsum(lengths) - lengths, axis=1)
      values[::2] /= np.maximum(values[1::2], 1)
      values[1::2] = values[1::2] > 0
    self._add_values(values)

  def add_row(self, row: Score) -> None:
    """Adds the mean of a row that was scored by itself."""
    self._nats.append(row.nats)  # empty if they are not kept
    self._num_characters += row.num_characters
    self._num_unknown += row.num_unknown
    known = row.log_perplexity_known
    values = [row.log_perplexity, 1, known or 0, known is not None]
    self._add_values(np.array(values)[:, np.newaxis])

  def score(self) -> Score:
    """Returns the score of all that was added."""
    values, known = self._blocks[:2], self._blocks[2:]
    numbers = self._num_characters, self._num_unknown
    return Score(values, known, *numbers, np.concatenate(self._nats))

  def _add_values(self, values: np.ndarray) -> None:
    """Adds values `[4, n]` to their blocks."""
    end = self._done + values.shape[1]
    low, high = self._done // self._length, -(-end // self._length)
    if self._length > 1:
      # Where in `values` each block begins; the first may have begun before.
      begins = np.arange(low, high) * self._length - self._done
      values = np.add.reduceat(values, np.maximum(begins, 0), axis=1)
    self._blocks[:, low:high] += values
    self._done = end


def _mean(sums: np.ndarray, counts: np.ndarray) -> float:
  # Zeros of empty blocks would change the order in which NumPy adds the others,
  # and with it the last bit.
  return float(sums[counts > 0].sum() / counts.sum())


def confidence_interval(
  sums: np.ndarray, counts: np.ndarray | None = None, num_resamples: int = 2000
) -> tuple[float, float]:
  """Returns the 95 % confidence interval of the mean of N values.

  It holds 95 % of the means of resamples. Neighbouring values are correlated,
  so a resample is made of stretches of sqrt(N) neighbours, drawn with
  replacement from the values as a ring (circular block bootstrap, Politis and
  Romano 1992). Means of n stretches spread too little by a factor of
  sqrt((n - 1) / n), which is corrected. A single value has no spread: its
  interval is unbounded.

  Args:
    sums: of the values in each block `[M]`. A stretch is made of whole blocks.
    counts: the numbers of values in the blocks `[M]`, equal but for the last;
      by default 1.
    num_resamples: how many are drawn.
  """
  if len(sums) < 2:
    return -math.inf, math.inf
  counts = np.ones(len(sums)) if counts is None else counts
  size = max(1, round(counts.sum() ** 0.5 / counts[0]))  # blocks of a stretch
  num_drawn = -(-len(sums) // size)
  ring = np.stack([sums, counts])
  ring = np.concatenate([np.zeros([2, 1]), ring, ring[:, : size - 1]], axis=1)
  ring = np.cumsum(ring, axis=1)
  stretches = ring[:, size:] - ring[:, :-size]
  rng = np.random.default_rng(0)  # the same scores give the same interval
  mean, means = float(sums.sum() / counts.sum()), []
  for _ in range(num_resamples):
    drawn = rng.integers(len(sums), size=num_drawn)
    means.append(stretches[0, drawn].sum() / stretches[1, drawn].sum())
  scale = (num_drawn / (num_drawn - 1)) ** 0.5
  low, high = mean + scale * (np.quantile(means, [0.025, 0.975]) - mean)
  return float(low), float(high)


def refuse_diverged(nats: float) -> None:
  """Raises InputError for what is not finite, as a diverged model gives it."""
  if not math.isfinite(nats):
    raise InputError("the model has diverged: give another --checkpoint")


def refuse_short(text: Sized, name: object = "the text") -> None:
  """Raises InputError, which names the text, for fewer than two characters."""
  if len(text) < 2:
    raise InputError(
      f"{name} has fewer than two characters, once it is cleaned as the corpus "
      "was, which leaves nothing to predict: give a longer one"
    )
