"""What the model is: embedding, GRU layers, log-probabilities.

Shapes: B rows of a batch, T inputs of a window, D embedding_dim,
H rnn_units, V vocabulary size. A state is a tuple of one tensor `[B, H]` per
layer.
"""

import math
from collections.abc import Iterator, Sequence
from typing import TypeAlias

import keras
import tensorflow as tf

from charlm.config import Config
from charlm.errors import InputError
from charlm.model.gru import FusedGRU, project, step_gru
from charlm.model.output import chunked_nats
from charlm.system.choices import GRU_KIND, MAX_LOGITS

# The fields of a config that give the weights their shapes.
SIZES = ("embedding_dim", "rnn_units", "num_layers", "layer_norm")

State = tuple[tf.Tensor, ...]
Spec = tuple[str, str, tuple[int, ...]]  # of a weight: owner, name and shape
# `[2]` integers, which determine dropout masks.
_Seed: TypeAlias = tf.Tensor | None


class GRULM(keras.Model):
  """Embedding, GRU layers, and a dense layer with log-softmax.

  Dropout acts on the embedding's and on each GRU layer's output.
  """

  def __init__(
    self,
    vocab_size: int = 256,
    embedding_dim: int = 256,
    rnn_units: int = 128,
    num_layers: int = 1,
    dropout_rate: float = 0.0,
    gru: str = "auto",
    precision: str = "float32",
    layer_norm: bool = False,
    **kwargs: object,
  ) -> None:
    """Takes the sizes. The defaults are those of the reference, the notebook.

    `Config` has the sizes with which the reference trains it.

    Args:
      vocab_size: V.
      embedding_dim: D.
      rnn_units: H.
      num_layers: number of GRU layers.
      dropout_rate: share of the outputs dropped in training, in [0, 1).
      gru: `fused`, this package's layer; `keras`, Keras' layer, which is
        cuDNN's on a GPU; `auto`, `keras` on a GPU unless `precision` or
        `layer_norm` needs `fused`, and else `fused`. The weights are the same.
      precision: of the fused layer's matrix products, `float32` or `bfloat16`.
      layer_norm: whether the fused layer normalises what the state adds to its
        gates.
      **kwargs: of `keras.Model`.

    Raises:
      ValueError: another `gru` or `precision`.
      InputError: `keras`, with what needs `fused`.
    """
    super().__init__(**kwargs)
    self._dropout_rate = dropout_rate
    self.rnn_units, self.num_layers = rnn_units, num_layers
    # Five times Keras' scale. Under `fit`, Keras' Adam squares the gradient of
    # each occurrence of a character separately. Where they agree in sign, the
    # sum of squares is smaller than the square of the sum, so embeddings take
    # larger steps. The trainer's Adam gets the summed gradient; starting from
    # ±0.25, its learning curve is about that of `fit` from ±0.05.
    initializer = keras.initializers.RandomUniform(-0.25, 0.25)
    self.embedding = keras.layers.Embedding(
      vocab_size, embedding_dim, initializer, name="embedding"
    )
    # One attribute per layer: its name is its key in a checkpoint.
    for name in map(_gru_name, range(num_layers)):
      layer = _build_gru(
        name=name,
        kind=gru,
        units=rnn_units,
        precision=precision,
        layer_norm=layer_norm,
      )
      setattr(self, name, layer)
    # By name: with a function as activation, a saved model cannot be loaded.
    self.dense = keras.layers.Dense(vocab_size, "log_softmax", name="dense")

  @property
  def grus(self) -> list[keras.layers.GRU]:
    """The GRU layers in their order."""
    return [getattr(self, _gru_name(i)) for i in range(self.num_layers)]

  def build(self, input_shape: Sequence[int | None]) -> None:
    """Makes the weights; Keras calls this with the shape of the ids."""
    self.embedding.build(input_shape)
    depth = self.embedding.output_dim
    for gru in self.grus:
      gru.build([None, None, depth])
      depth = self.rnn_units
    self.dense.build([None, None, depth])

  def initial_states(self, batch_size: int | tf.Tensor) -> State:
    """Returns the zero state of `batch_size` rows."""
    return (tf.zeros([batch_size, self.rnn_units]),) * self.num_layers

  def call(
    self,
    inputs: tf.Tensor,
    states: State | None = None,
    return_state: bool = False,
    training: bool = False,
    dropout_seed: tf.Tensor | None = None,
  ) -> tf.Tensor | tuple[tf.Tensor, State]:
    """Predicts each next character.

    Args:
      inputs: ids `[B, T]`.
      states: the state before the first character; zero if None.
      return_state: also return the state after the last character.
      training: whether dropout and bfloat16 act.
      dropout_seed: `[2]` integers that determine the dropout masks; drawn from
        TensorFlow's global generator if None.

    Returns log-probabilities `[B, T, V]`, and the state if asked for.
    """
    x, states = self._outputs(
      inputs=inputs, states=states, training=training, seed=dropout_seed
    )
    log_probs = self.dense(x)  # [B, T, V]
    return (log_probs, states) if return_state else log_probs

  def nats(
    self,
    inputs: tf.Tensor,
    targets: tf.Tensor,
    states: State | None = None,
    training: bool = False,
    dropout_seed: tf.Tensor | None = None,
  ) -> tuple[tf.Tensor, State]:
    """Returns the negative log-likelihood of targets in nats, and the state.

    Targets and result are `[B, T]`; the state is that after the inputs, and the
    other arguments are those of `call`. If B and T are static, at most
    `MAX_LOGITS` logits are held at a time, but at least one character's.
    """
    x, states = self._outputs(
      inputs=inputs, states=states, training=training, seed=dropout_seed
    )
    targets = tf.convert_to_tensor(targets)
    num_targets = targets.shape.num_elements() or 0
    # 0 where a size is not static: chunks cannot be made then.
    if num_targets * self.dense.units <= MAX_LOGITS:
      return -tf.gather(self.dense(x), targets, batch_dims=2), states
    x = tf.reshape(x, [num_targets, self.rnn_units])
    kernel, bias = map(tf.convert_to_tensor, self.dense.weights)
    nats = chunked_nats(
      x=x, kernel=kernel, bias=bias, targets=tf.reshape(targets, [num_targets])
    )
    return tf.reshape(nats, targets.shape), states

  def _outputs(
    self,
    *,
    inputs: tf.Tensor,
    states: State | None,
    training: bool,
    seed: _Seed,
  ) -> tuple[tf.Tensor, State]:
    """Returns what the dense layer reads, `[B, T, H]`, and the state after."""
    if states is None:
      states = self.initial_states(tf.shape(inputs)[0])
    rate = self._dropout_rate if training else 0.0
    # Keras' `fit` gives no seed; the trainer gives one for each step.
    if rate and seed is None:
      seed = tf.random.uniform([2], maxval=tf.int32.max, dtype=tf.int32)
    x, new_states = inputs, []
    for i, (gru, state) in enumerate(zip(self.grus, states, strict=True)):
      # Dropout on the embeddings needs the embedding of each position.
      if i == 0 and not rate and isinstance(gru, FusedGRU):
        x, state = gru.call_ids(
          ids=x,
          embeddings=self.embedding.embeddings,
          initial_state=state,
          training=training,
        )
      else:
        if i == 0:
          x = self.embedding(x)  # [B, T, D]
          x = _dropout(x=x, rate=rate, seed=seed, layer=0)
        x, state = gru(x, initial_state=state, training=training)
      x = _dropout(x=x, rate=rate, seed=seed, layer=i + 1)  # [B, T, H]
      new_states.append(state)
    return x, tuple(new_states)

  def input_table(self) -> tf.Tensor:
    """Returns what each character adds to the first GRU's gates, `[V, 3H]`."""
    return project(self.grus[0].cell, self.embedding.embeddings)

  def read(self, x: tf.Tensor, states: State) -> tuple[tf.Tensor, State]:
    """Reads one character of each row; meant for loops over characters.

    Takes the rows `[B, 3H]` of the characters in the `input_table`, which the
    caller computes once before the loop, and the state before them. Returns
    log-probabilities `[B, V]` and the state after.
    """
    new_states = []
    for i, (gru, state) in enumerate(zip(self.grus, states, strict=True)):
      if i:
        x = project(gru.cell, x)
      x = step_gru(gru, x, state)
      new_states.append(x)  # [B, H]
    return self.dense(x), tuple(new_states)


