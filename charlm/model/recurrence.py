"""The loop over time of the fused GRU, and its gradient.

Shapes: B rows of a batch, T time steps, D input features, H units. Tensors are
feature-major, `[T, features, B]`: the weights, as the left factor of every
matrix product, need not be repacked at every time step, and the gates are split
and joined without strides. The gates are the update gate z, the reset
gate r, and the candidate n.

Keras has the gates in the order z, r, n. The recurrent kernel and the gain keep
it, but the input's kernel is rolled to n, z, r. So the gradients of a time step
are one block of 4H rows: of n, z and r before their activations, then of the
recurrent part of n. The first 3H rows are the gradient of the input's product
(n, z, r), and the last 3H that of the recurrent product (z, r, n): both share
the rows of z and r. With layer normalisation, rows H to 4H are the gradient
with respect to the product after normalisation and gain. The gradient with
respect to the product itself, 3H more rows for z, r, n, follows: 7H rows in
all, and again the last 3H are the recurrent product's.
"""

import functools
from collections.abc import Callable
from typing import Any, TypeAlias

import tensorflow as tf

_Vars: TypeAlias = "tuple[Any, ...]"  # of a loop: time step, state, arrays

_EPSILON = 1e-3  # as Keras has it; a zero state has no variance


@tf.custom_gradient
def recurrence(
  features: tf.Tensor,
  kernel: tf.Tensor,
  recurrent_kernel: tf.Tensor,
  bias: tf.Tensor,
  state: tf.Tensor,
  *gain: tf.Tensor,
) -> tuple[tf.Tensor, Callable[..., Any]]:
  """Returns the outputs `[B, T, H]`, and the function for the gradients.

  Features `[T, D, B]` have the dtype of the matrix products. The others are a
  kernel `[D, 3H]` for n, z, r, a recurrent kernel `[H, 3H]` for z, r, n, the
  candidate's recurrent bias `[H]`, the state `[B, H]`, and for layer
  normalisation the gain `[3H]`.
  """
  dtype, units = state.dtype, state.shape[1]
  # Cast here, so that the gradients below are those of the cast values.
  kernel = tf.cast(kernel, features.dtype)
  recurrent_kernel = tf.cast(recurrent_kernel, features.dtype)
  args = (features, kernel, recurrent_kernel, bias, state, *gain)
  states, saved = _forward(*args)

  def gradient(d_outputs: tf.Tensor) -> tuple[tf.Tensor, ...]:
    d_outputs = tf.transpose(d_outputs, [1, 2, 0])  # [T, H, B]
    # [T, 4H or 7H, B] and [H, B]
    d_rows, d_state = _backward(
      d_outputs, recurrent_kernel, states, saved, *gain
    )
    # One product over all steps for each kernel, not a sum of T products: this
    # is half of the backward pass, and a large product runs at full speed.
    d_rows = _columns(d_rows)  # [4H or 7H, T * B]
    d_inputs, d_recurrent = d_rows[: 3 * units], d_rows[-3 * units :]
    d_gates = tf.cast(d_rows[units : 4 * units], dtype)  # z, r, n
    # The kernels' gradients, [D, 3H] and [H, 3H].
    d_kernel = tf.matmul(_columns(features), d_inputs, transpose_b=True)
    previous = _columns(tf.cast(states[:-1], features.dtype))  # [H, T * B]
    d_recurrent_kernel = tf.matmul(previous, d_recurrent, transpose_b=True)
    d_features = tf.reshape(  # dropped from the graph if nothing needs it
      tf.matmul(kernel, d_inputs), tf.gather(tf.shape(features), [1, 0, 2])
    )
    d_gain = []
    if gain:
      normal = _columns(saved[-2].stack())  # [3H, T * B]
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
  columns = tf.zeros_like(state[:1])  # to broadcast once, not at every step
  bias, *gains = (x[:, None] + columns for x in (bias, *gain))  # [N, B]

  def step(t: tf.Tensor, state: tf.Tensor, *arrays: tf.TensorArray) -> _Vars:
    inputs = tf.matmul(kernel, features[t])  # [3H, B]
    recurrent = tf.matmul(recurrent_kernel, tf.cast(state, features.dtype))
    recurrent = tf.cast(recurrent, dtype)  # [3H, B]
    norm: tuple[tf.Tensor, ...] = ()
    if gains:
      norm = normalise(recurrent, units)
      recurrent = norm[0] * gains[0]
    input_n, input_zr = tf.split(tf.cast(inputs, dtype), [units, 2 * units])
    zr, recurrent_n = tf.split(recurrent, [2 * units, units])
    zr = tf.sigmoid(input_zr + zr)
    z, r = tf.split(zr, 2)
    recurrent_n += bias
    n = tf.tanh(input_n + r * recurrent_n)
    state = n + z * (state - n)  # one product less than (1 - z) n + z h
    state.set_shape(shape)  # a loop's variables keep their shapes
    states, *saved = arrays
    values = zip(saved, (zr, n, recurrent_n, *norm), strict=True)
    saved = [array.write(t, value) for array, value in values]
    return t + 1, state, states.write(t + 1, state), *saved

  # The shapes of what `_backward` needs: zr, n, recurrent_n, and norm.
  shapes = [[2 * units, shape[1]], shape, shape]
  if gain:
    shapes += [[3 * units, shape[1]], [3, 1, shape[1]]]
  array = functools.partial(tf.TensorArray, dtype, clear_after_read=False)
  states = array(num_steps + 1, element_shape=shape)
  saved = [array(num_steps, element_shape=element) for element in shapes]
  start = (0, state, states.write(0, state), *saved)
  # One at a time: a step needs the one before.
  _, _, states, *saved = tf.while_loop(
    lambda t, *_: t < num_steps, step, start, parallel_iterations=1
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

  def step(t: tf.Tensor, d_state: tf.Tensor, d_rows: tf.TensorArray) -> _Vars:
    # [2H, B], [H, B], [H, B], and with a gain [3H, B] and [3, 1, B]
    zr, n, recurrent_n, *norm = (array.read(t) for array in saved)
    z, r = tf.split(zr, 2)
    # The state after step t is an output, and what step t + 1 started from.
    d_state += d_outputs[t]
    d_kept = d_state * z
    # TensorFlow's own kernels for these gradients pass over memory once.
    d_n = tf.raw_ops.TanhGrad(y=n, dy=d_state - d_kept)
    d_z = tf.raw_ops.SigmoidGrad(y=z, dy=d_state * (states[t] - n))
    d_r = tf.raw_ops.SigmoidGrad(y=r, dy=d_n * recurrent_n)
    rows = [d_n, d_z, d_r, d_n * r]
    if gains:
      normal, scale = norm
      d_normal = tf.concat(rows[1:], axis=0) * gains[0]
      rows.append(_normalise_gradient(normal, scale, d_normal, units))
    rows = tf.concat([tf.cast(d, product_dtype) for d in rows], axis=0)
    product = tf.matmul(recurrent_kernel, rows[-3 * units :])
    d_state = d_kept + tf.cast(product, d_kept.dtype)
    d_state.set_shape(shape)
    return t - 1, d_state, d_rows.write(t, rows)

  row_shape = [(7 if gain else 4) * units, shape[1]]
  d_rows = tf.TensorArray(product_dtype, num_steps, element_shape=row_shape)
  start = (num_steps - 1, tf.zeros_like(states[0]), d_rows)
  _, d_state, d_rows = tf.while_loop(
    lambda t, *_: t >= 0, step, start, parallel_iterations=1
  )
  return d_rows.stack(), d_state


def normalise(x: tf.Tensor, units: int) -> tuple[tf.Tensor, tf.Tensor]:
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
  """Returns the gradient `[3H, B]` of x, given `normalise`'s results."""
  normal, gradient = (tf.reshape(y, [3, units, -1]) for y in (normal, gradient))
  gradient -= tf.reduce_mean(gradient, axis=1, keepdims=True)
  product = tf.reduce_mean(gradient * normal, axis=1, keepdims=True)
  return tf.reshape((gradient - normal * product) * scale, [3 * units, -1])


def _columns(x: tf.Tensor) -> tf.Tensor:
  """Sets the time steps of x `[T, N, B]` side by side: `[N, T * B]`."""
  num_rows = x.shape[1] or tf.shape(x)[1]
  return tf.reshape(tf.transpose(x, [1, 0, 2]), [num_rows, -1])
