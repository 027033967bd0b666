"""The GRU: a layer that trains faster than Keras' on CPUs, and Keras' own.

Shapes: B rows of a batch, T time steps, D input features, H units, V vocabulary
size. The gates are the update gate z, the reset gate r, and the candidate n.
"""

from collections.abc import Sequence
from typing import TypeAlias

import keras
import tensorflow as tf

from charlm.errors import InputError
from charlm.model.gru_equation import next_state
from charlm.model.gru_loop import recurrence
from charlm.model.layers import RecurrentLayer
from charlm.system.devices import Choice

# The layer of --gru=auto, in training and in scoring: Keras' layer calls cuDNN
# on a GPU, and is slower elsewhere.
_GRU_KIND = Choice("fused", "keras")
# Whether Keras' layer may replace the fused one for bfloat16: TensorFloat-32
# rounds less.
_KERAS_FOR_BFLOAT16 = Choice(False, True)
# Up to this many entries of the vocabulary the fused layer projects each entry
# once, into a table, and looks positions up. Above, it projects each position:
# a table's gradient is a product with one-hot rows, whose cost grows with the
# vocabulary (BUILD.md).
MAX_TABLE = 400

# As in Keras, a state may be a list of one.
_State: TypeAlias = "tf.Tensor | Sequence[tf.Tensor] | None"


class KerasGRU(RecurrentLayer, keras.layers.GRU):
  """Keras' layer, which calls cuDNN on a GPU."""

  def __init__(self, units: int, name: str | None = None) -> None:
    super().__init__(units, return_sequences=True, return_state=True, name=name)

  def project(self, inputs: tf.Tensor) -> tf.Tensor:
    """Returns what inputs `[N, D]` add to the gates, `[N, 3H]`."""
    return tf.matmul(inputs, self.cell.kernel) + self._input_bias()

  def step(
    self, projected: tf.Tensor, state: tf.Tensor
  ) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the state `[B, H]` after an input, twice: it is the output."""
    input_zr, input_n = tf.split(
      projected, [2 * self.units, self.units], axis=1
    )
    gain = getattr(self, "gain", None)
    state, _ = next_state(
      input_n=input_n,
      input_zr=input_zr,
      recurrent=tf.matmul(state, self.cell.recurrent_kernel),
      bias=tf.convert_to_tensor(self.cell.bias)[1, -self.units :],
      gain=[] if gain is None else [tf.convert_to_tensor(gain)],
      state=state,
      axis=1,
    )
    return state, state

  def matrices(self) -> list[tuple[keras.Variable, int]]:
    """Lists both kernels, each of three gates."""
    return [(self.cell.kernel, 3), (self.cell.recurrent_kernel, 3)]

  def keras_layer(self) -> keras.layers.Layer | None:
    """Returns a plain `keras.layers.GRU`."""
    return keras.layers.GRU(
      self.units, return_sequences=True, return_state=True, name=self.name
    )

  def _input_bias(self) -> tf.Tensor:
    """Returns the sum of both biases `[1, 3H]`; of n, only the input's."""
    bias = tf.convert_to_tensor(self.cell.bias)
    # The reset gate scales the candidate's recurrent bias: it is added later.
    recurrent = bias[1:, : -self.units]
    return bias[:1] + tf.pad(recurrent, [[0, 0], [0, self.units]])


