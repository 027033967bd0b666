"""A GRU layer that trains several times faster on CPUs than Keras's.

Shapes: B rows of a batch, T time steps, D input features, H units, V vocabulary
size. Inside, tensors are feature-major, `[T, features, B]`: the weights are the
left factor of every matrix product, which need not be repacked at every time
step, and the gates are split and joined without strides. The three gates are
the update gate z, the reset gate r, and the candidate n.
"""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

_EPSILON = 1e-3  # as Keras has it; a zero state has no variance


class FusedGRU(keras.layers.GRU):
  """A `keras.layers.GRU` with the same weights and a faster loop over time.

  Without layer normalisation it computes what keras.layers.GRU(units,
  return_sequences=True, return_state=True) does, and their weights and
  checkpoints are interchangeable (but a .weights.h5 file of a functional model
  names its layers by class). Its gradients cannot be differentiated again.

  With layer normalisation (Ba et al. 2016), what the previous state adds to a
  gate has mean 0 and variance 1 over the gate's units, times a gain of each
  unit's own.
  """

  def __init__(
    self,
    units: int,
    precision: str = "float32",
    layer_norm: bool = False,
    *,
    name: str | None = None,
    dtype: Any = None,
    trainable: bool = True,
  ) -> None:
    """Makes the layer; other arguments of Keras' layer are refused.

    Args:
      units: H.
      precision: "bfloat16" rounds the factors and the result of each matrix
        product to bfloat16, in training alone; "float32" rounds nothing.
      layer_norm: whether to normalise; the layer then has one weight more.
      name: of the layer, as in Keras.
      dtype: of the weights and of the outputs, as in Keras.
      trainable: whether the weights are trained, as in Keras.

    Raises ValueError: another precision.
    """
    if precision not in ("float32", "bfloat16"):
      raise ValueError(f"precision is {precision!r}: not float32 or bfloat16")
    super().__init__(
      units,
      return_sequences=True,
      return_state=True,
      name=name,
      dtype=dtype,
      trainable=trainable,
    )
    self.precision = precision
    self.layer_norm = layer_norm
    self.gain = None  # [3H], for z, r, n

  def build(self, input_shape: Any) -> None:
    """Makes the weights; Keras calls this."""
    super().build(input_shape)
    if self.layer_norm:
      shape = [3 * self.units]
      self.gain = self.add_weight(shape, initializer="ones", name="gain")

  def get_config(self) -> dict[str, Any]:
    """Returns the arguments of an equal layer, for Keras' `from_config`."""
    # Not those of keras.layers.GRU, most of which this layer refuses.
    config = keras.layers.Layer.get_config(self)
    names = ("units", "precision", "layer_norm")
    return config | {name: getattr(self, name) for name in names}

  def call(
    self,
    sequences: tf.Tensor,
    initial_state: Any = None,
    mask: tf.Tensor | None = None,
    training: bool = False,
  ) -> tuple[tf.Tensor, tf.Tensor]:
    """Runs over a window `[B, T, D]`, T at least 1, from a state `[B, H]`.

    Without a state, from zero. `precision` acts in training only. Returns the
    outputs `[B, T, H]` and the last of them, the state `[B, H]`.

    Raises ValueError: a mask, which this layer does not support.
    """
    if mask is not None:
      raise ValueError("FusedGRU supports no mask: use keras.layers.GRU")
    # The bias is the kernel's row for one more feature, which is always 1.
    features = tf.concat([sequences, tf.ones_like(sequences[..., :1])], axis=2)
    features = tf.transpose(features, [1, 2, 0])  # [T, D + 1, B]
    kernel = tf.concat([self.cell.kernel, _input_bias(self.cell)], axis=0)
    return self._run(features, kernel, initial_state, training)

  def call_ids(
    self,
    ids: tf.Tensor,
    embeddings: tf.Tensor,
    initial_state: Any = None,
    training: bool = False,
  ) -> tuple[tf.Tensor, tf.Tensor]:
    """Runs over a window of ids: `call(tf.gather(embeddings, ids))`, faster.

    Each embedding is projected once, not at each of its occurrences.

    The ids `[B, T]` must be below V, of embeddings `[V, D]`: others read as
    zeros.
    """
    embeddings = tf.convert_to_tensor(embeddings)
    # A product with one-hot columns looks up: on CPUs it is as fast as a gather
    # and a transposition, and its gradient is faster than sums by id.
    depth = embeddings.shape[0] or tf.shape(embeddings)[0]
    dtype = self._product_dtype(training)
    features = tf.one_hot(tf.transpose(ids), depth, axis=1, dtype=dtype)
    table = project(self.cell, embeddings)
    return self._run(features, table, initial_state, training)

  def _product_dtype(self, training: bool) -> tf.DType:
    low = training and self.precision == "bfloat16"
    return tf.bfloat16 if low else tf.as_dtype(self.compute_dtype)

  def _run(
    self,
    features: tf.Tensor,
    kernel: tf.Tensor,
    state: Any,
    training: bool,
  ) -> tuple[tf.Tensor, tf.Tensor]:
    """Runs over features `[T, D, B]` with the kernel `[D, 3H]`."""
    if state is None:
      state = tf.zeros([tf.shape(features)[2], self.units], self.compute_dtype)
    (state,) = tf.nest.flatten(state)
    outputs = _recurrence(
      tf.cast(features, self._product_dtype(training)),
      tf.roll(kernel, self.units, axis=1),  # from z, r, n to n, z, r
      tf.convert_to_tensor(self.cell.recurrent_kernel),
      tf.convert_to_tensor(self.cell.bias)[1, -self.units :],
      tf.cast(state, self.compute_dtype),
      *([] if self.gain is None else [tf.convert_to_tensor(self.gain)]),
    )
    outputs.set_shape([features.shape[2], features.shape[0], self.units])
    return outputs, outputs[:, -1]


