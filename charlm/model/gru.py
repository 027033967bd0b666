"""The GRU: its equation, forward and backward, and its layers.

    z = sigmoid(W_z x + U_z h + b_z)       update gate
    r = sigmoid(W_r x + U_r h + b_r)       reset gate
    n = tanh(W_n x + b_n + r (U_n h + c))  candidate, with a recurrent bias c
    h = (1 - z) n + z h

Shapes: B rows of a batch, D input features, H units. Keras orders the gates z,
r, n, and so does the recurrent product U h. The input product W x has the order
n, z, r. The gradients of a step are stored as n, z, r, U_n h + c: the first
three belong to the input product, the last three to the recurrent product, so
both are contiguous.
"""

import keras
import tensorflow as tf

from charlm.model.scan import Cell, CellLayer, Gradients, ScannedLayer, Tensors


class GRUCell(Cell):
  """A time step of H units; its parameter is the recurrent bias c."""

  def __init__(self, units: int) -> None:
    self.units = units
    self.num_inputs = self.num_recurrent = 3 * units
    self.num_gradients = 4 * units
    self.saved = (2 * units, units, units)  # zr, n, U_n h + c

  def step(
    self,
    inputs: tf.Tensor,
    recurrent: tf.Tensor,
    state: Tensors,
    parameters: Tensors,
    axis: int = 0,
  ) -> tuple[Tensors, Tensors]:
    """Takes a time step, as `Cell.step` describes."""
    units, (h,), (bias,) = self.units, state, parameters
    input_n, input_zr = tf.split(inputs, [units, 2 * units], axis)
    zr, recurrent_n = tf.split(recurrent, [2 * units, units], axis)
    zr = tf.sigmoid(input_zr + zr)
    z, r = tf.split(zr, 2, axis)
    recurrent_n += bias
    n = tf.tanh(input_n + r * recurrent_n)
    h = n + z * (h - n)  # one multiplication fewer than (1 - z) n + z h
    return [h], [zr, n, recurrent_n]

  def step_backward(
    self, saved: Tensors, before: Tensors, d_after: Tensors
  ) -> tuple[Tensors, Gradients]:
    """Backpropagates through a step, as `Cell.step_backward` describes."""
    (zr, n, recurrent_n), (h,), (d_h,) = saved, before, d_after
    z, r = tf.split(zr, 2)
    d_before = d_h * z
    # TensorFlow's operations for these gradients make one pass over memory.
    d_n = tf.raw_ops.TanhGrad(y=n, dy=d_h - d_before)
    d_z = tf.raw_ops.SigmoidGrad(y=z, dy=d_h * (h - n))
    d_r = tf.raw_ops.SigmoidGrad(y=r, dy=d_n * recurrent_n)
    return [d_n, d_z, d_r, d_n * r], [d_before]

  def parameter_gradients(
    self, rows: tf.Tensor, dtype: tf.DType
  ) -> list[tf.Tensor]:
    """Returns the gradient of c: the sum over that of U_n h + c."""
    return [tf.reduce_sum(tf.cast(rows[3 * self.units :], dtype), 1)]


class KerasGRU(CellLayer, keras.layers.GRU):
  """Keras' GRU, which calls cuDNN on a GPU."""

  plain = keras.layers.GRU

  def equation(self) -> Cell:
    """Returns a `GRUCell`."""
    return GRUCell(self.units)

  def parameters(self) -> list[tf.Tensor]:
    """Returns the candidate's recurrent bias c `[H]`."""
    return [tf.convert_to_tensor(self.cell.bias)[1, -self.units :]]

  def project(self, inputs: tf.Tensor) -> tf.Tensor:
    """Returns the input products `[N, 3H]` of inputs `[N, D]`."""
    projected = tf.matmul(inputs, self.cell.kernel) + self._input_bias()
    return tf.roll(projected, self.units, axis=1)

  def _input_bias(self) -> tf.Tensor:
    """Returns the biases of z, r and n, `[1, 3H]`, without the recurrent c."""
    bias = tf.convert_to_tensor(self.cell.bias)
    # The step adds c, since the reset gate scales it.
    recurrent = bias[1:, : -self.units]
    return bias[:1] + tf.pad(recurrent, [[0, 0], [0, self.units]])


class FusedGRU(ScannedLayer, KerasGRU):
  """The GRU in `scan`, which trains faster than Keras' on CPUs."""

  def input_kernel(self) -> tf.Tensor:
    """Returns kernel and bias in the order n, z, r."""
    kernel = tf.concat([self.cell.kernel, self._input_bias()], axis=0)
    return tf.roll(kernel, self.units, axis=1)
