"""Exports a model for use without charlm: `.keras`, SavedModel, or `.npz`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from charlm.config import SAME_AS_INITIAL, Config
from charlm.data.vocabulary import vocabulary_to_json
from charlm.errors import InputError
from charlm.model.language_model import LanguageModel
from charlm.runs.initial import NumpyFile, write_numpy
from charlm.system.files import moved_when_whole, write_atomically


def save_keras(
  model: LanguageModel, vocab: list[str], file: Path, config: Config
) -> None:
  """Writes the model of `_stepwise`, with the files of `_texts` beside it.

  These are called `NAME.vocabulary.json` and `NAME.settings.json`.

  Raises:
    InputError: Keras does not have the layer.
    OSError: a file cannot be written.
  """
  layers = [layer.keras_layer() for layer in model.recurrent_layers]
  if None in layers:
    raise InputError(
      "Keras has no such layer: give --format=saved_model or npz"
    )
  beside = {
    file.with_suffix(f".{name}"): text
    for name, text in _texts(vocab, config).items()
  }
  with moved_when_whole(file) as path:
    _stepwise(model, layers).save(path)
    # Before the model is moved into place: if it exists, so do these.
    try:
      for text_file, text in beside.items():
        write_atomically(text_file, [text.encode()])
    except OSError:  # the next export would refuse to overwrite them
      for text_file in beside:
        text_file.unlink(missing_ok=True)
      raise


def save_saved_model(
  model: LanguageModel, vocab: list[str], folder: Path, config: Config
) -> None:
  """Writes the model of `_stepwise` as `serve`, and the files of `_texts`.

  Raises OSError: the folder cannot be written.
  """
  stepwise = _stepwise(model, model.recurrent_layers)
  inputs = [tf.TensorSpec(x.shape, x.dtype, x.name) for x in stepwise.inputs]
  archive = keras.export.ExportArchive()
  archive.track(stepwise)
  archive.add_endpoint("serve", stepwise.__call__, [inputs])
  # TensorFlow cannot save the gradient of charlm's layer.
  options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
  with moved_when_whole(folder) as path:
    try:
      archive.write_out(path, options, verbose=False)
    except tf.errors.OpError as error:  # such as a full disk
      raise OSError(error.message) from error
    for name, text in _texts(vocab, config).items():
      Path(path, name).write_text(text, "utf-8")


def _texts(vocab: list[str], config: Config) -> dict[str, str]:
  """Returns the text files that an exported model needs, by name."""
  return {
    "vocabulary.json": vocabulary_to_json(vocab),
    "settings.json": json.dumps(_settings(config)),
  }


def _settings(config: Config) -> dict[str, Any]:
  return {name: getattr(config, name) for name in SAME_AS_INITIAL}


def _stepwise(
  model: LanguageModel, layers: Sequence[keras.layers.Layer]
) -> keras.Model:
  """Returns a functional model that takes and returns the states.

  Inputs are the ids `[B, T]` and each layer's state before them; outputs are
  the log-probabilities `[B, T, V]` and each layer's state after them. If a
  state has several tensors, they follow one another. The layers are the
  model's, or others with the same weights.
  """
  ids = keras.Input([None], dtype="int32", name="ids")
  x, before, after = model.embedding(ids), [], []
  for layer, state in zip(layers, model.initial_states(1), strict=True):
    leaves = tf.nest.flatten(state)
    names = [f"{layer.name}_state"]
    if len(leaves) > 1:
      names = [f"{layer.name}_state_{i}" for i in range(len(leaves))]
    inputs = [
      keras.Input(leaf.shape[1:], name=name)
      for leaf, name in zip(leaves, names, strict=True)
    ]
    x, *end = layer(x, initial_state=tf.nest.pack_sequence_as(state, inputs))
    before += inputs
    after += tf.nest.flatten(end)
  stepwise = keras.Model([ids, *before], [model.dense(x), *after])
  stepwise.set_weights(model.get_weights())  # their order is the same
  return stepwise


def save_numpy(
  model: LanguageModel, vocab: list[str], file: Path, config: Config
) -> None:
  """Writes weights, vocabulary and sizes; see docs/exported.md.

  Raises OSError: the file cannot be written.
  """
  weights = {"embeddings": model.embedding.embeddings}
  for i, layer in enumerate(model.recurrent_layers):
    weights |= {f"{weight.name}_{i}": weight for weight in layer.weights}
  weights |= {
    "dense_kernel": model.dense.kernel,
    "dense_bias": model.dense.bias,
  }
  arrays = {name: weight.numpy() for name, weight in weights.items()}
  write_numpy(NumpyFile(_settings(config), vocab, arrays), file)
