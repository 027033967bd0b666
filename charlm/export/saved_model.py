"""A SavedModel that takes texts as strings, for use without charlm.

Shapes: B texts, T characters of the longest, S positions for which random
numbers are drawn at a time, L layers, H rnn_units, V vocabulary size.
"""

from pathlib import Path

import tensorflow as tf

from charlm.data.tensors import line_to_tensor, text_from_ids
from charlm.data.vocabulary import PADDING_ID
from charlm.model.language_model import GRULM
from charlm.sampling.gumbel import draw, gumbel_noise
from charlm.sampling.options import Limits
from charlm.sampling.threefry import sample_keys, uniform_numbers
from charlm.system.files import moved_when_whole

_MAX_NUMBERS = 2**20  # random numbers made at a time: 4 MB

_Tensors = dict[str, tf.Tensor]  # by what a signature calls them


def save_saved_model(model: GRULM, vocab: list[str], folder: Path) -> None:
  """Writes a SavedModel with the signatures of `TextModel`.

  Raises OSError: the folder cannot be written.
  """
  functions = TextModel(model, vocab).functions()
  module = tf.Module()
  # TensorFlow's own variables: whoever loads the model needs no Keras.
  module.weights = [variable.value for variable in model.variables]
  for name, function in functions.items():
    setattr(module, name, function)
  with moved_when_whole(folder) as path:
    try:
      tf.saved_model.save(module, path, functions)
    except tf.errors.OpError as error:  # a full disk, among others
      raise OSError(error.message) from error


