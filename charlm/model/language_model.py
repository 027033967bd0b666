"""The language model: embedding, recurrent layers, log-probabilities.

Shapes: B rows of a batch, T inputs of a window, D embedding_dim,
H rnn_units, V vocabulary size. A state is a tuple of the layers' states.
"""

from collections.abc import Iterable, Sequence

import keras
import tensorflow as tf

from charlm.config import Config
from charlm.errors import InputError
from charlm.model.dropout import Masks, draw_masks, drop
from charlm.model.gru import FusedGRU, KerasGRU
from charlm.model.layers import LayerState, RecurrentLayer
from charlm.model.lstm import FusedLSTM, KerasLSTM
from charlm.model.output import MAX_LOGITS, chunked_nats
from charlm.system.devices import Choice

# For each --layer, charlm's own class, and Keras', which calls cuDNN on a GPU.
# Both have the same weights.
LAYERS: dict[str, tuple[type[RecurrentLayer], type[RecurrentLayer]]] = {
  "gru": (FusedGRU, KerasGRU),
  "lstm": (FusedLSTM, KerasLSTM),
}
# What --gru=auto means, in training and in scoring.
_KIND = Choice("fused", "keras")
# Whether Keras' layers may run with --precision=bfloat16. On a GPU they compute
# in TensorFloat-32, which rounds less.
_KERAS_FOR_BFLOAT16 = Choice(False, True)

State = tuple[LayerState, ...]


