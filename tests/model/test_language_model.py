import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import build_model

import charlm
from charlm.model.dropout import drop


@pytest.fixture(params=["fused", "keras"])
def model(request: pytest.FixtureRequest) -> charlm.GRULM:
  keras.utils.set_random_seed(1)
  return build_model(12, 6, 10, num_layers=2, gru=request.param)


def _ids(rows: int, length: int, seed: int = 0) -> tf.Tensor:
  rng = np.random.default_rng(seed)
  return tf.constant(rng.integers(12, size=[rows, length]), tf.int32)


def test_defaults_are_those_of_the_reference() -> None:
  model = charlm.GRULM()
  assert model(tf.constant([[1, 2]])).shape == (1, 2, 256)
  assert model.gru.units == 128
  assert model.embedding.output_dim == 256
  learning_rate = charlm.compile_model(model).optimizer.learning_rate
  assert learning_rate.numpy() == np.float32(0.00125)


def test_predictions_depend_only_on_the_past(model: charlm.GRULM) -> None:
  ids = _ids(2, 9).numpy()
  changed = ids.copy()
  changed[:, 5] = (changed[:, 5] + 1) % 12
  before, after = model(ids).numpy(), model(changed).numpy()
  np.testing.assert_array_equal(before[:, :5], after[:, :5])
  assert np.abs(before[:, 5:] - after[:, 5:]).max() > 1e-3


def test_bfloat16_applies_only_in_training() -> None:
  model = build_model(12, 6, 10, precision="bfloat16")
  other = build_model(12, 6, 10)
  other.set_weights(model.get_weights())
  log_probs = model(_ids(2, 5), training=True)
  assert log_probs.dtype == tf.float32
  assert np.abs(log_probs - other(_ids(2, 5), training=True)).max() > 1e-6
  np.testing.assert_allclose(log_probs, other(_ids(2, 5)), atol=1e-2)
  # Outside of training, it computes in float32.
  np.testing.assert_array_equal(model(_ids(2, 5)), other(_ids(2, 5)))


def test_dropout_applies_only_in_training_and_repeats_with_its_seed() -> None:
  model = build_model(12, 6, 10, num_layers=2, dropout_rate=0.5)
  ids = _ids(3, 5)

  def train(seed: list[int] | None) -> np.ndarray:
    masks = None
    if seed:
      masks = model.dropout_masks(ids, tf.constant(seed))
    return model(ids, training=True, dropout_masks=masks).numpy()

  np.testing.assert_array_equal(model(ids), model(ids))
  np.testing.assert_array_equal(train([0, 1]), train([0, 1]))
  assert (train([0, 1]) != model(ids).numpy()).any()
  assert (train([0, 1]) != train([0, 2])).any()
  assert (train([0, 1]) != train([1, 1])).any()
  assert (train(None) != train(None)).any()


def test_dropout_zeroes_its_share_and_scales_up_the_rest() -> None:
  model = build_model(12, 20, 20, dropout_rate=0.3)
  masks = model.dropout_masks(_ids(40, 50), tf.constant([1, 2]))
  x = drop(tf.ones([40, 50, 20]), masks[0], rate=0.3).numpy()
  np.testing.assert_allclose(x[x != 0], 1 / 0.7, rtol=1e-6)
  # 40,000 draws: four standard deviations are 0.0092.
  assert abs((x == 0).mean() - 0.3) < 0.01
  assert (masks[0] != masks[1]).numpy().any()