class TextModel:
  """A model that takes texts as strings.

  A model of bytes takes U+0000 to U+00FF, a character for each byte.
  """

  def __init__(self, model: GRULM, vocab: list[str]) -> None:
    self._model, self._vocab = model, vocab

  def functions(self) -> dict[str, tf.types.experimental.PolymorphicFunction]:
    """Returns the graph functions by name: `score`, `step`, and so on."""
    strings = tf.TensorSpec([None], tf.string)
    model = self._model
    states = tf.TensorSpec([None, model.num_layers, model.rnn_units])
    types = {"length": tf.int32, "temperature": tf.float32, "seed": tf.int64}
    numbers = [tf.TensorSpec([], dtype, name) for name, dtype in types.items()]
    return {
      "score": tf.function(self._score, [strings]),
      "step": tf.function(self._step, [strings, states]),
      "generate": tf.function(self._generate, [strings, *numbers]),
      "vocabulary": tf.function(self._vocabulary, []),
    }

  def _vocabulary(self) -> _Tensors:
    """Lists the vocabulary.

    Returns:
      characters: the string of each id, `[V]`.
    """
    return {"characters": tf.constant(self._vocab)}

  def _score(self, texts: tf.Tensor) -> _Tensors:
    """Scores texts `[B]` from the second character on, from the zero state.

    Returns:
      nats: of each character, `[B, T - 1]`, 0 after a text's end.
      num_characters: scored ones, `[B]`.
      log_perplexity: the mean of each text's nats, `[B]`; 0 without any.
    """
    ragged = line_to_tensor(texts, self._vocab)
    ids = ragged.to_tensor(PADDING_ID)
    counts = tf.maximum(ragged.row_lengths() - 1, 0)
    num_targets = tf.maximum(tf.shape(ids)[1] - 1, 0)
    # One more column of nats, cut off below, so that there is at least one to
    # stack even where nothing is scored. It needs two ids, which empty texts
    # lack.
    ids = tf.pad(ids, [[0, 0], [0, 2]], constant_values=PADDING_ID)
    # Character by character: TensorFlow saves gradients with a model by
    # default, and cannot save the fused layer's own.
    table = self._model.input_table()
    states = self._model.initial_states(tf.size(texts))
    columns = tf.TensorArray(tf.float32, num_targets + 1)
    for t in tf.range(num_targets + 1):
      log_probs, states = self._model.read(tf.gather(table, ids[:, t]), states)
      nats = -tf.gather(log_probs, ids[:, t + 1], batch_dims=1)
      columns = columns.write(t, nats)
    scored = tf.sequence_mask(counts, num_targets)
    nats = tf.transpose(columns.stack())[:, :num_targets]
    nats = tf.where(scored, nats, 0.0)
    sums = tf.reduce_sum(nats, axis=1)
    means = tf.math.divide_no_nan(sums, tf.cast(counts, nats.dtype))
    return {"nats": nats, "num_characters": counts, "log_perplexity": means}

  def _step(self, characters: tf.Tensor, states: tf.Tensor) -> _Tensors:
    """Reads a character of each text, `[B]`, from states `[B, L, H]`.

    The states before a text's first character are zeros.

    Returns:
      log_probs: of the next character, `[B, V]`, in the vocabulary's order.
      states: `[B, L, H]`.
    """
    # One character of each text: the others of a longer string are not read.
    ids = line_to_tensor(characters, self._vocab).to_tensor(shape=[None, 1])
    table = self._model.input_table()
    layers = tuple(tf.unstack(states, self._model.num_layers, axis=1))
    log_probs, layers = self._model.read(tf.gather(table, ids[:, 0]), layers)
    return {"log_probs": log_probs, "states": tf.stack(layers, axis=1)}

  def _generate(
    self,
    prefixes: tf.Tensor,
    length: tf.Tensor,
    temperature: tf.Tensor,
    seed: tf.Tensor,
  ) -> _Tensors:
    """Continues prefixes `[B]` by `length` characters; "" reads as a newline.

    Text i is sample i of `sample.py` with this seed, up to rounding.

    Returns:
      texts: the continuations `[B]`, without the prefixes.
    """
    num_texts = tf.size(prefixes)
    # At least two rows, since a product of one row rounds differently.
    rows = tf.range(tf.maximum(num_texts, 2))
    prefixes = tf.concat([prefixes, ["", ""]], axis=0)[: tf.size(rows)]
    prefixes = tf.where(prefixes == "", "\n", prefixes)
    ragged = line_to_tensor(prefixes, self._vocab)
    num_given = tf.cast(ragged.row_lengths(), tf.int32)
    given = tf.cast(ragged.to_tensor(PADDING_ID), tf.int32)
    longest = tf.shape(given)[1]
    keys = sample_keys(tf.bitcast(seed, tf.uint32), tf.cast(rows, tf.uint32))
    table = self._model.input_table()
    states = self._model.initial_states(tf.size(rows))
    last, end = given[:, 0], longest + length
    ids = tf.TensorArray(tf.int32, end).write(0, last)
    vocab_size = len(self._vocab)
    size = tf.maximum(1, _MAX_NUMBERS // (tf.size(rows) * vocab_size))
    for first in tf.range(1, end, size):
      positions = first + tf.range(tf.minimum(size, end - first))[:, tf.newaxis]
      positions -= num_given  # [S, B], of the characters in each sample
      # Before the loop over characters: a server may compile that with XLA,
      # which might never end with Threefry inside.
      noise = gumbel_noise(uniform_numbers(keys, positions, vocab_size))
      for i in tf.range(len(positions)):
        log_probs, states = self._model.read(tf.gather(table, last), states)
        drawn = draw(log_probs, temperature, Limits(), noise[i])
        # The prefixes end in different places, and then drawn ids follow.
        prefix = given[:, tf.minimum(first + i, longest - 1)]
        drawn = tf.cast(drawn, tf.int32)
        last = tf.where(positions[i] < 0, prefix, drawn)
        ids = ids.write(first + i, last)
    places = num_given[:, tf.newaxis] + tf.range(length)
    drawn = tf.gather(tf.transpose(ids.stack()), places, batch_dims=1)
    return {"texts": text_from_ids(drawn, self._vocab)[:num_texts]}
