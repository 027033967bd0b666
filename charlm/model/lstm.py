"""Keras' LSTM as a layer of charlm's model; on a GPU it calls cuDNN."""

import keras
import tensorflow as tf

from charlm.model.layers import RecurrentLayer

_State = tuple[tf.Tensor, tf.Tensor]


class LSTM(RecurrentLayer, keras.layers.LSTM):
  """`keras.layers.LSTM`, whose state is the pair h, c of tensors `[B, H]`."""

  def __init__(self, units: int, name: str | None = None) -> None:
    super().__init__(units, return_sequences=True, return_state=True, name=name)

  def initial_state(self, batch_size: int | tf.Tensor) -> _State:
    """Returns zeros."""
    zeros = tf.zeros([batch_size, self.units])
    return zeros, zeros

  def call(
    self,
    sequences: tf.Tensor,
    initial_state: _State | None = None,
    mask: tf.Tensor | None = None,
    training: bool = False,
  ) -> tuple[tf.Tensor, _State]:
    """Runs over a window `[B, T, D]`, as `RecurrentLayer` says."""
    state = None if initial_state is None else list(initial_state)
    outputs, h, c = super().call(
      sequences, initial_state=state, mask=mask, training=training
    )
    return outputs, (h, c)

  def step(
    self, projected: tf.Tensor, state: _State
  ) -> tuple[tf.Tensor, _State]:
    """Takes one time step, by Keras' cell."""
    output, (h, c) = self.cell(projected, list(state))
    return output, (h, c)

  def matrices(self) -> list[tuple[keras.Variable, int]]:
    """Lists both kernels, each of four gates."""
    return [(self.cell.kernel, 4), (self.cell.recurrent_kernel, 4)]

  def keras_layer(self) -> keras.layers.Layer:
    """Returns a plain `keras.layers.LSTM`."""
    return keras.layers.LSTM(
      self.units, return_sequences=True, return_state=True, name=self.name
    )
