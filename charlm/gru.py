"""A GRU layer that trains several times faster on CPUs than Keras's.

Shapes: B rows of a batch, T time steps, D input features, H units, V vocabulary
size. Inside, tensors are feature-major, `[T, features, B]`: the weights are the
left factor of every matrix product, which spares a repacking of them at every
step, and the gates are split and joined without strides.
"""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

_PRECISIONS = ("float32", "bfloat16")
# Options of keras.layers.GRU that are accepted with this one value.
_FIXED_OPTIONS = {
  "activation": "tanh",
  "recurrent_activation": "sigmoid",
  "use_bias": True,
  "reset_after": True,
  "return_sequences": True,
  "return_state": True,
}


class FusedGRU(keras.layers.GRU):
  """A `keras.layers.GRU` with the same weights and a faster loop over time.

  It computes what keras.layers.GRU(units, return_sequences=True,
  return_state=True) does; weights and checkpoints of the two are
  interchangeable, except that a .weights.h5 file of a functional or sequential
  model calls its layers by their class. Gradients cannot be differentiated again.
  """

  def __init__(
    self,
    units: int,
    precision: str = "float32",
    name: str | None = None,
    dtype: Any = None,
    **options: Any,
  ) -> None:
    """Creates the layer.

    Args:
      units: H.
      precision: "bfloat16" rounds the factors and the result of each matrix
        product to bfloat16; weights, states, sums and gradients stay in the
        layer's dtype. "float32" rounds nothing.
      name: of the layer.
      dtype: float32 or float64; Keras's default if None.
      **options: other arguments of keras.layers.GRU, at the values that this
        layer computes.

    Raises:
      ValueError: an option or a value that this layer does not support.
    """
    for option, value in options.items():
      if option not in _FIXED_OPTIONS or value != _FIXED_OPTIONS[option]:
        raise ValueError(f"FusedGRU does not support {option}={value!r}")
    if precision not in _PRECISIONS:
      raise ValueError(
        f"precision is {precision!r}: give one of {', '.join(_PRECISIONS)}"
      )
    super().__init__(
      units, return_sequences=True, return_state=True, name=name, dtype=dtype
    )
    self.supports_masking = False
    self.precision = precision
    if not self.compute_dtype == self.variable_dtype in ("float32", "float64"):
      raise ValueError(
        f"dtype is {self.dtype_policy.name}: give float32 or float64"
      )

  def call(
    self,
    sequences: tf.Tensor,
    initial_state: Any = None,
    mask: None = None,
    training: bool = False,
  ) -> tuple[tf.Tensor, tf.Tensor]:
    """Runs over a window of vectors.

    Args:
      sequences: `[B, T, D]`, T at least 1.
      initial_state: `[B, H]`, or a list of it; zero if None.
      mask: not supported.
      training: makes no difference.

    Returns:
      The outputs `[B, T, H]` and the last of them, the state `[B, H]`.

    Raises:
      ValueError: a mask.
    """
    if mask is not None:
      raise ValueError("FusedGRU does not support a mask")
    bias = tf.convert_to_tensor(self.cell.bias)
    # The bias is the weight of one more input, which is always 1.
    ones = tf.ones_like(sequences[..., :1])
    features = tf.transpose(tf.concat([sequences, ones], axis=2), [1, 2, 0])
    kernel = tf.concat([self.cell.kernel, self._input_bias(bias)], axis=0)
    return self._run(features, kernel, initial_state)

  def call_ids(
    self,
    ids: tf.Tensor,
    embeddings: tf.Tensor,
    initial_state: Any = None,
  ) -> tuple[tf.Tensor, tf.Tensor]:
    """Runs over a window of ids: `call(tf.gather(embeddings, ids))`, faster.

    Each embedding is projected once, not at each of its occurrences.

    Args:
      ids: `[B, T]`, T at least 1.
      embeddings: `[V, D]`.
      initial_state: `[B, H]`, or a list of it; zero if None.

    Returns:
      The outputs `[B, T, H]` and the last of them, the state `[B, H]`.
    """
    embeddings = tf.convert_to_tensor(embeddings)
    if not self.built:
      self.build((None, None, embeddings.shape[1]))
    if ids.shape[1] == 1:  # a table costs more than it spares
      return self(tf.gather(embeddings, ids), initial_state)
    bias = tf.convert_to_tensor(self.cell.bias)
    table = tf.matmul(embeddings, self.cell.kernel) + self._input_bias(bias)
    # A product with one-hot columns looks up: on CPUs it is as fast as a gather
    # and a transposition, and its gradient faster than a sum by segments.
    vocab_size = embeddings.shape[0] or tf.shape(embeddings)[0]
    features = tf.one_hot(
      tf.transpose(ids), vocab_size, axis=1, dtype=self._product_dtype
    )  # [T, V, B]
    return self._run(features, table, initial_state)

  def get_config(self) -> dict[str, Any]:
    """Returns the constructor's arguments."""
    return {
      "units": self.units,
      "precision": self.precision,
      "name": self.name,
      "dtype": self.compute_dtype,
    }

  @property
  def _product_dtype(self) -> tf.DType:
    low = self.precision == "bfloat16"
    return tf.bfloat16 if low else tf.as_dtype(self.compute_dtype)

  def _input_bias(self, bias: tf.Tensor) -> tf.Tensor:
    """Returns all that is added to the gates, `[1, 3H]`, but for one part.

    The candidate's recurrent bias is not in it, since the reset gate scales it.
    """
    recurrent = tf.concat(
      [bias[1:, : 2 * self.units], tf.zeros_like(bias[1:, 2 * self.units :])],
      axis=1,
    )
    return bias[:1] + recurrent

  def _run(
    self, features: tf.Tensor, kernel: tf.Tensor, state: Any
  ) -> tuple[tf.Tensor, tf.Tensor]:
    """Runs over features `[T, D, B]` with the kernel `[D, 3H]`."""
    dtype = tf.as_dtype(self.compute_dtype)
    if state is None:
      state = tf.zeros([tf.shape(features)[2], self.units], dtype)
    (state,) = tf.nest.flatten(state)
    outputs = _recurrence(
      self._product_dtype
    )(
      tf.cast(features, self._product_dtype),
      tf.roll(kernel, self.units, axis=1),  # the candidate first
      tf.convert_to_tensor(self.cell.recurrent_kernel),
      tf.convert_to_tensor(self.cell.bias)[1, 2 * self.units :],
      tf.cast(state, dtype),
    )
    outputs.set_shape([features.shape[2], features.shape[0], self.units])
    return outputs, outputs[:, -1]