class LanguageModel(keras.Model):
  """Embedding, recurrent layers, and a dense layer with log-softmax.

  Dropout acts on the embedding's and on each layer's output.
  """

  def __init__(
    self,
    vocab_size: int,
    embedding_dim: int,
    recurrent_layers: Iterable[RecurrentLayer],
    dropout_rate: float = 0.0,
    **kwargs: object,
  ) -> None:
    """Makes the layers; `build` makes their weights.

    Args:
      vocab_size: V.
      embedding_dim: D.
      recurrent_layers: layers of H units; their names are their keys in a
        checkpoint. Pass a generator, so that they are made after the embedding:
        Keras draws the layers' seeds in the order in which they are made.
      dropout_rate: share of the outputs dropped in training, in [0, 1).
      **kwargs: the arguments of `keras.Model`.
    """
    super().__init__(**kwargs)
    self._dropout_rate = dropout_rate
    # Five times Keras' scale. In `fit`, Keras' Adam squares the gradient of
    # each occurrence of a character separately. If they agree in sign, the sum
    # of their squares is smaller than the square of their sum, so embeddings
    # take larger steps. The trainer's Adam gets the summed gradient. From ±0.25
    # it learns about as fast as `fit` from ±0.05.
    initializer = keras.initializers.RandomUniform(-0.25, 0.25)
    self.embedding = keras.layers.Embedding(
      vocab_size, embedding_dim, initializer, name="embedding"
    )
    self._layer_names = []
    for layer in recurrent_layers:
      setattr(self, layer.name, layer)
      self._layer_names.append(layer.name)
    # By name: Keras cannot load a model whose activation is a function.
    self.dense = keras.layers.Dense(vocab_size, "log_softmax", name="dense")

  @property
  def recurrent_layers(self) -> list[RecurrentLayer]:
    """The recurrent layers, in order."""
    return [getattr(self, name) for name in self._layer_names]

  @property
  def fast_with_xla(self) -> bool:
    """Whether XLA speeds up the layers, which are all of one kind."""
    return self.recurrent_layers[0].fast_with_xla

  def build(self, input_shape: Sequence[int | None]) -> None:
    """Makes the weights; Keras calls this with the shape of the ids."""
    self.embedding.build(input_shape)
    depth = self.embedding.output_dim
    for layer in self.recurrent_layers:
      layer.build([None, None, depth])
      depth = layer.units
    self.dense.build([None, None, depth])

  def initial_states(self, batch_size: int | tf.Tensor) -> State:
    """Returns the state of `batch_size` rows at the start of a text."""
    layers = self.recurrent_layers
    return tuple(layer.initial_state(batch_size) for layer in layers)

  def pack(self, states: State) -> tf.Tensor:
    """Returns a state as one tensor `[num_layers, B, S]`."""
    by_layer = [
      [tf.reshape(x, [-1, x.shape[1:].num_elements()]) for x in leaves]
      for leaves in map(tf.nest.flatten, states)
    ]
    return tf.stack([tf.concat(leaves, axis=1) for leaves in by_layer])

  def unpack(self, packed: tf.Tensor) -> State:
    """Inverts `pack`; also takes a selection of the rows."""
    states = []
    for state, packed_layer in zip(
      self.initial_states(1), tf.unstack(packed), strict=True
    ):
      shapes = [leaf.shape[1:] for leaf in tf.nest.flatten(state)]
      sizes = [shape.num_elements() for shape in shapes]
      leaves = [
        tf.reshape(leaf, [-1, *shape])
        for leaf, shape in zip(
          tf.split(packed_layer, sizes, axis=1), shapes, strict=True
        )
      ]
      states.append(tf.nest.pack_sequence_as(state, leaves))
    return tuple(states)

  def call(
    self,
    inputs: tf.Tensor,
    states: State | None = None,
    return_state: bool = False,
    training: bool = False,
    dropout_masks: Masks | None = None,
  ) -> tf.Tensor | tuple[tf.Tensor, State]:
    """Predicts the next character at each position.

    Args:
      inputs: ids `[B, T]`.
      states: the state before the first character; None means the initial one.
      return_state: whether to return the state after the last character, too.
      training: whether dropout and bfloat16 apply.
      dropout_masks: the result of `dropout_masks`; if None, they are drawn with
        TensorFlow's global generator.

    Returns log-probabilities `[B, T, V]`, and the state with `return_state`.
    """
    x, states = self.outputs(
      inputs, states, training=training, dropout_masks=dropout_masks
    )
    log_probs = self.dense(x)  # [B, T, V]
    return (log_probs, states) if return_state else log_probs

  def nats(
    self,
    inputs: tf.Tensor,
    targets: tf.Tensor,
    states: State | None = None,
    training: bool = False,
    dropout_masks: Masks | None = None,
  ) -> tuple[tf.Tensor, State]:
    """Returns the negative log-likelihood of the targets, and the next state.

    It is in nats, `[B, T]` like the targets. The state is the one after the
    inputs. The other arguments are those of `call`. If B and T are static, it
    holds at most `MAX_LOGITS` logits at a time, but at least one character's.
    """
    x, states = self.outputs(
      inputs, states, training=training, dropout_masks=dropout_masks
    )
    targets = tf.convert_to_tensor(targets)
    num_targets = targets.shape.num_elements() or 0
    # 0 if a size is not static, which leaves the logits whole.
    if num_targets * self.dense.units <= MAX_LOGITS:
      return -tf.gather(self.dense(x), targets, batch_dims=2), states
    x = tf.reshape(x, [num_targets, x.shape[-1]])
    kernel, bias = map(tf.convert_to_tensor, self.dense.weights)
    nats = chunked_nats(
      x=x, kernel=kernel, bias=bias, targets=tf.reshape(targets, [num_targets])
    )
    return tf.reshape(nats, targets.shape), states

  def outputs(
    self,
    inputs: tf.Tensor,
    states: State | None = None,
    training: bool = False,
    dropout_masks: Masks | None = None,
  ) -> tuple[tf.Tensor, State]:
    """Returns the last layer's outputs `[B, T, H]`, and the next state.

    The arguments are those of `call`.
    """
    if states is None:
      states = self.initial_states(tf.shape(inputs)[0])
    masks: Masks = ()
    if training and self._dropout_rate:
      # The trainer passes the masks of each step; Keras' `fit` passes none.
      masks = dropout_masks or self.dropout_masks(
        inputs, tf.random.uniform([2], maxval=tf.int32.max, dtype=tf.int32)
      )
    x, new_states = inputs, []
    for i, (layer, state) in enumerate(
      zip(self.recurrent_layers, states, strict=True)
    ):
      # Without dropout, the first layer can look up projected embeddings. With
      # it, each position has its own embedding.
      if i == 0 and not masks:
        x, state = layer.call_ids(
          ids=inputs,
          embeddings=self.embedding.embeddings,
          initial_state=state,
          training=training,
        )
      else:
        if i == 0:
          x = drop(self.embedding(x), masks[0], self._dropout_rate)  # [B, T, D]
        x, state = layer(x, initial_state=state, training=training)
      if masks:
        x = drop(x, masks[i + 1], self._dropout_rate)  # [B, T, H]
      new_states.append(state)
    return x, tuple(new_states)

  def dropout_masks(self, inputs: tf.Tensor, seed: tf.Tensor) -> Masks:
    """Draws the dropout masks for ids `[B, T]`: of embeddings, then layers.

    The seed, `[2]` integers, determines them. Without dropout, the list is
    empty.
    """
    if not self._dropout_rate:
      return []
    sizes = [self.embedding.output_dim]
    sizes += [layer.units for layer in self.recurrent_layers]
    return draw_masks(inputs, sizes, self._dropout_rate, seed)

  def input_table(self) -> tf.Tensor:
    """Returns the first layer's projection of each character, `[V, P]`."""
    return self.recurrent_layers[0].project(self.embedding.embeddings)

  def read(self, x: tf.Tensor, states: State) -> tuple[tf.Tensor, State]:
    """Reads one character per row; meant for loops over characters.

    Takes the characters' rows `[B, P]` of the `input_table`, which the caller
    computes once before the loop, and the state before them. Returns the
    log-probabilities `[B, V]` of the next characters, and the next state.
    """
    new_states = []
    for i, (layer, state) in enumerate(
      zip(self.recurrent_layers, states, strict=True)
    ):
      if i:
        x = layer.project(x)
      x, state = layer.step(x, state)
      new_states.append(state)
    return self.dense(x), tuple(new_states)

  def matrices(self) -> list[tuple[keras.Variable, int]]:
    """Lists the matrices that Muon updates, each with its number of gates."""
    return [x for layer in self.recurrent_layers for x in layer.matrices()]


