import math
from collections.abc import Callable

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import build_model, in_a_graph, score_of

from charlm.errors import InputError
from charlm.evaluation.evaluator import Evaluator
from charlm.evaluation.score import confidence_interval, log_perplexity
from charlm.model.language_model import GRULM


@pytest.fixture(scope="module")
def model() -> GRULM:
  keras.utils.set_random_seed(5)
  return build_model(12, 6, 10, num_layers=2)


Predict = Callable[[np.ndarray], tf.Tensor]


@pytest.fixture(scope="module")
def predict(model: GRULM) -> Predict:
  """The model as a function of ids `[B, T]`."""
  return in_a_graph(model)


def _ids(length: int) -> np.ndarray:
  return np.random.default_rng(1).integers(2, 12, length, np.uint8)


def test_log_perplexity_is_the_mean_of_the_rows_means() -> None:
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
  # It matters here that rows, not characters, are averaged.
  assert abs(expected - np.average(rows, weights=lengths)) > 1e-3
  assert float(log_perplexity(log_probs, target)) == pytest.approx(expected)
  actual = log_perplexity(tf.constant(log_probs, tf.float32), target)
  assert float(actual) == pytest.approx(expected, abs=1e-6)


def test_padding_may_hold_anything() -> None:
  log_probs = np.log(np.full([3, 4, 5], 0.2, np.float32))
  log_probs[:, :, 1] = -np.inf
  target = np.array([[2, 3, 1, 1], [1, 1, 1, 1], [4, 1, 1, 1]])
  expected = pytest.approx(np.log(5), abs=1e-6)
  assert float(log_perplexity(log_probs, target)) == expected


def test_a_uniform_model_scores_ln_v() -> None:
  log_probs = tf.fill([2, 6, 82], -math.log(82))
  target = np.full([2, 6], 5)
  target[1, 2:] = 1
  assert float(log_perplexity(log_probs, target)) == np.float32(math.log(82))


def test_evaluator_on_a_uniform_model() -> None:
  model = build_model(82, 4, 6)
  model.dense.set_weights([np.zeros([6, 82]), np.zeros([82])])
  score = Evaluator(model).stream(_ids(100))
  assert score.num_characters == 99
  assert score.log_perplexity == pytest.approx(math.log(82), abs=1e-6)
  assert score.perplexity == pytest.approx(82, rel=1e-5)
  assert score.bits_per_character == pytest.approx(math.log2(82), abs=1e-6)


@pytest.mark.parametrize("piece_length", [1, 7, 64, 300, 1024])
def test_pieces_equal_the_single_pass(
  model: GRULM, predict: Predict, piece_length: int
) -> None:
  ids = _ids(301)
  log_probs = predict(ids[np.newaxis, :-1])
  expected = float(log_perplexity(log_probs, ids[np.newaxis, 1:]))
  score = Evaluator(model, piece_length).stream(ids)
  assert score.num_characters == 300
  assert score.log_perplexity == pytest.approx(expected, abs=1e-6)


def test_one_compilation_serves_all_lengths(model: GRULM) -> None:
  evaluator = Evaluator(model, 16)
  for length in (2, 16, 17, 18, 100):
    evaluator.stream(_ids(length))
  assert evaluator._compiled_nats.experimental_get_tracing_count() == 1


def test_unknown_characters_are_charged_and_counted(
  model: GRULM, predict: Predict
) -> None:
  ids = _ids(40)
  ids[[0, 5, 20]] = 0  # the first is not scored
  score = Evaluator(model, 16).stream(ids)
  nats = _nats(predict, ids)
  assert (score.num_characters, score.num_unknown) == (39, 2)
  assert score.log_perplexity == pytest.approx(nats.mean(), abs=1e-6)
  known = nats[ids[1:] != 0].mean()
  assert score.log_perplexity_known == pytest.approx(known, abs=1e-6)


def test_all_protocols_count_the_same_unknown_characters(model: GRULM) -> None:
  ids = _ids(40)
  ids[[0, 5, 20]] = 0
  evaluator = Evaluator(model, 64)
  for score in (evaluator.stream(ids), evaluator.windows(ids, 16, 8)):
    assert score.num_unknown == 2
    np.testing.assert_array_equal(score.known[1], ids[1:] != 0)
  # Here the first is scored too, and the last line's end.
  lines = evaluator.lines(ids, newline=2)
  assert (lines.num_characters, lines.num_unknown) == (41, 3)


def test_known_characters_are_averaged_by_line() -> None:
  nats, unknown = np.array([1, 3, 5, 9, 4]), np.array([0, 1, 0, 0, 1], bool)
  score = score_of(nats, unknown, np.array([2, 2, 1]))
  assert score.log_perplexity == pytest.approx((2 + 7 + 4) / 3)
  assert score.log_perplexity_known == pytest.approx((1 + 7) / 2)


def test_a_text_of_unknown_characters_has_no_known_score() -> None:
  score = score_of(np.full(3, 2.0), np.full(3, True))
  assert score.log_perplexity == 2
  assert score.log_perplexity_known is None


def test_a_huge_perplexity_is_still_a_number() -> None:
  assert 1e308 < score_of(np.full(9, 1e5)).perplexity < math.inf


@pytest.fixture(scope="module")
def evaluator(model: GRULM) -> Evaluator:
  """One for all tests that ask for no other, which compiles each size once."""
  return Evaluator(model, keep_nats=True)