def _recurrence(product_dtype: tf.DType) -> Callable[..., tf.Tensor]:
  """Returns the GRU whose matrix products have factors of `product_dtype`.

  Its arguments are the features `[T, D, B]` in `product_dtype`, the kernel
  `[D, 3H]` with the candidate's columns first, the recurrent kernel `[H, 3H]`
  with them last, the candidate's recurrent bias `[H]`, and the state `[B, H]`.
  It returns the outputs `[B, T, H]`.
  """

  @tf.custom_gradient
  def recurrence(
    features: tf.Tensor,
    kernel: tf.Tensor,
    recurrent_kernel: tf.Tensor,
    bias: tf.Tensor,
    state: tf.Tensor,
  ) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple[tf.Tensor, ...]]]:
    kernel = tf.cast(kernel, product_dtype)
    recurrent_kernel = tf.cast(recurrent_kernel, product_dtype)
    states, saved = _forward(features, kernel, recurrent_kernel, bias, state)

    def gradient(d_outputs: tf.Tensor) -> tuple[tf.Tensor, ...]:
      d_gates, d_state = _backward(
        tf.transpose(d_outputs, [1, 2, 0]), recurrent_kernel, states, saved
      )
      units = state.shape[1]
      d_gates = _columns(d_gates)  # [4H, T * B]
      d_inputs, d_recurrent = d_gates[: 3 * units], d_gates[units:]
      d_kernel = tf.matmul(_columns(features), d_inputs, transpose_b=True)
      previous = _columns(tf.cast(states[:-1], product_dtype))  # [H, T * B]
      d_recurrent_kernel = tf.matmul(previous, d_recurrent, transpose_b=True)
      d_features = tf.reshape(
        tf.matmul(kernel, d_inputs), tf.gather(tf.shape(features), [1, 0, 2])
      )
      d_bias = tf.cast(d_gates[3 * units :], bias.dtype)
      return (
        tf.transpose(d_features, [1, 0, 2]),
        tf.cast(d_kernel, bias.dtype),
        tf.cast(d_recurrent_kernel, bias.dtype),
        tf.reduce_sum(d_bias, axis=1),
        tf.transpose(d_state),
      )

    return tf.transpose(states[1:], [2, 0, 1]), gradient

  return recurrence


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
) -> tuple[tf.Tensor, tuple[tf.TensorArray, ...]]:
  """Returns the T + 1 states `[T + 1, H, B]` and what `_backward` needs."""
  dtype, units = state.dtype, state.shape[1]
  num_steps = tf.shape(features)[0]
  kernel, recurrent_kernel = (
    tf.transpose(kernel),
    tf.transpose(recurrent_kernel),
  )
  # `state` may know the number of rows where `features` does not.
  state = tf.ensure_shape(tf.transpose(state), [units, features.shape[2]])
  bias = bias[:, None] + tf.zeros_like(state)  # broadcast once, not every step

  def step(
    t: tf.Tensor, state: tf.Tensor, *arrays: tf.TensorArray
  ) -> tuple[Any, ...]:
    inputs = tf.cast(tf.matmul(kernel, features[t]), dtype)
    recurrent = tf.matmul(recurrent_kernel, tf.cast(state, features.dtype))
    recurrent = tf.cast(recurrent, dtype)
    input_n, input_zr = tf.split(inputs, [units, 2 * units])
    recurrent_zr, recurrent_n = tf.split(recurrent, [2 * units, units])
    zr = tf.sigmoid(input_zr + recurrent_zr)
    z, r = tf.split(zr, 2)
    recurrent_n += bias
    n = tf.tanh(input_n + r * recurrent_n)
    new_state = n + z * (state - n)
    new_state.set_shape(state.shape)
    values = (new_state, zr, n, recurrent_n)
    writes = [
      array.write(t + (array is arrays[0]), value)
      for array, value in zip(arrays, values, strict=True)
    ]
    return t + 1, new_state, *writes

  def array(size: tf.Tensor, rows: int) -> tf.TensorArray:
    shape = [rows, state.shape[1]]
    return tf.TensorArray(
      dtype, size, element_shape=shape, clear_after_read=False
    )

  states = array(num_steps + 1, units).write(0, state)
  saved = [array(num_steps, n * units) for n in (2, 1, 1)]
  _, _, states, *saved = tf.while_loop(
    lambda t, *_: t < num_steps, step, (0, state, states, *saved)
  )
  return states.stack(), tuple(saved)