class GRULM(LanguageModel):
  """The model of the reference: GRU layers between embedding and output."""

  def __init__(
    self,
    vocab_size: int = 256,
    embedding_dim: int = 256,
    rnn_units: int = 128,
    num_layers: int = 1,
    dropout_rate: float = 0.0,
    gru: str = "auto",
    precision: str = "float32",
    **kwargs: object,
  ) -> None:
    """Makes the model, by default with the sizes of the reference's class.

    The sizes with which the reference trains it are the defaults of `Config`.

    Args:
      vocab_size: V.
      embedding_dim: D.
      rnn_units: H.
      num_layers: number of GRU layers.
      dropout_rate: share of the outputs dropped in training, in [0, 1).
      gru: as `--gru`.
      precision: as `--precision`.
      **kwargs: the arguments of `keras.Model`.

    Raises InputError: `gru` is unknown, or does not support the precision.
    """
    kind = _kind_of("gru", gru, precision)
    super().__init__(
      vocab_size=vocab_size,
      embedding_dim=embedding_dim,
      recurrent_layers=_layers(
        kind,
        name="gru",
        units=rnn_units,
        num_layers=num_layers,
        precision=precision,
      ),
      dropout_rate=dropout_rate,
      **kwargs,
    )


def model_of(
  config: Config,
  vocab_size: int,
  *,
  gru: str = "auto",
  layer: type[RecurrentLayer] | None = None,
  training: bool = False,
) -> LanguageModel:
  """Builds the model of a config; dropout and bfloat16 only for training.

  `layer` is the class of a layer that is not charlm's.

  Raises InputError: the layer is unknown, or lacks an option of the config.
  """
  precision = config.precision if training else "float32"
  kind = layer or _kind_of(config.layer, gru, precision)
  if layer and layer.__name__.lower() in LAYERS:
    raise InputError(
      f"charlm has a layer of the name {layer.__name__}: rename your class"
    )
  if layer and config.layer in LAYERS:
    raise InputError(
      f"the run has charlm's own layer {config.layer}: leave out --layer"
    )
  if layer and layer.__name__.lower() != config.layer.lower():
    raise InputError(
      f"the run has the layer {config.layer}, not {layer.__name__}: give "
      f"--layer=FILE.py:{config.layer}"
    )
  if lacking := lacking_options(config, gru, layer):
    flags = " and no ".join(f"--{name}" for name in lacking)
    raise InputError(f"--layer={config.layer} has no {flags}: leave that out")
  model = LanguageModel(
    vocab_size=vocab_size,
    embedding_dim=config.embedding_dim,
    recurrent_layers=_layers(
      kind,
      name=config.layer.lower(),
      units=config.rnn_units,
      num_layers=config.num_layers,
      precision=precision,
    ),
    dropout_rate=config.dropout_rate if training else 0.0,
  )
  model.build([None, None])
  return model


def lacking_options(
  config: Config, gru: str, layer: type[RecurrentLayer] | None = None
) -> list[str]:
  """Lists the options that are given but not supported by a layer of yours."""
  given = {
    "precision": config.precision != Config.precision,
    "gru": gru != "auto",
  }
  if layer is None:
    return []
  return [n for n in given if given[n] and n not in layer.options]


def _layers(
  kind: type[RecurrentLayer],
  *,
  name: str,
  units: int,
  num_layers: int,
  precision: str,
) -> Iterable[RecurrentLayer]:
  """Makes the layers, whose names are their keys in a checkpoint."""
  options = {"precision": precision} if "precision" in kind.options else {}
  for i in range(num_layers):
    # The names that Keras gave the reference's layers: gru, gru_1, ...
    number = "" if (name, i) == ("gru", 0) else f"_{i}"
    yield kind(units, name=f"{name}{number}", **options)


def _kind_of(layer: str, gru: str, precision: str) -> type[RecurrentLayer]:
  """Returns charlm's class of a layer, or Keras', as `--gru` chooses.

  Raises InputError: `layer` or `gru` is unknown, or `keras` does not support
    the precision.
  """
  if layer not in LAYERS:
    raise InputError(
      f"layer is {layer!r}: give one of {', '.join(LAYERS)}, or your own as "
      f"--layer=FILE.py:{layer} (docs/your-model.md)"
    )
  if gru not in ("auto", "fused", "keras"):
    raise InputError(f"gru is {gru!r}: give auto, fused or keras")
  rounded = precision != "float32"
  if gru == "keras" and rounded and not _KERAS_FOR_BFLOAT16.here:
    raise InputError(
      "--gru=keras supports no --precision=bfloat16 without a GPU: give "
      "--gru=fused, or leave one of them out"
    )
  fused, keras_kind = LAYERS[layer]
  name = _KIND.here if gru == "auto" else gru
  return fused if name == "fused" else keras_kind
