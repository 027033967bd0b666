"""FusedGRU against keras.layers.GRU and against numerical gradients."""

import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from charlm.model import gru_gradient
from charlm.model.gru import FusedGRU

_B, _T, _D, _H, _V = 3, 7, 5, 8, 11


def _reference(num_inputs: int = _D) -> keras.layers.GRU:
  """Returns a Keras GRU whose weights, biases too, are random."""
  layer = keras.layers.GRU(_H, return_sequences=True, return_state=True)
  layer.build((None, None, num_inputs))
  rng = np.random.default_rng(1)
  layer.set_weights(
    [rng.normal(0, 0.5, w.shape).astype(np.float32) for w in layer.weights[:3]]
    + layer.get_weights()[3:]
  )
  return layer


def _fused(reference: keras.layers.GRU, **options: Any) -> FusedGRU:
  """Returns a FusedGRU with the weights of `reference`."""
  layer = FusedGRU(_H, **options)
  layer.build((None, None, reference.cell.kernel.shape[0]))
  layer.set_weights(reference.get_weights())
  return layer


def _normal(*shape: int, dtype: str = "float32") -> tf.Tensor:
  rng = np.random.default_rng(sum(shape))
  return tf.constant(rng.normal(size=shape), dtype)


def _ids(num_rows: int = _B, num_steps: int = _T) -> tf.Tensor:
  rng = np.random.default_rng(num_steps)
  return tf.constant(rng.integers(0, _V, [num_rows, num_steps]), tf.int32)


def _results(
  run: Callable[..., tuple[tf.Tensor, tf.Tensor]],
  layer: keras.layers.GRU,
  *inputs: tf.Tensor,
) -> list[tf.Tensor]:
  """Returns outputs, state, and the gradients of all weights and inputs."""
  weights = [w.value for w in layer.trainable_weights]
  with tf.GradientTape() as tape:
    tape.watch(inputs)
    outputs, state = run(*inputs)
    loss = tf.reduce_sum(outputs * tf.sin(tf.cumsum(tf.ones_like(outputs))))
    loss += tf.reduce_sum(state**2)
  gradients = tape.gradient(loss, [*weights, *inputs])
  return [outputs, state, *map(tf.convert_to_tensor, gradients)]


def _assert_close(
  actual: list[tf.Tensor], expected: list[tf.Tensor], tolerance: float = 1e-5
) -> None:
  """Compares to within `tolerance` of each tensor's largest value."""
  for a, e in zip(actual, expected, strict=True):
    assert a.dtype == e.dtype
    atol = tolerance * np.abs(e).max()
    np.testing.assert_allclose(a, e, rtol=0, atol=atol)


def _by_vectors(layer: keras.layers.GRU) -> Callable[..., Any]:
  return lambda x, state: layer(x, initial_state=state, training=True)


def _by_ids(layer: keras.layers.GRU, ids: tf.Tensor) -> Callable[..., Any]:
  """Returns a run over ids, which Keras must look up first."""
  if isinstance(layer, FusedGRU):
    return lambda table, state: layer.call_ids(ids, table, state, True)
  return lambda table, state: layer(tf.gather(table, ids), initial_state=state)


@pytest.mark.parametrize("by_ids", [False, True])
def test_equals_keras(by_ids: bool) -> None:
  reference = _reference()
  fused = _fused(reference)
  inputs = _normal(*((_V, _D) if by_ids else (_B, _T, _D))), _normal(_B, _H)
  actual, expected = (
    _results(
      _by_ids(layer, _ids()) if by_ids else _by_vectors(layer), layer, *inputs
    )
    for layer in (fused, reference)
  )
  _assert_close(actual, expected)


def test_one_text_equals_keras() -> None:
  reference = _reference()
  inputs = _normal(1, _T, _D), _normal(1, _H)
  actual, expected = (
    _results(functools.partial(layer, training=False), layer, *inputs)
    for layer in (_fused(reference), reference)
  )
  _assert_close(actual, expected)


