"""The LSTM: its equation, forward and backward, and its layers.

    i, f, o = sigmoid(W x + U h + b)  input, forget and output gate
    g = tanh(W x + U h + b)           candidate
    c = f c + i g
    h = o tanh(c)

Each gate has its own rows of W, U and b, in Keras' order i, f, g, o; so do the
gradients of a step. The state is (h, c).

Shapes: B rows of a batch, D input features, H units.
"""

import keras
import tensorflow as tf

from charlm.model.scan import Cell, CellLayer, Gradients, ScannedLayer, Tensors

_State = tuple[tf.Tensor, tf.Tensor]


class LSTMCell(Cell):
  """A time step of H units."""

  def __init__(self, units: int) -> None:
    self.units = units
    self.num_inputs = self.num_recurrent = self.num_gradients = 4 * units
    self.saved = (2 * units, units, units, units)  # i and f, g, o, tanh(c)

  def step(
    self,
    inputs: tf.Tensor,
    recurrent: tf.Tensor,
    state: Tensors,
    parameters: Tensors,
    axis: int = 0,
  ) -> tuple[Tensors, Tensors]:
    """Takes a time step, as `Cell.step` describes."""
    units, (_, c) = self.units, state
    gates = inputs + recurrent
    i_f, g, o = tf.split(gates, [2 * units, units, units], axis)
    i_f, g, o = tf.sigmoid(i_f), tf.tanh(g), tf.sigmoid(o)
    i, f = tf.split(i_f, 2, axis)
    c = f * c + i * g
    tanh_c = tf.tanh(c)
    return [o * tanh_c, c], [i_f, g, o, tanh_c]

  def step_backward(
    self, saved: Tensors, before: Tensors, d_after: Tensors
  ) -> tuple[Tensors, Gradients]:
    """Backpropagates through a step, as `Cell.step_backward` describes."""
    (i_f, g, o, tanh_c), (_, c), (d_h, d_c) = saved, before, d_after
    i, f = tf.split(i_f, 2)
    # TensorFlow's operations for these gradients make one pass over memory.
    d_o = tf.raw_ops.SigmoidGrad(y=o, dy=d_h * tanh_c)
    d_c += tf.raw_ops.TanhGrad(y=tanh_c, dy=d_h * o)
    d_i = tf.raw_ops.SigmoidGrad(y=i, dy=d_c * g)
    d_f = tf.raw_ops.SigmoidGrad(y=f, dy=d_c * c)
    d_g = tf.raw_ops.TanhGrad(y=g, dy=d_c * i)
    return [d_i, d_f, d_g, d_o], [None, d_c * f]


class KerasLSTM(CellLayer, keras.layers.LSTM):
  """Keras' LSTM, which calls cuDNN on a GPU."""

  plain = keras.layers.LSTM

  def equation(self) -> Cell:
    """Returns an `LSTMCell`."""
    return LSTMCell(self.units)

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
    """Runs over a window `[B, T, D]`, as `RecurrentLayer` describes."""
    state = None if initial_state is None else list(initial_state)
    outputs, h, c = super().call(
      sequences, initial_state=state, training=training
    )
    return outputs, (h, c)

  def project(self, inputs: tf.Tensor) -> tf.Tensor:
    """Returns the input products `[N, 4H]` of inputs `[N, D]`."""
    return tf.matmul(inputs, self.cell.kernel) + self.cell.bias


class FusedLSTM(ScannedLayer, KerasLSTM):
  """The LSTM in `scan`, which trains faster than Keras' on CPUs."""

  def input_kernel(self) -> tf.Tensor:
    """Returns the kernel above the bias."""
    kernel = tf.convert_to_tensor(self.cell.kernel)
    return tf.concat([kernel, self.cell.bias[None]], axis=0)
