import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from charlm.evaluation import Evaluator, Score, log_perplexity
from charlm.model import GRULM, build_model


@pytest.fixture(scope="module")
def model() -> GRULM:
  keras.utils.set_random_seed(5)
  return build_model(12, 6, 10, num_layers=2)


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
  score = Evaluator(model).score(_ids(100))
  assert score.num_characters == 99
  assert score.log_perplexity == pytest.approx(math.log(82), abs=1e-6)
  assert score.perplexity == pytest.approx(82, rel=1e-5)
  assert score.bits_per_character == pytest.approx(math.log2(82), abs=1e-6)


@pytest.mark.parametrize("piece_length", [1, 7, 64, 300, 1024])
def test_pieces_equal_the_single_pass(model: GRULM, piece_length: int) -> None:
  ids = _ids(301)
  log_probs = model(ids[np.newaxis, :-1])
  expected = float(log_perplexity(log_probs, ids[np.newaxis, 1:]))
  score = Evaluator(model, piece_length).score(ids)
  assert score.num_characters == 300
  assert score.log_perplexity == pytest.approx(expected, abs=1e-6)


def test_one_compilation_serves_all_lengths(model: GRULM) -> None:
  evaluator = Evaluator(model, 16)
  for length in (2, 16, 17, 18, 100):
    evaluator.score(_ids(length))
  assert evaluator._score_piece.experimental_get_tracing_count() == 1


def test_unknown_characters_are_charged_and_counted(model: GRULM) -> None:
  ids = _ids(40)
  ids[[0, 5, 20]] = 0  # the first is not scored
  score = Evaluator(model, 16).score(ids)
  log_probs = model(ids[np.newaxis, :-1])[0].numpy()
  nats = -log_probs[np.arange(39), ids[1:]]
  assert (score.num_characters, score.num_unknown) == (39, 2)
  assert score.log_perplexity == pytest.approx(nats.mean(), abs=1e-6)
  known = nats[ids[1:] != 0].mean()
  assert score.log_perplexity_known == pytest.approx(known, abs=1e-6)


def test_a_text_of_unknown_characters_has_no_known_score() -> None:
  score = Score(6.0, 3, 6.0, 3)
  assert score.log_perplexity == 2
  assert score.log_perplexity_known is None


def test_a_huge_perplexity_is_still_a_number() -> None:
  assert 1e308 < Score(1e6, 10, 0.0, 0).perplexity < math.inf


@pytest.mark.parametrize("length", [0, 1])
def test_too_short_a_text_is_refused(model: GRULM, length: int) -> None:
  with pytest.raises(ValueError, match="fewer than two"):
    Evaluator(model).score(_ids(length))
