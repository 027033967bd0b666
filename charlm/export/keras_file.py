"""A `.keras` file of Keras' own layers."""

import pathlib

import keras

from charlm.data.vocabulary import vocabulary_to_json
from charlm.errors import InputError
from charlm.model.language_model import GRULM
from charlm.system.files import moved_when_whole, write_atomically


def save_keras(
  model: GRULM, vocab: list[str], file: pathlib.Path, with_state: bool = False
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
  if getattr(model.gru, "gain", None) is not None:
    raise InputError(
      "Keras' GRU has no layer normalisation: give --format=saved_model or npz"
    )
  inputs = keras.Input([None], dtype="int32", name="ids")
  before = [keras.Input([g.units], name=f"{g.name}_state") for g in model.grus]
  after = []
  x = model.embedding(inputs)
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
