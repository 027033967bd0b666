"""Compares the fused layers with Keras' own, and with numerical gradients."""

import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from charlm.model import scan
from charlm.model.language_model import LAYERS
from charlm.model.layers import RecurrentLayer

_B, _T, _D, _H, _V = 3, 7, 5, 8, 11

both_cells = pytest.mark.parametrize("cell", LAYERS)


def _built(layer: RecurrentLayer, num_inputs: int = _D) -> RecurrentLayer:
  """Gives a layer random weights, including biases."""
  layer.build((None, None, num_inputs))
  rng = np.random.default_rng(1)
  layer.set_weights([rng.normal(0, 0.5, w.shape) for w in layer.weights])
  return layer


def _pair(cell: str, **options: Any) -> tuple[RecurrentLayer, RecurrentLayer]:
  """Returns the fused layer and Keras' with the same weights."""
  fused, keras_kind = LAYERS[cell]
  return _built(fused(_H, **options)), _built(keras_kind(_H))


def _normal(*shape: int, dtype: str = "float32") -> tf.Tensor:
  rng = np.random.default_rng(sum(shape))
  return tf.constant(rng.normal(size=shape), dtype)


def _states(layer: RecurrentLayer, num_rows: int = _B) -> list[tf.Tensor]:
  """Returns random tensors `[B, H]` of a state."""
  shapes = [x.shape for x in tf.nest.flatten(layer.initial_state(num_rows))]
  return [_normal(*shape) + i for i, shape in enumerate(shapes)]


def _ids(num_rows: int = _B, num_steps: int = _T) -> tf.Tensor:
  rng = np.random.default_rng(num_steps)
  return tf.constant(rng.integers(0, _V, [num_rows, num_steps]), tf.int32)


def _results(
  run: Callable[..., Any], layer: RecurrentLayer, *inputs: tf.Tensor
) -> list[tf.Tensor]:
  """Returns outputs, state, and the gradients of all weights and inputs."""
  weights = [w.value for w in layer.trainable_weights]
  with tf.GradientTape() as tape:
    tape.watch(inputs)
    outputs, state = run(*inputs)
    loss = tf.reduce_sum(outputs * tf.sin(tf.cumsum(tf.ones_like(outputs))))
    for each in tf.nest.flatten(state):
      loss += tf.reduce_sum(each**2)
  gradients = tape.gradient(loss, [*weights, *inputs])
  results = [outputs, *tf.nest.flatten(state)]
  return [*results, *map(tf.convert_to_tensor, gradients)]


def _assert_close(
  actual: list[tf.Tensor], expected: list[tf.Tensor], tolerance: float = 1e-5
) -> None:
  """Compares to within `tolerance` of each tensor's largest value."""
  for a, e in zip(actual, expected, strict=True):
    assert a.dtype == e.dtype
    atol = tolerance * np.abs(e).max()
    np.testing.assert_allclose(a, e, rtol=0, atol=atol)


def _packed(layer: RecurrentLayer, states: tuple[tf.Tensor, ...]) -> Any:
  structure = layer.initial_state(1)
  return tf.nest.pack_sequence_as(structure, list(states))


def _by_vectors(
  layer: RecurrentLayer, training: bool = True
) -> Callable[..., Any]:
  return lambda x, *states: layer(
    x, initial_state=_packed(layer, states), training=training
  )


def _by_ids(layer: RecurrentLayer, ids: tf.Tensor) -> Callable[..., Any]:
  """Returns a run over ids, whose embeddings Keras looks up first."""
  return lambda table, *states: layer.call_ids(
    ids, table, _packed(layer, states), True
  )


def _run_of(
  layer: RecurrentLayer, by_ids: bool, num_steps: int = _T
) -> tuple[Callable[..., Any], list[tf.Tensor]]:
  """Returns a run and its inputs: vectors, or embeddings of ids."""
  states = _states(layer)
  if by_ids:
    return _by_ids(layer, _ids(_B, num_steps)), [_normal(_V, _D), *states]
  return _by_vectors(layer), [_normal(_B, num_steps, _D), *states]


@both_cells
@pytest.mark.parametrize("by_ids", [False, True])
def test_equals_keras(cell: str, by_ids: bool) -> None:
  actual, expected = (
    _results(run, layer, *inputs)
    for layer in _pair(cell)
    for run, inputs in [_run_of(layer, by_ids)]
  )
  _assert_close(actual, expected)


@both_cells
def test_one_text_equals_keras(cell: str) -> None:
  fused, reference = _pair(cell)
  inputs = _normal(1, _T, _D), *_states(fused, 1)
  actual, expected = (
    _results(_by_vectors(layer, training=False), layer, *inputs)
    for layer in (fused, reference)
  )
  _assert_close(actual, expected)


