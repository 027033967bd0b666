"""Loads weights saved by `GRULM.save_weights`.

Keras 3 writes `NAME.weights.h5`, Keras 2 a TensorFlow checkpoint `NAME.index`
and `NAME.data-00000-of-00001`. Loading reads arrays and executes nothing.
"""

import os
from collections.abc import Iterator

import h5py
import numpy as np
import tensorflow as tf

from charlm.config import Config
from charlm.errors import InputError, all_finite
from charlm.model.language_model import LanguageModel, model_of
from charlm.system.files import refuse_pattern


def load_keras_weights(
  path: str, config: Config, vocab_size: int
) -> LanguageModel:
  """Returns a model with the sizes of a config and the weights of a file.

  Args:
    path: the file; for a checkpoint, `.index` may be left out.
    config: gives the sizes of the model.
    vocab_size: V; the weights must belong to the same vocabulary.

  Raises InputError: the file has no weights, or weights of other shapes.
  """
  path = os.path.expanduser(path)
  # TensorFlow takes the prefix of both files; a user may give the index.
  prefix = path.removesuffix(".index")
  if not os.path.isfile(path if path.endswith(".h5") else f"{prefix}.index"):
    raise InputError(
      f"{path} is neither a run's folder, nor an exported model, nor weights "
      "that Keras saved: give a folder, NAME.npz, NAME.weights.h5 or NAME.index"
    )
  read = _read_h5 if path.endswith(".h5") else _read_ckpt
  model = model_of(config, vocab_size)
  try:
    weights, has_more = read(prefix, config.num_layers)
    if has_more:
      raise ValueError(f"it has more than {config.num_layers} GRU layers")
    if not all_finite(*weights):
      raise ValueError("its weights are not finite")
    model.set_weights(weights)
  except Exception as error:  # damaged files raise all kinds
    raise InputError(
      f"{path} has no weights of a GRULM with these flags ({error}): save them "
      "with save_weights, and give the corpus and the sizes of that model, and "
      "--layer=gru"
    ) from error
  return model


def _names(num_layers: int) -> Iterator[tuple[str, str, int]]:
  """Yields owner, name and index of each weight, in `get_weights`' order."""
  yield "embedding", "embeddings", 0
  for i in range(num_layers):
    for index, name in enumerate(("kernel", "recurrent_kernel", "bias")):
      yield f"{_layer(i)}/cell", name, index
  yield "dense", "kernel", 0
  yield "dense", "bias", 1


def _layer(i: int) -> str:
  """Returns the name of the i-th recurrent layer, from 0."""
  return f"gru_{i}" if i else "gru"


def _read_ckpt(prefix: str, num_layers: int) -> tuple[list[np.ndarray], bool]:
  """Returns the weights, and whether the file has more layers."""
  key = "{}/{}/.ATTRIBUTES/VARIABLE_VALUE".format
  refuse_pattern(prefix)
  # `load_checkpoint` takes the prefix `model/` for a folder of checkpoints.
  reader = tf.compat.v1.train.NewCheckpointReader(prefix)
  weights = [
    reader.get_tensor(key(owner, name)) for owner, name, _ in _names(num_layers)
  ]
  return weights, reader.has_tensor(key(f"{_layer(num_layers)}/cell", "bias"))


def _read_h5(path: str, num_layers: int) -> tuple[list[np.ndarray], bool]:
  """Returns the weights, and whether the file has more layers."""
  with h5py.File(path) as file:
    weights = [
      np.asarray(file[f"{owner}/vars/{index}"])
      for owner, _, index in _names(num_layers)
    ]
    return weights, _layer(num_layers) in file
