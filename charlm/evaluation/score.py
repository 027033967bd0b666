"""Scores: log perplexity in nats per character, and what follows from it."""

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
  """Averages the nats of each sequence, then the means of all sequences.

  Args:
    preds: log-probabilities `[B, T, V]`.
    target: ids `[B, T]`; padding (id 1) does not count, nor does a sequence
      of padding only.

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
  """A score as `eval.py --json` prints it."""

  unit: str
  log_perplexity: float
  perplexity: float
  bits_per_character: float
  bits_per_byte: float
  num_characters: int
  num_unknown: int
  log_perplexity_known: float | None


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Score:
  """The nats of a text's characters, and all numbers computed from them."""

  nats: np.ndarray  # of each scored character, [N]
  ids: np.ndarray  # of these characters, [N]
  num_bytes: int  # of these characters
  unit: str = "character"
  # The characters in each line, if the score averages the means of lines.
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
    """Makes the score of a text from the nats of its characters.

    They are those of all characters but the first; with `line_lengths`, of all
    characters, and of a final newline even if the text lacks it.
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
      f"Score({self.log_perplexity:.4f} nats per {self.unit}; "
      f"{self.num_characters:,} scored, {self.num_unknown:,} unknown)"
    )

  @property
  def num_characters(self) -> int:
    """The number of scored characters."""
    return len(self.nats)

  @property
  def num_unknown(self) -> int:
    """The number of scored characters that the vocabulary lacks."""
    return int(np.count_nonzero(self.ids == UNKNOWN_ID))

  @functools.cached_property
  def log_perplexity(self) -> float:
    """The loss in nats per unit, including unknown characters.

    By lines, it is the mean of the lines' means.
    """
    values = self.nats
    if self.line_lengths is not None:
      values = _sum_lines(self.nats, self.line_lengths) / self.line_lengths
    # In float64: a mean of millions of float32 can lose its last digits.
    return float(values.mean(dtype=np.float64))

  @property
  def perplexity(self) -> float:
    """The exponential of the log perplexity, at most the largest float."""
    # The loss of a diverged model can be too large for `math.exp`.
    return math.exp(min(self.log_perplexity, math.log(sys.float_info.max)))

  @property
  def bits_per_character(self) -> float:
    """The log perplexity in bits, per unit."""
    return self.log_perplexity / math.log(2)

  @property
  def bits_per_byte(self) -> float:
    """The bits of all characters over their bytes, in any alphabet."""
    return float(self.nats.sum(dtype=np.float64)) / math.log(2) / self.num_bytes

  @property
  def bits(self) -> dict[str, float]:
    """The bits per unit and per byte; one entry if the unit is the byte."""
    return {self.unit: self.bits_per_character, "byte": self.bits_per_byte}

  def in_words(self, step: int, protocol: str) -> str:
    """Returns the lines that `eval.py` prints."""
    lines = [
      f"step                {step:,}",
      f"protocol            {protocol}",
      f"log perplexity      {self.log_perplexity:.4f} nats per {self.unit}",
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
    """Nats per known character, or None if all are unknown.

    By lines, it is the mean over the lines with a known character.
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
    """Returns the numbers as JSON-serialisable data."""
    return {
      "unit": self.unit,
      "log_perplexity": self.log_perplexity,
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


def refuse_diverged(nats: float) -> None:
  """Raises InputError if the loss is not finite: the model has diverged."""
  if not all_finite(nats):
    raise InputError("the model has diverged: give another --checkpoint")


def refuse_short(text: Sized, name: object) -> None:
  """Raises InputError for a text of fewer than two characters."""
  if len(text) < 2:
    raise InputError(
      f"{name} has fewer than two characters, once it is cleaned as the corpus "
      "was, which leaves nothing to predict: give a longer one"
    )
