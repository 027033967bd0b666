import math
from collections.abc import Callable

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import build_model

from charlm.data.corpus import encode_text
from charlm.errors import InputError
from charlm.evaluation.dynamic import (
  _LEARNING_RATES,
  DynamicEvaluator,
  score_dynamic,
)
from charlm.evaluation.evaluator import Evaluator
from charlm.model.language_model import GRULM, State


@pytest.fixture(scope="module")
def model() -> GRULM:
  keras.utils.set_random_seed(5)
  return build_model(12, 6, 10)


def _repetitive(length: int, period: int = 7) -> np.ndarray:
  pattern = np.random.default_rng(1).integers(2, 12, period, np.uint8)
  return np.resize(pattern, length)


def _scorer(model: GRULM) -> Callable[[np.ndarray, State], tuple]:
  """Returns a function for the nats, states and gradients of a chunk's ids."""
  weights = [v.value for v in model.trainable_variables]

  @tf.function(reduce_retracing=True, autograph=False)
  def score(
    ids: tf.Tensor, states: State
  ) -> tuple[tf.Tensor, State, list[tf.Tensor]]:
    with tf.GradientTape() as tape:
      log_probs, states = model(ids[:, :-1], states, return_state=True)
      nats = -tf.gather(log_probs, ids[:, 1:], batch_dims=2)
    gradients = tape.gradient(nats, weights)
    return nats[0], states, [tf.convert_to_tensor(g) for g in gradients]

  return lambda ids, states: score(
    tf.constant(ids[np.newaxis], tf.int32), states
  )


@pytest.mark.usefixtures("quick_evaluations")
def test_a_repetitive_text_is_learned(model: GRULM) -> None:
  ids = _repetitive(2000)
  before = model.get_weights()
  dynamic = DynamicEvaluator(model, _repetitive(1000, period=9))
  nats = dynamic.stream(ids)
  static = Evaluator(model).stream(ids)
  assert len(nats) == len(static)
  assert nats.mean() < static.mean() - 0.05
  # The first chunk is scored before the model has learned from the text.
  np.testing.assert_allclose(nats[:32], static[:32], atol=1e-5)
  assert (nats[32:] != static[32:]).any()
  for old, new in zip(before, model.get_weights(), strict=True):
    np.testing.assert_array_equal(old, new)
  again = dynamic.stream(ids)
  np.testing.assert_array_equal(nats, again)
  assert np.isfinite(dynamic.stream(ids[:2])).all()


@pytest.mark.parametrize("best", [_LEARNING_RATES[i] for i in (0, 1, -1)])
def test_the_best_learning_rate_is_found(model: GRULM, best: float) -> None:
  class Slope(DynamicEvaluator):
    """Has a loss that grows with the distance from the best rate."""

    def _pass(self, ids: np.ndarray, learning_rate: float) -> np.ndarray:
      distance = abs(math.log(learning_rate / best)) if learning_rate else 0
      return np.array([1.0, distance])

  assert Slope(model, _repetitive(40)).learning_rate == best


@pytest.mark.parametrize("number", [1, len(_LEARNING_RATES) - 1])
def test_a_learning_rate_that_diverges_is_not_chosen(
  model: GRULM, number: int
) -> None:
  class Diverging(DynamicEvaluator):
    """Improves with larger rates, but diverges from one of them on."""

    def _pass(self, ids: np.ndarray, learning_rate: float) -> np.ndarray:
      diverges = learning_rate >= _LEARNING_RATES[number]
      return np.array([np.nan if diverges else -learning_rate])

  chosen = Diverging(model, _repetitive(40)).learning_rate
  assert chosen == _LEARNING_RATES[number - 1]


def test_tuning_reads_only_the_end_of_the_valid_text(model: GRULM) -> None:
  passed = []

  class Idle(DynamicEvaluator):
    """Records the texts that it would score."""

    def _pass(self, ids: np.ndarray, learning_rate: float) -> np.ndarray:
      passed.append(ids)
      return np.zeros(len(ids) - 1)

  valid = np.arange(6000)
  dynamic = Idle(model, valid)
  assert passed
  for ids in passed:
    np.testing.assert_array_equal(ids, valid[1000:])
  assert len(dynamic.stream(np.array([0, 5, 0, 7]))) == 3


def test_a_model_that_diverges_is_refused(
  model: GRULM, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.setattr(
    DynamicEvaluator,
    "_pass",
    lambda self, ids, learning_rate: np.full(len(ids), np.nan),
  )
  vocab, text = ["[UNK]", "", *"abcdefghij"], encode_text(["abc" * 120]).text
  with pytest.raises(InputError, match="leave out --dynamic"):
    score_dynamic(model, vocab, text, text)


@pytest.mark.parametrize(
  ("vocab_size", "embedding_dim", "num_layers", "period", "xla"),
  # In the second, a single weight of the embedding is used, so its scale is
  # 2,000 times the mean: it moves all the way back.
  [(12, 6, 2, 7, False), (2000, 1, 1, 1, True)],
)
def test_updates_follow_the_rms_rule(
  vocab_size: int,
  embedding_dim: int,
  num_layers: int,
  period: int,
  xla: bool,
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  name = "charlm.evaluation.dynamic.xla_compiles_scores"
  monkeypatch.setattr(name, lambda _: xla)
  keras.utils.set_random_seed(5)
  model = build_model(vocab_size, embedding_dim, 10, num_layers=num_layers)
  # Enough chunks to see the decay towards the trained weights. The last ones
  # are short: their padding must not change the weights.
  ids = _repetitive(32 * 5 + 6, period)
  valid = _repetitive(50, min(period, 5))
  dynamic = DynamicEvaluator(model, valid)
  dynamic.learning_rate = 5e-3
  weights = [v.value for v in model.trainable_variables]
  score, states = _scorer(model), model.initial_states(1)
  _, after, first = score(valid[:33], states)
  _, _, second = score(valid[32:], after)
  scales = [
    tf.sqrt((a**2 + b**2) / 2) for a, b in zip(first, second, strict=True)
  ]
  before, expected = model.get_weights(), []
  for start in range(0, len(ids) - 1, 32):
    nats, states, gradients = score(ids[start : start + 33], states)
    expected.append(nats)
    for weight, trained, scale, gradient in zip(
      weights, before, scales, gradients, strict=True
    ):
      mean = tf.reduce_mean(scale)
      step = dynamic.learning_rate * gradient / (scale + mean)
      back = tf.minimum(0.001 * scale / mean, 1)
      weight.assign_add(back * (trained - weight) - step)
  model.set_weights(before)
  nats = dynamic.stream(ids)
  np.testing.assert_allclose(nats, np.concatenate(expected), atol=1e-5)