def model_of(
  config: Config, vocab_size: int, gru: str = "auto", training: bool = False
) -> GRULM:
  """Returns the model of a config; dropout and bfloat16 only for training."""
  model = GRULM(
    vocab_size=vocab_size,
    embedding_dim=config.embedding_dim,
    rnn_units=config.rnn_units,
    num_layers=config.num_layers,
    layer_norm=config.layer_norm,
    dropout_rate=config.dropout_rate if training else 0.0,
    precision=config.precision if training else "float32",
    gru=gru,
  )
  model.build([None, None])
  return model


def weight_specs(config: Config, vocab_size: int) -> Iterator[Spec]:
  """Yields owner, name and shape of each weight, as `get_weights` has them."""
  depth, units = config.embedding_dim, config.rnn_units
  yield "embedding", "embeddings", (vocab_size, depth)
  for gru in map(_gru_name, range(config.num_layers)):
    # Keras lists a layer's own weights before those of its cell.
    if config.layer_norm:
      yield gru, "gain", (3 * units,)
    yield f"{gru}/cell", "kernel", (depth, 3 * units)
    yield f"{gru}/cell", "recurrent_kernel", (units, 3 * units)
    yield f"{gru}/cell", "bias", (2, 3 * units)
    depth = units
  yield "dense", "kernel", (units, vocab_size)
  yield "dense", "bias", (vocab_size,)


