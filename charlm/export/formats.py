"""A model for use without charlm: Keras' `.keras`, SavedModel, or `.npz`."""

import io
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from charlm.data.vocabulary import vocabulary_to_json
from charlm.errors import InputError
from charlm.model.gru import FusedGRU
from charlm.model.language_model import GRULM
from charlm.system.files import moved_when_whole, write_atomically


def save_keras(model: GRULM, vocab: list[str], file: Path) -> None:
  """Writes the model of `_stepwise`, and beside it `NAME.vocabulary.json`.

  Raises:
    InputError: a model with layer normalisation.
    OSError: a file cannot be written.
  """
  if _has_layer_norm(model):
    raise InputError(
      "Keras' GRU has no layer normalisation: give --format=saved_model or npz"
    )
  with moved_when_whole(file) as path:
    _stepwise(model, fused=False).save(path)
    # Before the model is moved there: if the model is there, both are.
    vocabulary = file.with_suffix(".vocabulary.json")
    write_atomically(vocabulary, [vocabulary_to_json(vocab).encode()])


def save_saved_model(model: GRULM, vocab: list[str], folder: Path) -> None:
  """Writes the model of `_stepwise` as `serve`, and `vocabulary.json` in it.

  Raises OSError: the folder cannot be written.
  """
  # Keras' layer would be cuDNN's where there is a GPU, and need one for ever.
  stepwise = _stepwise(model, fused=True)
  inputs = [tf.TensorSpec(x.shape, x.dtype, x.name) for x in stepwise.inputs]
  archive = keras.export.ExportArchive()
  archive.track(stepwise)
  archive.add_endpoint("serve", stepwise.__call__, [inputs])
  # TensorFlow cannot save the gradient of charlm's layer.
  options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
  with moved_when_whole(folder) as path:
    try:
      archive.write_out(path, options, verbose=False)
    except tf.errors.OpError as error:  # a full disk, among others
      raise OSError(error.message) from error
    Path(path, "vocabulary.json").write_text(vocabulary_to_json(vocab), "utf-8")


def _stepwise(model: GRULM, fused: bool) -> keras.Model:
  """Returns a functional model whose states are inputs and outputs.

  It maps `[ids, state of each layer before them]` to `[log-probabilities, state
  of each layer after them]`; ids are `[B, T]`, log-probabilities `[B, T, V]`,
  and a state is `[B, H]`. `fused` chooses charlm's layers, not Keras' own.
  """
  ids = keras.Input([None], dtype="int32", name="ids")
  before = [keras.Input([g.units], name=f"{g.name}_state") for g in model.grus]
  x, after = model.embedding(ids), []
  for gru, start in zip(model.grus, before, strict=True):
    if fused:
      normal = _has_layer_norm(model)
      layer = FusedGRU(gru.units, layer_norm=normal, name=gru.name)
    else:
      layer = keras.layers.GRU(
        gru.units, return_sequences=True, return_state=True, name=gru.name
      )
    x, end = layer(x, initial_state=start)
    after.append(end)
  stepwise = keras.Model([ids, *before], [model.dense(x), *after])
  stepwise.set_weights(model.get_weights())  # their order is the same
  return stepwise


def _has_layer_norm(model: GRULM) -> bool:
  return getattr(model.grus[0], "gain", None) is not None


def save_numpy(model: GRULM, vocab: list[str], file: Path) -> None:
  """Writes the weights and the vocabulary; docs/guide.md shows their use.

  Arrays: `vocabulary` (JSON), `embeddings` `[V, D]`, `dense_kernel` `[H, V]`,
  `dense_bias` `[V]`; for each layer i, from 0 on, `kernel_i` `[D, 3H]` (above
  the first layer, D is H), `recurrent_kernel_i` `[H, 3H]`, `bias_i` `[2, 3H]`
  (of inputs, of states) and, with layer normalisation, `gain_i` `[3H]`. The 3H
  columns are those of the update gate, the reset gate, and the candidate.

  Raises OSError: the file cannot be written.
  """
  arrays = {"embeddings": model.embedding.embeddings}
  for i, gru in enumerate(model.grus):
    for name in ("kernel", "recurrent_kernel", "bias"):
      arrays[f"{name}_{i}"] = getattr(gru.cell, name)
    if _has_layer_norm(model):
      arrays[f"gain_{i}"] = gru.gain
  arrays |= {"dense_kernel": model.dense.kernel, "dense_bias": model.dense.bias}
  data, vocabulary = io.BytesIO(), np.array(vocabulary_to_json(vocab))
  np.savez(data, vocabulary=vocabulary, **arrays)
  file.parent.mkdir(parents=True, exist_ok=True)
  write_atomically(file, [data.getvalue()])
