"""The gradient of the loop over time of the fused GRU.

Shapes: B rows of a batch, T time steps, F rows of the kernel (input features
or, with ids, entries of the vocabulary), H units, S time steps of a chunk.
Tensors are feature-major, as in `recurrence`.

A time step has 4H rows of gradients: of n, z and r before their activations,
then of the recurrent part of n. The input's product takes the first 3H (n, z,
r), the recurrent product the last 3H (z, r, n). Both are contiguous, since z
and r, which they share, are in the middle. Hence the input's kernel is rolled.
With layer normalisation, the rows H to 4H are with respect to the recurrent
product after normalisation and gain. 3H more rows (z, r, n) are with respect to
the recurrent product before normalisation and gain: 7H in all, and again the
last 3H are those that the recurrent product takes.
"""

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import tensorflow as tf

_Size: TypeAlias = "int | tf.Tensor"

# The largest S * B of a chunk of several steps: with a smaller one, the sums
# over chunks take longer, and with a larger one, memory grows. And the largest
# H * S * B, which shortens chunks where H is large.
_COLUMNS = 1024
_ENTRIES = 2**19


def chunk_length(num_rows: int, units: int) -> int:
  """Returns S for B rows and H units, unless T is smaller."""
  return max(1, min(_COLUMNS, _ENTRIES // units) // num_rows)


class _Carried(NamedTuple):
  """What goes back in time from one time step to the one before it."""

  d_state: tf.Tensor  # [H, B]
  d_features: Sequence[tf.TensorArray]  # of elements [F, B]; none for ids
  d_gain: Sequence[tf.Tensor]  # [3H, B]; none without layer normalisation


class Recurrence(NamedTuple):
  """What the loop over time read and computed.

  The first four are arguments of `recurrence`. The kernels, and features that
  are not ids, are in the dtype of the products.
  """

  features: tf.Tensor
  kernel: tf.Tensor
  recurrent_kernel: tf.Tensor
  gain: Sequence[tf.Tensor]
  states: tf.TensorArray  # of T + 1 elements [H, B]
  # Of each time step: zr [2H, B], n and recurrent_n [H, B], and the result of
  # `normalise`, its gates joined, and its factor: [3H, B] and [3, 1, B].
  saved: Sequence[tf.TensorArray]

  @property
  def depth(self) -> _Size:
    """F."""
    return self.kernel.shape[0] or tf.shape(self.kernel)[0]

  @property
  def by_id(self) -> bool:
    """Whether the features are ids."""
    return self.features.dtype.is_integer

  def gradients(self, d_outputs: tf.Tensor) -> tuple[object, ...]:
    """Propagates the gradient of the outputs `[B, T, H]` back in time.

    A chunk of time steps adds to the gradient of a kernel by one product. That
    is faster than a product for each step, and takes less memory than one for
    all of them.

    Returns the gradients of features (None if they are ids), kernel, recurrent
      kernel, bias, state, and gain.
    """
    dtype, units = d_outputs.dtype, self.states.element_shape[0]
    num_steps = self.features.shape[0] or tf.shape(self.features)[0]
    size = 1  # divides any T: XLA needs a static size, and T may not be static
    if isinstance(num_steps, int):
      # Where the batch size is unknown, `Config`'s default.
      size = min(chunk_length(self.features.shape[-1] or 64, units), num_steps)
    num_chunks, rest = num_steps // size, num_steps % size

    def step(
      i: tf.Tensor, sums: Sequence[tf.Tensor], carried: _Carried
    ) -> tuple[tf.Tensor, Sequence[tf.Tensor], _Carried]:
      """Goes back over the chunk `i`."""
      sums, carried = self._chunk(
        d_outputs=d_outputs,
        start=rest + i * size,
        size=size,
        sums=sums,
        carried=carried,
      )
      return i - 1, sums, carried

    shapes = [[3 * units, self.depth], [units, 3 * units], [units]]
    sums: Sequence[tf.Tensor] = [tf.zeros(shape, dtype) for shape in shapes]
    zeros = tf.zeros_like(self.states.read(0))  # [H, B]
    array = [] if self.by_id else [tf.TensorArray(self.kernel.dtype, num_steps)]
    carried = _Carried(
      d_state=zeros,
      d_features=array,
      d_gain=[tf.concat([zeros] * 3, axis=0) for _ in self.gain],
    )
    _, sums, carried = tf.while_loop(
      lambda i, *_: i >= 0,
      step,
      (num_chunks - 1, sums, carried),
      parallel_iterations=1,
    )
    if isinstance(rest, int) and rest:
      sums, carried = self._chunk(
        d_outputs=d_outputs, start=0, size=rest, sums=sums, carried=carried
      )
    d_x = carried.d_features
    d_kernel, d_recurrent, d_bias = sums
    # In the order of the arguments of the recurrence.
    return (
      None if self.by_id else tf.cast(d_x[0].stack(), dtype),
      tf.transpose(d_kernel),
      d_recurrent,
      d_bias,
      tf.transpose(carried.d_state),
      [tf.reduce_sum(gradient, 1) for gradient in carried.d_gain],
    )

  def _chunk(
    self,
    *,
    d_outputs: tf.Tensor,
    start: _Size,
    size: _Size,
    sums: Sequence[tf.Tensor],
    carried: _Carried,
  ) -> tuple[Sequence[tf.Tensor], _Carried]:
    """Goes back over the `size` time steps from `start` on.

    Adds to the sums, which are the gradients of kernel `[3H, F]`, recurrent
    kernel and bias.
    """
    dtype, units = d_outputs.dtype, self.states.element_shape[0]
    d_outputs = tf.slice(d_outputs, [0, start, 0], [-1, size, -1])
    d_outputs = tf.transpose(d_outputs, [1, 2, 0])  # [S, H, B]
    d_gates, carried = self._propagate(
      d_outputs=d_outputs, start=start, size=size, carried=carried
    )
    previous = self.states.gather(start + tf.range(size))
    previous = _columns(tf.cast(previous, d_gates.dtype))  # [H, S * B]
    if self.by_id:
      ids = tf.reshape(tf.slice(self.features, [start, 0], [size, -1]), [-1])
      inputs = tf.one_hot(ids, self.depth, dtype=d_gates.dtype)
    else:
      features = tf.slice(self.features, [start, 0, 0], [size, -1, -1])
      inputs = tf.transpose(_columns(features))  # [S * B, F]
    d_kernel = tf.matmul(d_gates[: 3 * units], inputs)
    d_recurrent = tf.matmul(previous, d_gates[-3 * units :], transpose_b=True)
    d_bias = tf.reduce_sum(tf.cast(d_gates[3 * units : 4 * units], dtype), 1)
    pairs = zip(sums, (d_kernel, d_recurrent, d_bias), strict=True)
    return [total + tf.cast(x, dtype) for total, x in pairs], carried

  def _propagate(
    self, *, d_outputs: tf.Tensor, start: _Size, size: _Size, carried: _Carried
  ) -> tuple[tf.Tensor, _Carried]:
    """Propagates the gradient of a chunk's outputs `[S, H, B]` back in time.

    Returns the gradients `[4H or 7H, S * B]` of the steps, and what it carries.
    """
    product_dtype, units = self.kernel.dtype, self.states.element_shape[0]
    shape = self.states.element_shape
    zeros = tf.zeros_like(self.states.read(0)[:1])  # [1, B]
    # As columns, [3H, B], broadcast once for a chunk.
    gains = [g[:, None] + zeros for g in self.gain]

    def step(
      i: tf.Tensor, d_gates: tf.TensorArray, carried: _Carried
    ) -> tuple[tf.Tensor, tf.TensorArray, _Carried]:
      """Goes back over the time step `start + i`."""
      t, (d_state, d_features, d_gain) = start + i, carried
      # [2H, B], [H, B], [H, B], and with a gain [3H, B] and [3, 1, B]
      zr, n, recurrent_n, *norm = (array.read(t) for array in self.saved)
      z, r = tf.split(zr, 2)
      # The state after step t is an output, and what step t + 1 started from.
      d_state += d_outputs[i]
      d_kept = d_state * z
      # TensorFlow's own operations for these gradients pass over memory once.
      d_n = tf.raw_ops.TanhGrad(y=n, dy=d_state - d_kept)
      d_z = tf.raw_ops.SigmoidGrad(y=z, dy=d_state * (self.states.read(t) - n))
      d_r = tf.raw_ops.SigmoidGrad(y=r, dy=d_n * recurrent_n)
      rows = [d_n, d_z, d_r, d_n * r]
      if gains:
        d_scaled = tf.concat(rows[1:], axis=0)
        normal, scale = norm
        d_normal = d_scaled * gains[0]
        rows.append(_normalise_gradient(normal, scale, d_normal))
        d_gain = [d_gain[0] + d_scaled * normal]
      rows = tf.concat([tf.cast(d, product_dtype) for d in rows], axis=0)
      product = tf.matmul(self.recurrent_kernel, rows[-3 * units :])
      d_state = d_kept + tf.cast(product, d_kept.dtype)
      d_state.set_shape(shape)  # a loop's variables keep their shapes
      d_inputs = rows[: 3 * units]
      d_features = [a.write(t, self.kernel @ d_inputs) for a in d_features]
      carried = _Carried(d_state, d_features, d_gain)
      return i - 1, d_gates.write(i, rows), carried

    row_shape = [(7 if gains else 4) * units, shape[1]]
    d_gates = tf.TensorArray(product_dtype, size, element_shape=row_shape)
    _, d_gates, carried = tf.while_loop(
      lambda i, *_: i >= 0,
      step,
      (size - 1, d_gates, carried),
      parallel_iterations=1,
    )
    return _columns(d_gates.stack()), carried


def _normalise_gradient(
  normal: tf.Tensor, scale: tf.Tensor, gradient: tf.Tensor
) -> tf.Tensor:
  """Returns the gradient `[3H, B]` of the argument of `normalise`."""
  units = normal.shape[0] // 3
  normal, gradient = (tf.reshape(y, [3, units, -1]) for y in (normal, gradient))
  gradient -= tf.reduce_mean(gradient, axis=1, keepdims=True)
  product = tf.reduce_mean(gradient * normal, axis=1, keepdims=True)
  return tf.reshape((gradient - normal * product) * scale, [3 * units, -1])


def _columns(x: tf.Tensor) -> tf.Tensor:
  """Sets the time steps of x `[S, N, B]` side by side: `[N, S * B]`."""
  num_rows = x.shape[1] or tf.shape(x)[1]
  return tf.reshape(tf.transpose(x, [1, 0, 2]), [num_rows, -1])