@pytest.mark.parametrize(
  ("layer_norm", "by_ids"), [(False, True), (True, False)]
)
def test_float32_is_near_float64(layer_norm: bool, by_ids: bool) -> None:
  """Whose gradients are those of finite differences."""
  ids = _ids(num_steps=100)
  single = _normalised() if layer_norm else _fused(_reference())
  double = FusedGRU(_H, layer_norm=layer_norm, dtype="float64")
  double.build((None, None, _D))
  double.set_weights(single.get_weights())
  runs = [
    _by_ids(layer, ids) if by_ids else _by_vectors(layer)
    for layer in (single, double)
  ]
  inputs = _normal(*((_V, _D) if by_ids else (_B, 100, _D))), _normal(_B, _H)
  wide = [tf.cast(x, "float64") for x in inputs]
  expected = _results(runs[1], double, *wide)
  expected = [tf.cast(x, "float32") for x in expected]
  _assert_close(_results(runs[0], single, *inputs), expected)


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("by_ids", [False, True])
def test_gradients_are_the_same_in_chunks(
  layer_norm: bool, by_ids: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
  fused = _normalised() if layer_norm else _fused(_reference())
  run = _by_ids(fused, _ids()) if by_ids else _by_vectors(fused)
  shape = (_V, _D) if by_ids else (_B, _T, _D)
  inputs = _normal(*shape), _normal(_B, _H)
  # By default they are one chunk.
  expected = _results(run, fused, *inputs)
  for name, size in (("_COLUMNS", 1), ("_ENTRIES", _H)):
    with monkeypatch.context() as patch:
      # Chunks of 3 steps, and a rest.
      patch.setattr(gru_gradient, name, 3 * _B * size)
      _assert_close(_results(run, fused, *inputs), expected, 1e-6)


def test_no_state_is_the_zero_state() -> None:
  fused = _fused(_reference())
  x = _normal(_B, _T, _D)
  _assert_close(fused(x), fused(x, initial_state=[tf.zeros([_B, _H])]), 0)


@pytest.mark.parametrize("layer_norm", [False, True])
def test_gradient_equals_the_numerical_one(layer_norm: bool) -> None:
  fused = FusedGRU(2, layer_norm=layer_norm, dtype="float64")
  fused.build((None, None, 2))

  def loss(x: tf.Tensor, state: tf.Tensor, *weights: tf.Tensor) -> tf.Tensor:
    others = [w.value for w in fused.non_trainable_variables]
    (outputs, last), _ = fused.stateless_call(
      weights, others, x, initial_state=state
    )
    return tf.reduce_sum(outputs**2) + tf.reduce_sum(last**3)

  shapes = [(2, 3, 2), (2, 2), *(w.shape for w in fused.weights)]
  assert len(shapes) == 5 + layer_norm
  values = [_normal(*shape, dtype="float64") for shape in shapes]
  numerical, analytic = tf.test.compute_gradient(loss, values, delta=1e-5)
  for n, a in zip(numerical, analytic, strict=True):
    np.testing.assert_allclose(n, a, atol=1e-8)


def _normalised() -> FusedGRU:
  """Returns a layer with layer normalisation and random weights."""
  layer = FusedGRU(_H, layer_norm=True)
  layer.build((None, None, _D))
  rng = np.random.default_rng(2)
  layer.set_weights([rng.normal(size=w.shape) for w in layer.weights])
  return layer


def test_layer_normalisation_equals_numpy() -> None:
  layer = _normalised()
  x, state = _normal(_B, _T, _D), _normal(_B, _H)
  kernel, recurrent_kernel, bias, gain = (
    np.float64(w) for w in (*layer.cell.trainable_variables, layer.gain)
  )
  h, outputs = np.float64(state), []
  for t in range(_T):
    inputs = np.split(x[:, t] @ kernel + bias[0], 3, axis=1)
    gates = np.split(h @ recurrent_kernel, 3, axis=1)
    gates = [
      (g - g.mean(1, keepdims=True)) / np.sqrt(g.var(1, keepdims=True) + 1e-3)
      for g in gates
    ]
    gates = np.split(np.concatenate(gates, 1) * gain + bias[1], 3, axis=1)
    z, r = (
      1 / (1 + np.exp(-i - g)) for i, g in zip(inputs, gates[:2], strict=False)
    )
    n = np.tanh(inputs[2] + r * gates[2])
    h = z * h + (1 - z) * n
    outputs.append(h)
  actual, last = layer(x, initial_state=state)
  np.testing.assert_allclose(actual, np.stack(outputs, 1), atol=2e-6)
  np.testing.assert_array_equal(last, actual[:, -1])


@pytest.mark.parametrize("with_xla", [False, True])
def test_dynamic_shapes_need_no_retracing(with_xla: bool) -> None:
  reference = _reference()
  fused = _fused(reference)
  signature = [
    tf.TensorSpec([None, None, _D]),
    tf.TensorSpec([None, _H]),
    tf.TensorSpec([None, None], tf.int32),
    tf.TensorSpec([None, _D]),
  ]

  @tf.function(input_signature=signature, jit_compile=with_xla)
  def run(
    x: tf.Tensor, state: tf.Tensor, ids: tf.Tensor, table: tf.Tensor
  ) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
    return (
      _results(_by_vectors(fused), fused, x, state),
      _results(_by_ids(fused, ids), fused, table, state),
    )

  table = _normal(_V, _D)
  for num_rows, num_steps in ((1, 1), (5, 9)):
    x, state = _normal(num_rows, num_steps, _D), _normal(num_rows, _H)
    ids = _ids(num_rows, num_steps)
    by_vectors, by_ids = run(x, state, ids, table)
    expected = _results(_by_vectors(reference), reference, x, state)
    _assert_close(by_vectors, expected)
    expected = _results(_by_ids(reference, ids), reference, table, state)
    _assert_close(by_ids, expected)
  assert run.experimental_get_tracing_count() == 1


@pytest.mark.parametrize("fused_saves", [False, True])
def test_checkpoints_are_interchangeable(
  fused_saves: bool, tmp_path: Any
) -> None:
  source: keras.layers.GRU = _reference()
  target: keras.layers.GRU = FusedGRU(_H)
  if fused_saves:
    source = _fused(source)
    target = keras.layers.GRU(_H, return_sequences=True, return_state=True)
  target.build((None, None, _D))
  prefix = str(tmp_path / "checkpoint")
  path = tf.train.Checkpoint(gru=source).save(prefix)
  tf.train.Checkpoint(gru=target).restore(path).assert_consumed()
  for a, b in zip(source.get_weights(), target.get_weights(), strict=True):
    np.testing.assert_array_equal(a, b)
  assert [w.path.split("/")[1:] for w in source.weights] == [
    w.path.split("/")[1:] for w in target.weights
  ]


def test_bfloat16_is_close() -> None:
  reference = _reference()
  low = _fused(reference, precision="bfloat16")
  inputs = _normal(_B, _T, _D), _normal(_B, _H)
  expected = _results(_by_vectors(reference), reference, *inputs)
  actual = _results(_by_vectors(low), low, *inputs)
  _assert_close(actual, expected, tolerance=2e-2)
  assert np.abs(actual[0] - expected[0]).max() > 0
  inputs = _normal(_V, _D), _normal(_B, _H)
  _assert_close(
    _results(_by_ids(low, _ids()), low, *inputs),
    _results(_by_ids(reference, _ids()), reference, *inputs),
    tolerance=2e-2,
  )
  assert {w.dtype for w in low.trainable_weights} == {"float32"}
