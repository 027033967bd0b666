"""The output layer in chunks, and large vocabularies."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import bound_logits, build_model

from charlm.evaluation.evaluator import Evaluator
from charlm.model.language_model import GRULM


def _gradients(
  model: GRULM, ids: np.ndarray, carried: tf.Tensor, weights: np.ndarray
) -> list[tf.Tensor]:
  """Returns nats and state of ids `[B, T + 1]`, and all gradients."""
  variables = [v.value for v in model.trainable_variables]
  states = (carried,) * len(model.recurrent_layers)
  with tf.GradientTape() as tape:
    tape.watch(carried)
    nats, states = model.nats(
      ids[:, :-1],
      ids[:, 1:],
      states,
      training=True,
      dropout_masks=model.dropout_masks(ids[:, :-1], tf.constant([1, 2])),
    )
    loss = tf.reduce_sum(nats * weights)
  gradients = tape.gradient(loss, [*variables, carried])
  return [nats, states[-1], *map(tf.convert_to_tensor, gradients)]


@pytest.mark.parametrize(
  ("gru", "vocab_size", "rows", "characters", "max_logits"),
  [
    ("fused", 7, 3, 5, 60),  # chunks of 8 and 7 characters
    ("fused", 6, 1, 4, 10),  # chunks of 1: two have too many logits
    ("keras", 401, 2, 5, 401 * 4),  # chunks of 4, 4 and 2
  ],
)
def test_chunked_nats_and_gradients_equal_those_of_one_chunk(
  gru: str,
  vocab_size: int,
  rows: int,
  characters: int,
  max_logits: int,
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  keras.utils.set_random_seed(1)
  model = build_model(vocab_size, 4, 6, 2, dropout_rate=0.2, gru=gru)
  rng = np.random.default_rng(0)
  ids = rng.integers(0, vocab_size, [rows, characters + 1])
  # Targets have different weights, some of them zero.
  weights = rng.integers(0, 3, [rows, characters]).astype(np.float32)
  carried = tf.constant(rng.normal(size=[rows, 6]), tf.float32)
  expected = _gradients(model, ids, carried, weights)
  held = bound_logits(monkeypatch, max_logits)
  for run in (_gradients, tf.function(_gradients)):
    actual = run(model, ids, carried, weights)
    for a, e in zip(actual, expected, strict=True):
      np.testing.assert_allclose(a, e, rtol=0, atol=2e-6)
  assert 0 < max(held) <= max(max_logits, vocab_size)


def test_an_evaluator_bounds_the_logits(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  keras.utils.set_random_seed(1)
  model = build_model(401, 4, 6)
  ids = np.random.default_rng(0).integers(2, 401, 300)
  expected = Evaluator(model, 64).windows(ids, 100, 50)
  held = bound_logits(monkeypatch, 2**20)
  actual = Evaluator(model, 64).windows(ids, 100, 50)
  np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5)
  assert 2**19 < max(held) <= 2**20  # of 64 * 64 * 401


@pytest.mark.parametrize("vocab_size", [400, 401, 5000])
def test_a_large_vocabulary_equals_keras_layer(vocab_size: int) -> None:
  # Above 400 characters, each position is projected, without a table.
  keras.utils.set_random_seed(1)
  ids = np.random.default_rng(0).integers(0, vocab_size, [3, 6])
  ids[1] = ids[0]  # gradients of a repeated id are summed
  results = []
  for gru in ("fused", "keras"):
    model = build_model(vocab_size, 4, 6, gru=gru)
    model.set_weights(results[0] if results else model.get_weights())
    results.append(model.get_weights())
    carried, weights = tf.zeros([3, 6]), np.ones([3, 5], np.float32)
    results.append(_gradients(model, ids, carried, weights))
  for mine, other in zip(results[1], results[3], strict=True):
    np.testing.assert_allclose(mine, other, rtol=0, atol=2e-6)