def num_weights(config: Config, vocab_size: int) -> int:
  """Returns how many numbers a model's weights hold: Keras' `count_params`."""
  return sum(math.prod(shape) for *_, shape in weight_specs(config, vocab_size))


def _gru_name(layer: int) -> str:
  return f"gru_{layer}" if layer else "gru"


def _build_gru(
  *, name: str, kind: str, units: int, precision: str, layer_norm: bool
) -> keras.layers.GRU:
  if kind not in ("auto", "fused", "keras"):
    raise ValueError(f"gru is {kind!r}: give auto, fused or keras")
  only_fused = precision != "float32" or layer_norm
  if kind == "auto":
    kind = "fused" if only_fused else GRU_KIND.here
  if kind == "fused":
    return FusedGRU(units, precision, layer_norm, name=name)
  if only_fused:
    raise InputError(
      "--gru=keras supports neither --precision=bfloat16 nor --layer_norm: "
      "give --gru=fused, or leave those out"
    )
  return keras.layers.GRU(
    units, return_sequences=True, return_state=True, name=name
  )


def _dropout(
  *, x: tf.Tensor, rate: float, seed: _Seed, layer: int
) -> tf.Tensor:
  """Applies dropout to `x` `[B, T, D]`; (seed, layer) determine the mask.

  Under a strategy the mask is drawn for the global batch and each replica takes
  its own rows, so that any number of replicas trains the same model.
  """
  if not rate:
    return x
  context = tf.distribute.get_replica_context()
  rows = tf.shape(x)[0]
  first = context.replica_id_in_sync_group * rows
  shape = tf.concat([[rows * context.num_replicas_in_sync], tf.shape(x)[1:]], 0)
  seed = tf.random.experimental.stateless_fold_in(seed, layer)
  uniform = tf.random.stateless_uniform(shape, seed, alg="philox")
  return tf.where(uniform[first : first + rows] >= rate, x / (1 - rate), 0.0)