def project(cell: keras.layers.GRUCell, inputs: tf.Tensor) -> tf.Tensor:
  """Returns what inputs `[N, D]` add to a cell's gates, `[N, 3H]`."""
  return tf.matmul(inputs, cell.kernel) + _input_bias(cell)


def step(
  layer: keras.layers.GRU, projected: tf.Tensor, state: tf.Tensor
) -> tf.Tensor:
  """Returns the state `[B, H]` after one projected input `[B, 3H]`."""
  cell, units = layer.cell, layer.units
  recurrent = tf.matmul(state, cell.recurrent_kernel)
  if getattr(layer, "gain", None) is not None:
    normal, _ = _normalise(tf.transpose(recurrent), units)
    recurrent = tf.transpose(normal) * layer.gain
  sizes = [2 * units, units]
  input_zr, input_n = tf.split(projected, sizes, axis=1)
  recurrent_zr, recurrent_n = tf.split(recurrent, sizes, axis=1)
  z, r = tf.split(tf.sigmoid(input_zr + recurrent_zr), 2, axis=1)
  bias = tf.convert_to_tensor(cell.bias)[1, -units:]
  n = tf.tanh(input_n + r * (recurrent_n + bias))
  return n + z * (state - n)


def _input_bias(cell: keras.layers.GRUCell) -> tf.Tensor:
  """Returns both biases' sum `[1, 3H]`, of the candidate only the input's."""
  bias = tf.convert_to_tensor(cell.bias)
  # The reset gate scales the candidate's recurrent bias: it is added later.
  recurrent = tf.pad(bias[1:, : -cell.units], [[0, 0], [0, cell.units]])
  return bias[:1] + recurrent


