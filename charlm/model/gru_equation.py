"""The GRU's equation: one time step, of training, scoring, and sampling.

Shapes: B rows of a batch, H units. The gates are the update gate z, the reset
gate r, and the candidate n.
"""

from collections.abc import Sequence

import tensorflow as tf

_EPSILON = 1e-3  # as Keras has it; a zero state has no variance


def next_state(
  *,
  input_n: tf.Tensor,
  input_zr: tf.Tensor,
  recurrent: tf.Tensor,
  bias: tf.Tensor,
  gain: Sequence[tf.Tensor],
  state: tf.Tensor,
  axis: int,
) -> tuple[tf.Tensor, tuple[tf.Tensor, ...]]:
  """Takes one time step: the GRU's equation, of training and of sampling.

  Training and scoring are feature-major, so that features are axis 0. Sampling
  has a row for each text, so that they are axis 1: XLA vectorises the gates of
  a few texts only there.

  Args:
    input_n: the input's part of the candidate, `[H, B]`.
    input_zr: the input's part of the gates z and r, `[2H, B]`.
    recurrent: the product of state and recurrent kernel, `[3H, B]`.
    bias: the candidate's recurrent bias.
    gain: of the recurrent product, if there is layer normalisation.
    state: the state before, `[H, B]`.
    axis: 0, or 1 if all of these have their axes the other way round.

  Returns the state after, and what the gradient needs: zr, n, the candidate's
  recurrent part and, with a gain, the result of `normalise`.
  """
  units = state.shape[axis]
  norm: tuple[tf.Tensor, ...] = ()
  if gain:
    gates, joined = [3, units, -1], [3 * units, -1]
    if axis == 1:
      gates, joined = [-1, 3, units], [-1, 3 * units]
    normal, scale = normalise(tf.reshape(recurrent, gates), axis + 1)
    norm = tf.reshape(normal, joined), scale
    recurrent = norm[0] * gain[0]
  zr, recurrent_n = tf.split(recurrent, [2 * units, units], axis)
  zr = tf.sigmoid(input_zr + zr)
  z, r = tf.split(zr, 2, axis)
  recurrent_n += bias
  n = tf.tanh(input_n + r * recurrent_n)
  state = n + z * (state - n)  # one product less than (1 - z) n + z h
  return state, (zr, n, recurrent_n, *norm)


def normalise(x: tf.Tensor, axis: int) -> tuple[tf.Tensor, tf.Tensor]:
  """Gives x mean 0 and variance 1 over an axis, that of the units of a gate.

  Returns the result, and the factor, of size 1 in this axis, that scaled the
  deviations from the mean.
  """
  x -= tf.reduce_mean(x, axis, keepdims=True)
  variance = tf.reduce_mean(tf.square(x), axis, keepdims=True)
  scale = tf.math.rsqrt(variance + _EPSILON)
  return x * scale, scale
