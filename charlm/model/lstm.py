"""The LSTM: its equation, forward and back, and its layers.

Shapes: B rows of a batch, D input features, H units. The gates are the input
gate i, the forget gate f, the candidate g, and the output gate o. Both products
and the rows of a step's gradients have them in this order, that of Keras. The
state is h, the output, and c.
"""

from collections.abc import Sequence

import keras
import tensorflow as tf

from charlm.model.layers import RecurrentLayer
from charlm.model.scan import Cell, ScannedLayer, take_step

_State = tuple[tf.Tensor, tf.Tensor]


class LSTMCell(Cell):
  """A time step of H units."""

  def __init__(self, units: int) -> None:
    self.units = units
    self.num_inputs = self.num_recurrent = self.num_gradients = 4 * units
    self.kept = (2 * units, units, units, units)  # i and f, g, o, tanh c

  def step(
    self,
    inputs: tf.Tensor,
    recurrent: tf.Tensor,
    state: Sequence[tf.Tensor],
    parameters: Sequence[tf.Tensor],
    axis: int = 0,
  ) -> tuple[Sequence[tf.Tensor], Sequence[tf.Tensor]]:
    """Takes a time step, as `Cell` says."""
    units, (_, c) = self.units, state
    gates = inputs + recurrent
    i_f, g, o = tf.split(gates, [2 * units, units, units], axis)
    i_f, g, o = tf.sigmoid(i_f), tf.tanh(g), tf.sigmoid(o)
    i, f = tf.split(i_f, 2, axis)
    c = f * c + i * g
    tanh_c = tf.tanh(c)
    return [o * tanh_c, c], [i_f, g, o, tanh_c]

  def step_back(
    self,
    kept: Sequence[tf.Tensor],
    before: Sequence[tf.Tensor],
    d_after: Sequence[tf.Tensor],
  ) -> tuple[Sequence[tf.Tensor], Sequence[tf.Tensor | None]]:
    """Takes the step back, as `Cell` says."""
    (i_f, g, o, tanh_c), (_, c), (d_h, d_c) = kept, before, d_after
    i, f = tf.split(i_f, 2)
    # TensorFlow's own operations for these gradients pass over memory once.
    d_o = tf.raw_ops.SigmoidGrad(y=o, dy=d_h * tanh_c)
    d_c += tf.raw_ops.TanhGrad(y=tanh_c, dy=d_h * o)
    d_i = tf.raw_ops.SigmoidGrad(y=i, dy=d_c * g)
    d_f = tf.raw_ops.SigmoidGrad(y=f, dy=d_c * c)
    d_g = tf.raw_ops.TanhGrad(y=g, dy=d_c * i)
    return [d_i, d_f, d_g, d_o], [None, d_c * f]


class KerasLSTM(RecurrentLayer, keras.layers.LSTM):
  """Keras' layer, which calls cuDNN on a GPU."""

  def __init__(self, units: int, name: str | None = None) -> None:
    super().__init__(units, return_sequences=True, return_state=True, name=name)

  def initial_state(self, batch_size: int | tf.Tensor) -> _State:
    """Returns zeros for h and c."""
    zeros = tf.zeros([batch_size, self.units])
    return zeros, zeros

  def call(
    self,
    sequences: tf.Tensor,
    initial_state: _State | None = None,
    training: bool = False,
  ) -> tuple[tf.Tensor, _State]:
    """Runs over a window `[B, T, D]`, as `RecurrentLayer` says."""
    state = None if initial_state is None else list(initial_state)
    outputs, h, c = super().call(
      sequences, initial_state=state, training=training
    )
    return outputs, (h, c)

  def project(self, inputs: tf.Tensor) -> tf.Tensor:
    """Returns what inputs `[N, D]` add to the gates, `[N, 4H]`."""
    return tf.matmul(inputs, self.cell.kernel) + self.cell.bias

  def step(
    self, projected: tf.Tensor, state: _State
  ) -> tuple[tf.Tensor, _State]:
    """Returns the output `[B, H]` and the state after an input."""
    return take_step(self, LSTMCell(self.units), [], projected, state)

  def matrices(self) -> list[tuple[keras.Variable, int]]:
    """Lists both kernels, each of four gates."""
    return [(self.cell.kernel, 4), (self.cell.recurrent_kernel, 4)]

  def keras_layer(self) -> keras.layers.Layer:
    """Returns a plain `keras.layers.LSTM`."""
    return keras.layers.LSTM(
      self.units, return_sequences=True, return_state=True, name=self.name
    )


class FusedLSTM(ScannedLayer, KerasLSTM):
  """The LSTM by `scan`, which trains faster than Keras' on CPUs."""

  def __init__(
    self,
    units: int,
    precision: str = "float32",
    *,
    name: str | None = None,
    dtype: keras.DTypePolicy | str | None = None,
  ) -> None:
    """Makes the layer; other arguments of Keras' layer are refused."""
    keras.layers.LSTM.__init__(
      self,
      units,
      return_sequences=True,
      return_state=True,
      name=name,
      dtype=dtype,
    )
    self.precision = precision

  def equation(self) -> Cell:
    """Returns the LSTM's."""
    return LSTMCell(self.units)

  def input_kernel(self) -> tf.Tensor:
    """Returns kernel and bias."""
    kernel = tf.convert_to_tensor(self.cell.kernel)
    return tf.concat([kernel, self.cell.bias[None]], axis=0)