@both_cells
@pytest.mark.parametrize("by_ids", [False, True])
def test_chunks_of_time_steps_give_the_same_gradients(
  cell: str, by_ids: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
  fused, _ = _pair(cell)
  run, inputs = _run_of(fused, by_ids)
  # By default, there is a single chunk.
  expected = _results(run, fused, *inputs)
  for name, size in (("_COLUMNS", 1), ("_ENTRIES", _H)):
    with monkeypatch.context() as patch:
      # Chunks of 3 steps, and a remainder.
      patch.setattr(scan, name, 3 * _B * size)
      _assert_close(_results(run, fused, *inputs), expected, 1e-6)


@both_cells
def test_without_a_state_a_layer_starts_from_zeros(cell: str) -> None:
  fused, _ = _pair(cell)
  x = _normal(_B, _T, _D)
  outputs, _ = fused(x)
  from_zeros, _ = fused(x, initial_state=fused.initial_state(_B))
  np.testing.assert_array_equal(outputs, from_zeros)


@both_cells
def test_gradients_equal_finite_differences(cell: str) -> None:
  fused = LAYERS[cell][0](2, dtype="float64")
  fused.build((None, None, 2))
  num_states = len(tf.nest.flatten(fused.initial_state(1)))

  def loss(x: tf.Tensor, *states_and_weights: tf.Tensor) -> tf.Tensor:
    states = _packed(fused, states_and_weights[:num_states])
    weights = states_and_weights[num_states:]
    others = [w.value for w in fused.non_trainable_variables]
    (outputs, last), _ = fused.stateless_call(
      weights, others, x, initial_state=states
    )
    ends = [tf.reduce_sum(each**3) for each in tf.nest.flatten(last)]
    return tf.reduce_sum(outputs**2) + tf.add_n(ends)

  shapes = [
    (2, 3, 2),
    *[(2, 2)] * num_states,
    *(w.shape for w in fused.weights),
  ]
  values = [_normal(*shape, dtype="float64") for shape in shapes]
  numerical, analytic = tf.test.compute_gradient(loss, values, delta=1e-5)
  for n, a in zip(numerical, analytic, strict=True):
    np.testing.assert_allclose(n, a, atol=1e-8)


@both_cells
def test_dynamic_shapes_need_no_retracing(cell: str) -> None:
  fused, reference = _pair(cell)
  num_states = len(_states(fused))
  signature = [
    tf.TensorSpec([None, None, _D]),
    tf.TensorSpec([None, None], tf.int32),
    tf.TensorSpec([None, _D]),
    *[tf.TensorSpec([None, _H])] * num_states,
  ]

  @tf.function(input_signature=signature, jit_compile=True)
  def run(
    x: tf.Tensor, ids: tf.Tensor, table: tf.Tensor, *states: tf.Tensor
  ) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
    return (
      _results(_by_vectors(fused), fused, x, *states),
      _results(_by_ids(fused, ids), fused, table, *states),
    )

  table = _normal(_V, _D)
  for num_rows, num_steps in ((1, 1), (5, 9)):
    x, states = _normal(num_rows, num_steps, _D), _states(fused, num_rows)
    ids = _ids(num_rows, num_steps)
    by_vectors, by_ids = run(x, ids, table, *states)
    expected = _results(_by_vectors(reference), reference, x, *states)
    _assert_close(by_vectors, expected)
    expected = _results(_by_ids(reference, ids), reference, table, *states)
    _assert_close(by_ids, expected)
  assert run.experimental_get_tracing_count() == 1


@both_cells
@pytest.mark.parametrize("fused_saves", [False, True])
def test_checkpoints_are_interchangeable(
  cell: str, fused_saves: bool, tmp_path: pathlib.Path
) -> None:
  fused, reference = _pair(cell)
  plain = reference.keras_layer()
  plain.build((None, None, _D))
  source, target = (fused, plain) if fused_saves else (plain, fused)
  target.set_weights([0 * w for w in source.get_weights()])
  path = tf.train.Checkpoint(layer=source).save(str(tmp_path / "checkpoint"))
  tf.train.Checkpoint(layer=target).restore(path).assert_consumed()
  for a, b in zip(source.get_weights(), target.get_weights(), strict=True):
    np.testing.assert_array_equal(a, b)
  assert [w.path.split("/")[1:] for w in source.weights] == [
    w.path.split("/")[1:] for w in target.weights
  ]


@both_cells
@pytest.mark.parametrize("by_ids", [False, True])
def test_bfloat16_is_close_to_float32(cell: str, by_ids: bool) -> None:
  low, reference = _pair(cell, precision="bfloat16")
  run, inputs = _run_of(low, by_ids)
  in_keras, _ = _run_of(reference, by_ids)
  expected = _results(in_keras, reference, *inputs)
  actual = _results(run, low, *inputs)
  _assert_close(actual, expected, tolerance=3e-2)
  assert np.abs(actual[0] - expected[0]).max() > 0
  assert {w.dtype for w in low.trainable_weights} == {"float32"}
  low.precision = "float16"
  with pytest.raises(KeyError, match="float16"):
    run(*inputs)