@pytest.mark.parametrize("length", [0, 1, 2, 3])
def test_too_short_a_text_is_refused(evaluator: Evaluator, length: int) -> None:
  ids = _ids(length)
  for score, least in (
    (evaluator.stream, 2),
    (lambda ids: evaluator.windows(ids, 1, 1), 2),
    (lambda ids: evaluator.lines(ids, 2), 1),
  ):
    if length < least:
      with pytest.raises(InputError, match=r"fewer than two .*: give a longer"):
        score(ids)
    else:
      assert np.isfinite(score(ids).log_perplexity)


def test_an_evaluation_can_be_given_up(model: GRULM) -> None:
  evaluator = Evaluator(model, 16, [None, None].pop)
  evaluator.stream(_ids(2 * 16 + 1))
  with pytest.raises(IndexError):
    evaluator.stream(_ids(2))


def _nats(predict: Predict, ids: np.ndarray) -> np.ndarray:
  """Scores a text in one call of the model, from the zero state."""
  log_probs = predict(ids[np.newaxis, :-1])[0].numpy()
  return -log_probs[np.arange(len(ids) - 1), ids[1:]]


@pytest.mark.parametrize(
  ("length", "window", "stride"),
  [(301, 64, 64), (301, 50, 7), (40, 64, 32), (130, 64, 64), (20, 1, 1)],
)
def test_windows_start_from_zero_and_score_each_character_once(
  predict: Predict, evaluator: Evaluator, length: int, window: int, stride: int
) -> None:
  ids = _ids(length)
  expected = np.full(length - 1, np.nan)
  for start in range(0, length - 1, stride):
    nats = _nats(predict, ids[start : start + window + 1])
    for i, x in enumerate(nats, start):
      if np.isnan(expected[i]):
        expected[i] = x
  score = evaluator.windows(ids, window, stride)
  np.testing.assert_allclose(score.nats, expected, atol=1e-5)


def test_lines_are_scored_alone(
  model: GRULM, predict: Predict, evaluator: Evaluator
) -> None:
  # Newline is 2; a line may be empty, long, or the last one without an end.
  newline = 2
  rng = np.random.default_rng(4)
  lines = [rng.integers(3, 12, n) for n in (5, 0, 300, 64, 1)]
  text = np.concatenate([np.append(line, newline) for line in lines])
  ids = text[:-1].astype(np.uint8)
  by_line = [
    _nats(predict, np.concatenate([[newline], line, [newline]]))
    for line in lines
  ]
  score = Evaluator(model, 128, keep_nats=True).lines(ids, newline)
  np.testing.assert_allclose(score.nats, np.concatenate(by_line), atol=1e-5)
  expected = np.mean([nats.mean() for nats in by_line])
  assert score.log_perplexity == pytest.approx(expected, abs=1e-6)
  whole = evaluator.lines(text.astype(np.uint8), newline)
  assert whole.num_characters == score.num_characters
  # The same by the reference's function.
  padded = np.full([len(lines), 301], 1)
  inputs = np.full([len(lines), 301], newline)
  for row, start, line in zip(padded, inputs, lines, strict=True):
    row[: len(line) + 1] = np.append(line, newline)
    start[1 : len(line) + 1] = line
  reference = float(log_perplexity(predict(inputs), padded))
  assert score.log_perplexity == pytest.approx(reference, abs=1e-5)


def test_intervals_cover_the_truth() -> None:
  """Values that hang together over some 30 neighbours, as passages do."""
  rng, covered, num_trials = np.random.default_rng(6), 0, 300
  for _ in range(num_trials):
    noise = rng.standard_normal(4000)
    values = np.empty(4000)
    state = rng.standard_normal() / (1 - 0.9**2) ** 0.5
    for i, x in enumerate(noise):
      state = 0.9 * state + x
      values[i] = state
    low, high = confidence_interval(values + 1.25, num_resamples=400)
    covered += low <= 1.25 <= high
  assert covered >= 0.9 * num_trials


@pytest.mark.parametrize(
  ("values", "low", "high"),
  [
    # Blocks of one: a quarter of the resamples are [0, 0], a quarter [1, 1].
    ([0, 1], 0.5 - 2**0.5 * 0.5, 0.5 + 2**0.5 * 0.5),
    # Two blocks of two, whose sums are 6, 1, 4 and, around the ring, 9.
    ([6, 0, 1, 3], 2.5 - 2**0.5 * 2, 2.5 + 2**0.5 * 2),
    # Three blocks of two, whose sums are 0, 0, 0, 5 and 5.
    ([0, 0, 0, 0, 5], 1 - 1.5**0.5, 1 + 1.5**0.5 * 1.5),
    # The same, with 0, 0, 1, 2, 2 and 1: the outermost means' share is 1 / 27.
    ([0, 0, 0, 1, 1, 1], 0.5 - 1.5**0.5 * 0.5, 0.5 + 1.5**0.5 * 0.5),
  ],
)
def test_intervals_whose_resamples_can_be_listed(
  values: list[float], low: float, high: float
) -> None:
  # The outermost means have a share of more than 0.025 of all resamples.
  found = confidence_interval(np.array(values, np.float64))
  assert found == pytest.approx((low, high))


def test_an_interval_needs_two_values() -> None:
  assert confidence_interval(np.ones(1)) == (-math.inf, math.inf)
  assert score_of(np.ones(1)).to_dict()["interval"] is None
  low, high = confidence_interval(np.array([0.0, 1.0]))
  assert low < 0.5 < high


@pytest.mark.parametrize("stride", [-1, 0, 9])
def test_strides_out_of_range_are_refused(model: GRULM, stride: int) -> None:
  with pytest.raises(ValueError, match=f"stride is {stride}: give 1 to 8"):
    Evaluator(model).windows(_ids(40), 8, stride)