def _backward(
  d_outputs: tf.Tensor,
  recurrent_kernel: tf.Tensor,
  states: tf.Tensor,
  saved: tuple[tf.TensorArray, ...],
) -> tuple[tf.Tensor, tf.Tensor]:
  """Propagates the gradient of the outputs `[T, H, B]` to the gates.

  Returns:
    The gradient `[T, 4H, B]` of what goes into the candidate, the update gate,
    the reset gate, and the recurrent part of the candidate; and the gradient of
    the initial state `[H, B]`. The first 3H rows are the gradient of the
    projected inputs, the last 3H rows that of the projected state.
  """
  dtype, product_dtype = d_outputs.dtype, recurrent_kernel.dtype
  units = recurrent_kernel.shape[0]
  num_steps = tf.shape(d_outputs)[0]

  def step(
    t: tf.Tensor, d_state: tf.Tensor, d_gates: tf.TensorArray
  ) -> tuple[Any, ...]:
    zr, n, recurrent_n = (array.read(t) for array in saved)
    z, r = tf.split(zr, 2)
    shape = d_state.shape
    d_state += d_outputs[t]
    d_kept = d_state * z
    d_n = tf.raw_ops.TanhGrad(y=n, dy=d_state - d_kept)
    d_z = tf.raw_ops.SigmoidGrad(y=z, dy=d_state * (states[t] - n))
    d_r = tf.raw_ops.SigmoidGrad(y=r, dy=d_n * recurrent_n)
    gates = [tf.cast(d, product_dtype) for d in (d_n, d_z, d_r, d_n * r)]
    gates = tf.concat(gates, axis=0)
    d_state = tf.matmul(recurrent_kernel, gates[units:])
    d_state = d_kept + tf.cast(d_state, dtype)
    d_state.set_shape(shape)
    return t - 1, d_state, d_gates.write(t, gates)

  d_state = tf.zeros_like(states[0])
  d_gates = tf.TensorArray(
    product_dtype, num_steps, element_shape=[4 * units, d_state.shape[1]]
  )
  _, d_state, d_gates = tf.while_loop(
    lambda t, *_: t >= 0, step, (num_steps - 1, d_state, d_gates)
  )
  return d_gates.stack(), d_state
