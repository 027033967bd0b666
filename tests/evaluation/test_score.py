"""The numbers that are computed from the nats of a text."""

import dataclasses
import math

import numpy as np
import pytest
import tensorflow as tf
from helpers import score_of

from charlm.data.corpus import encode_text
from charlm.evaluation.score import Score, log_perplexity


def test_log_perplexity_averages_the_means_of_rows() -> None:
  rng = np.random.default_rng(2)
  logits = rng.normal(size=[3, 5, 7])
  log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  target = rng.integers(2, 7, size=[3, 5])
  lengths = [5, 3, 1]
  rows = []
  for row, length in enumerate(lengths):
    target[row, length:] = 1
    picked = [log_probs[row, t, target[row, t]] for t in range(length)]
    rows.append(-sum(picked) / length)
  expected = sum(rows) / 3
  # An average over characters would differ.
  assert abs(expected - np.average(rows, weights=lengths)) > 1e-3
  assert float(log_perplexity(log_probs, target)) == pytest.approx(expected)
  actual = log_perplexity(tf.constant(log_probs, tf.float32), target)
  assert float(actual) == pytest.approx(expected, abs=1e-6)


def test_padding_is_ignored_whatever_its_probability() -> None:
  log_probs = np.log(np.full([3, 4, 5], 0.2, np.float32))
  log_probs[:, :, 1] = -np.inf
  target = np.array([[2, 3, 1, 1], [1, 1, 1, 1], [4, 1, 1, 1]])
  expected = pytest.approx(np.log(5), abs=1e-6)
  assert float(log_perplexity(log_probs, target)) == expected


def test_a_score_averages_characters_or_lines() -> None:
  nats = np.array([1, 3, 5, 9, 4], np.float32)
  unknown = np.array([0, 1, 0, 0, 1], bool)
  score = score_of(nats, unknown)
  assert score.log_perplexity == pytest.approx(22 / 5)
  assert score.log_perplexity_known == pytest.approx((1 + 5 + 9) / 3)
  by_line = score_of(nats, unknown, np.array([2, 2, 1]))
  assert by_line.log_perplexity == pytest.approx((2 + 7 + 4) / 3)
  assert by_line.log_perplexity_known == pytest.approx((1 + 7) / 2)
  for each in (score, by_line):
    assert (each.num_characters, each.num_unknown) == (5, 2)


def test_a_text_of_unknown_characters_has_no_known_score() -> None:
  for lengths in (None, np.array([2, 1])):
    score = score_of(np.full(3, 2.0), np.full(3, True), lengths)
    assert score.log_perplexity == 2
    assert score.log_perplexity_known is None


@pytest.mark.parametrize(
  ("text", "by_lines", "num_bytes"),
  [
    ("äb€", False, 4),
    ("äb€", True, 7),
    ("äb\n", True, 4),
    ("a\n\n", True, 3),
    ("", True, 1),
  ],
)
def test_bytes_are_those_of_the_scored_characters(
  text: str, by_lines: bool, num_bytes: int
) -> None:
  encoded = encode_text([text]).text
  lengths = np.ones(1, int) if by_lines else None
  score = Score.of(
    encoded, nats=np.ones(1), ids=np.full(1, 2), line_lengths=lengths
  )
  assert score.num_bytes == num_bytes


def test_a_perplexity_is_finite_however_large_the_loss() -> None:
  assert math.isfinite(score_of(np.full(2, 1e4)).perplexity)


def test_bits_per_byte() -> None:
  nats = np.log(np.array([2, 4, 8, 4]))
  score = dataclasses.replace(score_of(nats), num_bytes=16)
  assert score.bits_per_character == pytest.approx(2)
  assert score.bits_per_byte == pytest.approx(0.5)
  bits = {"character": pytest.approx(2), "byte": pytest.approx(0.5)}
  assert score.bits == bits
  assert score.to_dict()["unit"] == "character"
  score = dataclasses.replace(score_of(nats), unit="byte")
  assert score.bits_per_byte == score.bits_per_character
  assert score.bits == {"byte": pytest.approx(2)}
  # By lines, the log perplexity is the mean of lines; the bits are of the text.
  score = score_of(nats, lengths=np.array([1, 3]))
  score = dataclasses.replace(score, num_bytes=16)
  assert score.bits_per_character == pytest.approx((1 + 7 / 3) / 2)
  assert score.bits_per_byte == pytest.approx(0.5)


def test_the_mean_of_a_million_losses_keeps_its_precision() -> None:
  nats = np.full(2**20 + 1, 0.1, np.float32)
  nats[0] = 1e6
  expected = math.fsum(nats.tolist()) / len(nats)
  assert score_of(nats).log_perplexity == pytest.approx(expected, rel=1e-12)
