"""Single files: `.keras`, of Keras' own layers, and `.npz`, for NumPy alone."""

import io
from pathlib import Path

import keras
import numpy as np

from charlm.data.vocabulary import vocabulary_to_json
from charlm.errors import InputError
from charlm.model.language_model import GRULM
from charlm.system.files import moved_when_whole, write_atomically


def save_keras(
  model: GRULM, vocab: list[str], file: Path, with_state: bool = False
) -> None:
  """Writes a functional model of Keras' own layers.

  It maps ids `[B, T]` to log-probabilities `[B, T, V]`. With states it maps
  `[ids, state of each layer before them]` to `[log-probabilities, state of each
  layer after them]`; a state is `[B, H]`. Beside it, `NAME.vocabulary.json`
  holds the vocabulary as a JSON list of strings.

  Raises:
    InputError: a model with layer normalisation.
    OSError: the file cannot be written.
  """
  if getattr(model.grus[0], "gain", None) is not None:
    raise InputError(
      "Keras' GRU has no layer normalisation: give --format=saved_model or npz"
    )
  inputs = keras.Input([None], dtype="int32", name="ids")
  before = [keras.Input([g.units], name=f"{g.name}_state") for g in model.grus]
  x, after = model.embedding(inputs), []
  for gru, start in zip(model.grus, before, strict=True):
    options = {"return_sequences": True, "return_state": True, "name": gru.name}
    layer = keras.layers.GRU(gru.units, **options)
    x, end = layer(x, initial_state=start if with_state else None)  # else zeros
    after.append(end)
  x = model.dense(x)
  ends = ([inputs, *before], [x, *after]) if with_state else (inputs, x)
  plain = keras.Model(*ends)
  plain.set_weights(model.get_weights())  # their order is the same
  with moved_when_whole(file) as path:
    plain.save(path)
  vocabulary = file.with_suffix(".vocabulary.json")
  write_atomically(vocabulary, [vocabulary_to_json(vocab).encode()])


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
    if getattr(gru, "gain", None) is not None:
      arrays[f"gain_{i}"] = gru.gain
  arrays |= {"dense_kernel": model.dense.kernel, "dense_bias": model.dense.bias}
  data, vocabulary = io.BytesIO(), np.array(vocabulary_to_json(vocab))
  np.savez(data, vocabulary=vocabulary, **arrays)
  file.parent.mkdir(parents=True, exist_ok=True)
  write_atomically(file, [data.getvalue()])
