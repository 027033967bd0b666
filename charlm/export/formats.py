"""Exports a model for use without charlm.

As `.keras`, SavedModel, `.tflite`, or `.npz`.
"""

import contextlib
import json
import re
import tempfile
from collections.abc import Iterator, Sequence
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
from charlm.system.process import discarded_stderr


def save_keras(
  model: LanguageModel, vocab: list[str], file: Path, config: Config
) -> None:
  """Writes the model of `_stepwise`, the files of `_texts` beside it.

  Raises:
    InputError: Keras does not have the layer.
    OSError: a file cannot be written.
  """
  layers = [layer.keras_layer() for layer in model.recurrent_layers]
  if None in layers:
    raise InputError(
      "Keras has no such layer: give --format=saved_model or npz"
    )
  with _moved_with_texts(file, vocab, config) as path:
    _stepwise(model, layers).save(path)


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


def save_tflite(
  model: LanguageModel,
  vocab: list[str],
  file: Path,
  config: Config,
  int8: bool = False,
) -> None:
  """Writes one time step for TensorFlow Lite, the files of `_texts` beside it.

  Its one signature takes `id` `[1]` and the packed `state` before it, and
  returns `log_probs` `[1, V]` and the `state` after it. With `int8`, the
  matrices are rounded to 8 bits; the states stay float32.

  Raises:
    InputError: TensorFlow Lite lacks an operation of the layer.
    OSError: a file cannot be written.
  """
  state_shape = model.pack(model.initial_states(1)).shape

  def step(ids: tf.Tensor, state: tf.Tensor) -> dict[str, tf.Tensor]:
    x = tf.gather(model.embedding.embeddings, ids)
    x = model.recurrent_layers[0].project(x)
    log_probs, states = model.read(x, model.unpack(state))
    return {"log_probs": log_probs, "state": model.pack(states)}

  inputs = [
    tf.TensorSpec([1], tf.int32, "id"),
    tf.TensorSpec(state_shape, name="state"),
  ]
  module = tf.Module()  # Keras' model would bring a signature of its own
  module.weights = [weight.value for weight in model.weights]
  with tempfile.TemporaryDirectory() as folder:
    try:
      signature = tf.function(step, inputs, autograph=False)
      tf.saved_model.save(module, folder, signature)
    except tf.errors.OpError as error:  # such as a full disk
      raise OSError(error.message) from error
    converter = tf.lite.TFLiteConverter.from_saved_model(folder)
    converter.optimizations = [tf.lite.Optimize.DEFAULT] if int8 else []
    try:
      with discarded_stderr():  # the error says the same
        content = converter.convert()
    except Exception as error:  # TensorFlow does not export its class
      lacking = re.findall(r"^(?:TF Select|Custom) ops: (.*)", str(error), re.M)
      if not lacking:
        raise
      raise InputError(
        f"TensorFlow Lite has no {', '.join(lacking)}, which the layer calls: "
        "give --format=saved_model or npz"
      ) from error
  with _moved_with_texts(file, vocab, config) as path:
    Path(path).write_bytes(content)


@contextlib.contextmanager
def _moved_with_texts(
  file: Path, vocab: list[str], config: Config
) -> Iterator[str]:
  """Yields the path of `moved_when_whole`; writes `_texts` beside the file.

  These are called `NAME.vocabulary.json` and `NAME.settings.json`.
  """
  beside = {
    file.with_suffix(f".{name}"): text
    for name, text in _texts(vocab, config).items()
  }
  with moved_when_whole(file) as path:
    yield path
    # Before the model is moved into place: if it exists, so do these.
    try:
      for text_file, text in beside.items():
        write_atomically(text_file, [text.encode()])
    except OSError:  # the next export would refuse to overwrite them
      for text_file in beside:
        text_file.unlink(missing_ok=True)
      raise


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