class FusedGRU(KerasGRU):
  """A `keras.layers.GRU` with the same weights and a faster loop over time.

  By default it computes what keras.layers.GRU(units,
  return_sequences=True, return_state=True) does, and their weights and
  checkpoints are interchangeable (except .weights.h5 files of functional
  models, which name layers by their class). Its gradients cannot be
  differentiated again.

  With layer normalisation (Ba et al. 2016), what the previous state adds to a
  gate is normalised to mean 0 and variance 1 over the gate's units, then
  multiplied by a gain for each unit of each gate.
  """

  options = ("precision", "layer_norm")
  fast_with_xla = True

  def __init__(
    self,
    units: int,
    precision: str = "float32",
    layer_norm: bool = False,
    *,
    name: str | None = None,
    dtype: keras.DTypePolicy | str | None = None,
  ) -> None:
    """Makes the layer; other arguments of Keras' layer are refused.

    Args:
      units: H.
      precision: "bfloat16" rounds, in training alone, factors and result of
        each matrix product to bfloat16. Of the product that makes the table of
        `call_ids`, it rounds the result alone. "float32" rounds nothing.
      layer_norm: whether to normalise; this adds the weight `gain`.
      name: of the layer, as in Keras.
      dtype: of the weights and of the outputs, as in Keras.

    Raises ValueError: another precision.
    """
    if precision not in ("float32", "bfloat16"):
      raise ValueError(f"precision is {precision!r}: give float32 or bfloat16")
    keras.layers.GRU.__init__(
      self,
      units,
      return_sequences=True,
      return_state=True,
      name=name,
      dtype=dtype,
    )
    self.precision, self.layer_norm = precision, layer_norm
    self.gain: keras.Variable | None = None  # [3H], for z, r, n

  def build(
    self,
    sequences_shape: Sequence[int | None],
    initial_state_shape: Sequence[int | None] | None = None,
  ) -> None:
    """Makes the weights; Keras calls this."""
    # Keras finds these arguments by their names, as for `summary`.
    super().build(sequences_shape, initial_state_shape)
    if self.layer_norm:
      self.gain = self.add_weight([3 * self.units], "ones", name="gain")

  def call(
    self,
    sequences: tf.Tensor,
    initial_state: _State = None,
    training: bool = False,
  ) -> tuple[tf.Tensor, tf.Tensor]:
    """Runs over a window `[B, T, D]`, T at least 1, from a state `[B, H]`.

    Without `initial_state` it starts from zeros. `precision` acts in training
    only. Returns the outputs `[B, T, H]` and the last of them, the state
    `[B, H]`.
    """
    if sequences.shape[0] == 1 and not training:
      # One text: a product for all time steps is faster than one in each. Its
      # rows are a table, in which a time step is an id.
      num_steps = sequences.shape[1] or tf.shape(sequences)[1]
      return self._run(
        features=tf.range(num_steps)[:, None],
        kernel=self.project(sequences[0]),
        state=initial_state,
        training=training,
      )
    # The bias is the kernel's row for one more feature, which is always 1.
    features = tf.concat([sequences, tf.ones_like(sequences[..., :1])], axis=2)
    features = tf.transpose(features, [1, 2, 0])  # [T, D + 1, B]
    kernel = tf.concat([self.cell.kernel, self._input_bias()], axis=0)
    return self._run(
      features=features, kernel=kernel, state=initial_state, training=training
    )

  def keras_layer(self) -> keras.layers.Layer | None:
    """Returns a plain `keras.layers.GRU`, which has no layer normalisation."""
    return None if self.layer_norm else super().keras_layer()

  def call_ids(
    self,
    ids: tf.Tensor,
    embeddings: tf.Tensor,
    initial_state: _State = None,
    training: bool = False,
  ) -> tuple[tf.Tensor, tf.Tensor]:
    """Runs over a window of ids: `call(tf.gather(embeddings, ids))`, faster.

    If V is at most `MAX_TABLE`, each embedding is projected once, in a
    table, not at each occurrence.

    Ids `[B, T]` must be below V, the number of embeddings `[V, D]`: others
    give an error or a wrong result.
    """
    embeddings = tf.convert_to_tensor(embeddings)
    if (embeddings.shape[0] or 0) > MAX_TABLE:
      sequences = tf.gather(embeddings, ids)
      return self.call(sequences, initial_state, training=training)
    table = self.project(embeddings)
    return self._run(
      features=tf.transpose(ids),
      kernel=table,
      state=initial_state,
      training=training,
    )

  def _run(
    self,
    *,
    features: tf.Tensor,
    kernel: tf.Tensor,
    state: _State,
    training: bool,
  ) -> tuple[tf.Tensor, tf.Tensor]:
    """Runs over features `[T, D + 1, B]` with a kernel `[D + 1, 3H]`.

    Or over ids `[T, B]` with a table `[V, 3H]` in place of the kernel.
    """
    if state is None:
      state = tf.zeros([tf.shape(features)[-1], self.units], self.compute_dtype)
    (state,) = tf.nest.flatten(state)
    short = training and self.precision == "bfloat16"
    outputs = recurrence(
      features=features,
      # From z, r, n to n, z, r.
      kernel=tf.roll(kernel, self.units, axis=1),
      recurrent_kernel=tf.convert_to_tensor(self.cell.recurrent_kernel),
      bias=tf.convert_to_tensor(self.cell.bias)[1, -self.units :],
      state=tf.cast(state, self.compute_dtype),
      gain=[] if self.gain is None else [tf.convert_to_tensor(self.gain)],
      product_dtype=tf.as_dtype("bfloat16" if short else self.compute_dtype),
    )
    outputs.set_shape([features.shape[-1], features.shape[0], self.units])
    return outputs, outputs[:, -1]


def build_gru(
  units: int,
  *,
  name: str,
  gru: str = "auto",
  precision: str = "float32",
  layer_norm: bool = False,
) -> KerasGRU:
  """Returns the layer that `gru` names: `fused`, `keras`, or `auto`.

  `auto` is Keras' layer on a GPU, unless there is layer normalisation. There,
  that layer also serves bfloat16: it rounds less.

  Raises:
    ValueError: another `gru` or, of the fused layer, another `precision`.
    InputError: `keras`, with what needs `fused`.
  """
  if gru not in ("auto", "fused", "keras"):
    raise ValueError(f"gru is {gru!r}: give auto, fused or keras")
  rounded = precision != "float32"
  if gru == "keras" and (
    layer_norm or (rounded and not _KERAS_FOR_BFLOAT16.here)
  ):
    raise InputError(
      "--gru=keras supports no --layer_norm, and without a GPU no "
      "--precision=bfloat16: give --gru=fused, or leave those out"
    )
  if gru == "auto":
    gru = "fused" if layer_norm else _GRU_KIND.here
  if gru == "fused":
    return FusedGRU(units, precision, layer_norm, name=name)
  return KerasGRU(units, name=name)