@tf.custom_gradient
def _recurrence(
  features: tf.Tensor,
  kernel: tf.Tensor,
  recurrent_kernel: tf.Tensor,
  bias: tf.Tensor,
  state: tf.Tensor,
  *gain: tf.Tensor,
) -> tuple[tf.Tensor, Callable[..., Any]]:
  """Returns the outputs `[B, T, H]`, and the function for the gradients.

  It takes features `[T, D, B]`, whose dtype matrix products have, a kernel
  `[D, 3H]` for n, z, r, a recurrent kernel `[H, 3H]` for z, r, n, the
  candidate's recurrent bias `[H]`, the state `[B, H]`, and for layer
  normalisation the gain `[3H]`.
  """
  dtype, units = state.dtype, state.shape[1]
  kernel = tf.cast(kernel, features.dtype)
  recurrent_kernel = tf.cast(recurrent_kernel, features.dtype)
  args = (features, kernel, recurrent_kernel, bias, state, *gain)
  states, saved = _forward(*args)

  def gradient(d_outputs: tf.Tensor) -> tuple[tf.Tensor, ...]:
    d_outputs = tf.transpose(d_outputs, [1, 2, 0])  # [T, H, B]
    d_rows, d_state = _backward(
      d_outputs, recurrent_kernel, states, saved, *gain
    )
    # One product over all steps for each kernel, not a sum of T products.
    d_rows = _columns(d_rows)  # [4H or 7H, T * B]
    d_inputs, d_recurrent = d_rows[: 3 * units], d_rows[-3 * units :]
    d_gates = tf.cast(d_rows[units : 4 * units], dtype)  # z, r, n
    previous = _columns(tf.cast(states[:-1], features.dtype))  # [H, T * B]
    d_kernel = tf.matmul(_columns(features), d_inputs, transpose_b=True)
    d_recurrent_kernel = tf.matmul(previous, d_recurrent, transpose_b=True)
    d_features = tf.reshape(  # dropped from the graph if nothing needs it
      tf.matmul(kernel, d_inputs), tf.gather(tf.shape(features), [1, 0, 2])
    )
    d_gain = []
    if gain:
      normal = _columns(saved[-2].stack())
      d_gain.append(tf.reduce_sum(d_gates * normal, axis=1))
    return (
      tf.transpose(d_features, [1, 0, 2]),
      tf.cast(d_kernel, dtype),
      tf.cast(d_recurrent_kernel, dtype),
      tf.reduce_sum(d_gates[2 * units :], axis=1),
      tf.transpose(d_state),
      *d_gain,
    )

  return tf.transpose(states[1:], [2, 0, 1]), gradient


def _normalise(x: tf.Tensor, units: int) -> tuple[tf.Tensor, tf.Tensor]:
  """Gives x `[3H, B]` mean 0 and variance 1 over the units of each gate.

  Returns the result, and the factor `[3, 1, B]` that scaled the deviations
  from the mean.
  """
  x = tf.reshape(x, [3, units, -1])
  x -= tf.reduce_mean(x, axis=1, keepdims=True)
  variance = tf.reduce_mean(tf.square(x), axis=1, keepdims=True)
  scale = tf.math.rsqrt(variance + _EPSILON)
  return tf.reshape(x * scale, [3 * units, -1]), scale


def _normalise_gradient(
  normal: tf.Tensor, scale: tf.Tensor, gradient: tf.Tensor, units: int
) -> tf.Tensor:
  """Returns the gradient `[3H, B]` of x, given `_normalise`'s results."""
  normal, gradient = (tf.reshape(y, [3, units, -1]) for y in (normal, gradient))
  gradient -= tf.reduce_mean(gradient, axis=1, keepdims=True)
  product = tf.reduce_mean(gradient * normal, axis=1, keepdims=True)
  return tf.reshape((gradient - normal * product) * scale, [3 * units, -1])


def _columns(x: tf.Tensor) -> tf.Tensor:
  """Sets the time steps of x `[T, N, B]` side by side: `[N, T * B]`."""
  num_rows = x.shape[1] or tf.shape(x)[1]
  return tf.reshape(tf.transpose(x, [1, 0, 2]), [num_rows, -1])


