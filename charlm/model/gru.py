"""The GRU: its equation, forward and back, and its layers.

Shapes: B rows of a batch, D input features, H units. The gates are the update
gate z, the reset gate r, and the candidate n. Keras has them in the order z, r,
n, and so has the recurrent product. The input's product has n, z, r: so the
rows of a step's gradients, of n, z and r before their activations, then of the
recurrent part of n, are contiguous for both products.
"""

import keras
import tensorflow as tf

from charlm.model.scan import Cell, CellLayer, Gradients, ScannedLayer, Tensors


class GRUCell(Cell):
  """A time step of H units; its parameter is the candidate's recurrent bias."""

  def __init__(self, units: int) -> None:
    self.units = units
    self.num_inputs = self.num_recurrent = 3 * units
    self.num_gradients = 4 * units
    self.kept = (2 * units, units, units)  # zr, n, the recurrent part of n

  def step(
    self,
    inputs: tf.Tensor,
    recurrent: tf.Tensor,
    state: Tensors,
    parameters: Tensors,
    axis: int = 0,
  ) -> tuple[Tensors, Tensors]:
    """Takes a time step, as `Cell` says."""
    units, (h,), (bias,) = self.units, state, parameters
    input_n, input_zr = tf.split(inputs, [units, 2 * units], axis)
    zr, recurrent_n = tf.split(recurrent, [2 * units, units], axis)
    zr = tf.sigmoid(input_zr + zr)
    z, r = tf.split(zr, 2, axis)
    recurrent_n += bias
    n = tf.tanh(input_n + r * recurrent_n)
    h = n + z * (h - n)  # one product less than (1 - z) n + z h
    return [h], [zr, n, recurrent_n]

  def step_back(
    self, kept: Tensors, before: Tensors, d_after: Tensors
  ) -> tuple[Tensors, Gradients]:
    """Takes the step back, as `Cell` says."""
    (zr, n, recurrent_n), (h,), (d_h,) = kept, before, d_after
    z, r = tf.split(zr, 2)
    d_kept = d_h * z
    # TensorFlow's own operations for these gradients pass over memory once.
    d_n = tf.raw_ops.TanhGrad(y=n, dy=d_h - d_kept)
    d_z = tf.raw_ops.SigmoidGrad(y=z, dy=d_h * (h - n))
    d_r = tf.raw_ops.SigmoidGrad(y=r, dy=d_n * recurrent_n)
    return [d_n, d_z, d_r, d_n * r], [d_kept]

  def parameter_gradients(
    self, rows: tf.Tensor, dtype: tf.DType
  ) -> list[tf.Tensor]:
    """Returns the bias' gradient, a sum of the recurrent part of n."""
    return [tf.reduce_sum(tf.cast(rows[3 * self.units :], dtype), 1)]


class KerasGRU(CellLayer, keras.layers.GRU):
  """Keras' layer, which calls cuDNN on a GPU."""

  plain = keras.layers.GRU

  def equation(self) -> Cell:
    """Returns the GRU's."""
    return GRUCell(self.units)

  def parameters(self) -> list[tf.Tensor]:
    """Returns the candidate's recurrent bias `[H]`."""
    return [tf.convert_to_tensor(self.cell.bias)[1, -self.units :]]

  def project(self, inputs: tf.Tensor) -> tf.Tensor:
    """Returns what inputs `[N, D]` add to n, z and r, `[N, 3H]`."""
    projected = tf.matmul(inputs, self.cell.kernel) + self._input_bias()
    return tf.roll(projected, self.units, axis=1)

  def _input_bias(self) -> tf.Tensor:
    """Returns the sum of both biases `[1, 3H]`; of n, only the input's."""
    bias = tf.convert_to_tensor(self.cell.bias)
    # The reset gate scales the candidate's recurrent bias: it is added later.
    recurrent = bias[1:, : -self.units]
    return bias[:1] + tf.pad(recurrent, [[0, 0], [0, self.units]])


class FusedGRU(ScannedLayer, KerasGRU):
  """The GRU by `scan`, which trains faster than Keras' on CPUs."""

  def input_kernel(self) -> tf.Tensor:
    """Returns kernel and bias, for n, z and r."""
    kernel = tf.concat([self.cell.kernel, self._input_bias()], axis=0)
    return tf.roll(kernel, self.units, axis=1)
