"""The loop over time of the fused GRU.

Shapes: B rows of a batch, T time steps, F input features, H units. Tensors are
feature-major, `[T, features, B]`: the weights, as the left factor of every
matrix product, need not be repacked at every time step, and the gates are split
and joined without strides. The gates are the update gate z, the reset
gate r, and the candidate n.

Keras has the gates in the order z, r, n. The recurrent kernel and the gain keep
it, but the input's kernel is rolled to n, z, r, which `gru_gradient`
explains.
"""

import functools
from collections.abc import Callable, Sequence

import tensorflow as tf

from charlm.model.gru_equation import next_state
from charlm.model.gru_gradient import Recurrence


def recurrence(
  *,
  features: tf.Tensor,
  kernel: tf.Tensor,
  recurrent_kernel: tf.Tensor,
  bias: tf.Tensor,
  state: tf.Tensor,
  gain: Sequence[tf.Tensor],
  product_dtype: tf.DType,
) -> tf.Tensor:
  """Returns the outputs `[B, T, H]`.

  Args:
    features: `[T, F, B]`, or ids `[T, B]` below F in place of one-hot features.
    kernel: of the features, `[F, 3H]` for n, z, r.
    recurrent_kernel: of the state, `[H, 3H]` for z, r, n.
    bias: the candidate's recurrent bias, `[H]`.
    state: the state before the first time step, `[B, H]`.
    gain: empty, or `[3H]` alone if there is layer normalisation.
    product_dtype: of the factors and the results of the matrix products.
  """

  @tf.custom_gradient
  def run(
    features: tf.Tensor,
    kernel: tf.Tensor,
    recurrent_kernel: tf.Tensor,
    bias: tf.Tensor,
    state: tf.Tensor,
    gain: Sequence[tf.Tensor],
  ) -> tuple[tf.Tensor, Callable[..., object]]:
    """Returns the outputs, and the function for the gradients."""
    by_id = features.dtype.is_integer  # int64 below: a gather takes no uint8
    features = tf.cast(features, tf.int64 if by_id else product_dtype)
    # Cast in here: outside, their gradients would be rounded, too.
    kernel = tf.cast(kernel, product_dtype)
    recurrent_kernel = tf.cast(recurrent_kernel, product_dtype)
    states, saved = _forward(
      features=features,
      kernel=kernel,
      recurrent_kernel=recurrent_kernel,
      bias=bias,
      state=state,
      gain=gain,
    )
    # Only the outputs are kept as one tensor; the gradient reads the array.
    outputs = tf.transpose(states.stack()[1:], [2, 0, 1])
    computed = Recurrence(
      features=features,
      kernel=kernel,
      recurrent_kernel=recurrent_kernel,
      gain=gain,
      states=states,
      saved=saved,
    )
    return outputs, computed.gradients

  # By position: in a graph TensorFlow takes no other arguments here.
  return run(features, kernel, recurrent_kernel, bias, state, gain)


def _forward(
  *,
  features: tf.Tensor,
  kernel: tf.Tensor,
  recurrent_kernel: tf.Tensor,
  bias: tf.Tensor,
  state: tf.Tensor,
  gain: Sequence[tf.Tensor],
) -> tuple[tf.TensorArray, list[tf.TensorArray]]:
  """Returns the T + 1 states, `[H, B]` each, and what the gradient needs."""
  dtype, units = state.dtype, state.shape[1]
  num_steps = tf.shape(features)[0]
  by_id = features.dtype.is_integer
  # Once, not in every time step.
  kernel = kernel if by_id else tf.transpose(kernel)
  recurrent_kernel = tf.transpose(recurrent_kernel)
  # B may be static in the features though it is not in the state.
  state = tf.ensure_shape(tf.transpose(state), [units, features.shape[-1]])
  shape = state.shape
  # [H, B] and [3H, B], to broadcast them once.
  bias, *gains = (x[:, None] + tf.zeros_like(state[:1]) for x in (bias, *gain))

  def read(t: int | tf.Tensor) -> tf.Tensor:
    """Returns the features of time step t or, for ids, their projections."""
    x = features[t]
    return tf.transpose(tf.gather(kernel, x)) if by_id else x

  def step(
    t: tf.Tensor,
    x: tf.Tensor,
    state: tf.Tensor,
    states: tf.TensorArray,
    saved: Sequence[tf.TensorArray],
  ) -> tuple[object, ...]:
    """Computes time step t from its `x`; returns the `x` of the next, too."""
    x = x if by_id else tf.matmul(kernel, x)
    h = tf.cast(state, recurrent_kernel.dtype)
    recurrent = tf.cast(tf.matmul(recurrent_kernel, h), dtype)  # [3H, B]
    input_n, input_zr = tf.split(tf.cast(x, dtype), [units, 2 * units])
    state, values = next_state(
      input_n=input_n,
      input_zr=input_zr,
      recurrent=recurrent,
      bias=bias,
      gain=gains,
      state=state,
      axis=0,
    )
    state.set_shape(shape)  # a loop's variables keep their shapes
    pairs = zip(saved, values, strict=True)
    saved = [array.write(t, value) for array, value in pairs]
    # XLA would not vectorise gates that look up x. The last x is unused.
    x = read((t + 1) % num_steps)
    return t + 1, x, state, states.write(t + 1, state), saved

  # The shapes of what the gradients need: zr, n, recurrent_n, and norm.
  shapes = [[2 * units, shape[1]], shape, shape]
  if gain:
    shapes += [[3 * units, shape[1]], [3, 1, shape[1]]]
  array = functools.partial(tf.TensorArray, dtype, clear_after_read=False)
  states = array(num_steps + 1, element_shape=shape)
  saved = [array(num_steps, element_shape=element) for element in shapes]
  _, _, _, states, saved = tf.while_loop(
    lambda t, *_: t < num_steps,
    step,
    (0, read(0), state, states.write(0, state), saved),
    parallel_iterations=1,  # a time step needs the one before
  )
  return states, saved