def _forward(
  features: tf.Tensor,
  kernel: tf.Tensor,
  recurrent_kernel: tf.Tensor,
  bias: tf.Tensor,
  state: tf.Tensor,
  *gain: tf.Tensor,
) -> tuple[tf.Tensor, tuple[tf.TensorArray, ...]]:
  """Returns the T + 1 states `[T + 1, H, B]` and what `_backward` needs."""
  dtype, units = state.dtype, state.shape[1]
  num_steps = tf.shape(features)[0]
  kernel = tf.transpose(kernel)  # once, not in every product
  recurrent_kernel = tf.transpose(recurrent_kernel)
  # The features may know the number of rows where the state does not.
  state = tf.ensure_shape(tf.transpose(state), [units, features.shape[2]])
  shape = state.shape
  columns = tf.zeros_like(state[:1])
  bias, *gains = (x[:, None] + columns for x in (bias, *gain))  # broadcast once

  def step(
    t: tf.Tensor, state: tf.Tensor, *arrays: tf.TensorArray
  ) -> tuple[Any, ...]:
    inputs = tf.matmul(kernel, features[t])
    recurrent = tf.matmul(recurrent_kernel, tf.cast(state, features.dtype))
    recurrent = tf.cast(recurrent, dtype)
    norm: tuple[tf.Tensor, ...] = ()
    if gains:
      norm = _normalise(recurrent, units)
      recurrent = norm[0] * gains[0]
    input_n, input_zr = tf.split(tf.cast(inputs, dtype), [units, 2 * units])
    zr, recurrent_n = tf.split(recurrent, [2 * units, units])
    zr = tf.sigmoid(input_zr + zr)
    z, r = tf.split(zr, 2)
    recurrent_n += bias
    n = tf.tanh(input_n + r * recurrent_n)
    state = n + z * (state - n)
    state.set_shape(shape)
    states, *saved = arrays
    values = zip(saved, (zr, n, recurrent_n, *norm), strict=True)
    saved = [array.write(t, value) for array, value in values]
    return t + 1, state, states.write(t + 1, state), *saved

  shapes = [[2 * units, shape[1]], shape, shape]
  if gain:
    shapes += [[3 * units, shape[1]], [3, 1, shape[1]]]
  states, *saved = (
    tf.TensorArray(dtype, size, element_shape=element, clear_after_read=False)
    for size, element in [
      (num_steps + 1, shape),
      *((num_steps, element) for element in shapes),
    ]
  )
  _, _, states, *saved = tf.while_loop(
    lambda t, *_: t < num_steps,
    step,
    (0, state, states.write(0, state), *saved),
    parallel_iterations=1,  # a step needs the one before
  )
  return states.stack(), tuple(saved)


def _backward(
  d_outputs: tf.Tensor,
  recurrent_kernel: tf.Tensor,
  states: tf.Tensor,
  saved: tuple[tf.TensorArray, ...],
  *gain: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor]:
  """Propagates the gradient of the outputs `[T, H, B]` back in time.

  Returns:
    The gradients `[T, 4H, B]` of n, z and r before their activations, and of
    the recurrent part of n; with a gain `[T, 7H, B]`, where those of the
    recurrent parts of z, r and n before normalisation follow. So the first 3H
    rows are the projected features' gradient, and the last 3H the projected
    state's. Then the initial state's gradient `[H, B]`.
  """
  product_dtype, units = recurrent_kernel.dtype, recurrent_kernel.shape[0]
  num_steps = tf.shape(d_outputs)[0]
  shape = states.shape[1:]
  gains = [g[:, None] + tf.zeros_like(states[0, :1]) for g in gain]

  def step(
    t: tf.Tensor, d_state: tf.Tensor, d_rows: tf.TensorArray
  ) -> tuple[Any, ...]:
    zr, n, recurrent_n, *norm = (array.read(t) for array in saved)
    z, r = tf.split(zr, 2)
    d_state += d_outputs[t]
    d_kept = d_state * z
    d_n = tf.raw_ops.TanhGrad(y=n, dy=d_state - d_kept)
    d_z = tf.raw_ops.SigmoidGrad(y=z, dy=d_state * (states[t] - n))
    d_r = tf.raw_ops.SigmoidGrad(y=r, dy=d_n * recurrent_n)
    rows = [d_n, d_z, d_r, d_n * r]
    if gains:
      normal, scale = norm
      d_normal = tf.concat(rows[1:], axis=0) * gains[0]
      rows.append(_normalise_gradient(normal, scale, d_normal, units))
    rows = [tf.cast(d, product_dtype) for d in rows]
    rows = tf.concat(rows, axis=0)
    product = tf.matmul(recurrent_kernel, rows[-3 * units :])
    d_state = d_kept + tf.cast(product, d_kept.dtype)
    d_state.set_shape(shape)
    return t - 1, d_state, d_rows.write(t, rows)

  num_rows = (7 if gain else 4) * units
  d_rows = tf.TensorArray(
    product_dtype, num_steps, element_shape=[num_rows, shape[1]]
  )
  _, d_state, d_rows = tf.while_loop(
    lambda t, *_: t >= 0,
    step,
    (num_steps - 1, tf.zeros_like(states[0]), d_rows),
    parallel_iterations=1,
  )
  return d_rows.stack(), d_state
