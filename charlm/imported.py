"""Weights that `GRULM` saved with Keras, in a file of their own.

Keras 3 writes `NAME.weights.h5`, Keras 2 a TensorFlow checkpoint `NAME.index`
and `NAME.data-00000-of-00001`. Only arrays are read, nothing is executed.
"""

import os
from collections.abc import Iterator

import h5py
import numpy as np
import tensorflow as tf

from charlm.config import Config, InputError
from charlm.model import GRULM, layer_names, model_of

_GRU_WEIGHTS = ("kernel", "recurrent_kernel", "bias")


def load_keras_weights(path: str, config: Config, vocab_size: int) -> GRULM:
  """Returns a model of a config's sizes with the weights of a file.

  Args:
    path: of the file; of a checkpoint also without `.index`.
    config: its sizes count.
    vocab_size: V of the corpus, whose vocabulary must be that of the weights.

  Raises InputError: no such weights, or weights of other shapes.
  """
  if config.layer_norm:
    raise InputError(
      "Keras' GRU has no layer normalisation: leave out --layer_norm, or "
      f"--init_from={path}"
    )
  model = model_of(config, vocab_size)
  names = list(_names(config.num_layers))
  weights = _read(path, names)
  for name, here, there in zip(
    names, model.get_weights(), weights, strict=True
  ):
    if here.shape != there.shape:
      raise InputError(
        f"{'/'.join(name)} has the shape {list(there.shape)} in {path}, but "
        f"{list(here.shape)} by the corpus' vocabulary of {vocab_size} and the "
        "flags: give the corpus and the sizes that it was trained with"
      )
  model.set_weights(weights)
  return model


def _names(num_layers: int) -> Iterator[tuple[str, str]]:
  """Yields the path of each weight, in the model's order."""
  first, *grus, last = layer_names(num_layers)
  yield first, "embeddings"
  for gru in grus:
    for name in _GRU_WEIGHTS:
      yield f"{gru}/cell", name
  yield last, "kernel"
  yield last, "bias"


def _read(path: str, names: list[tuple[str, str]]) -> list[np.ndarray]:
  try:
    if path.endswith(".h5"):
      return _read_h5(path, names)
    prefix = path.removesuffix(".index")
    if os.path.exists(f"{prefix}.index"):
      reader = tf.train.load_checkpoint(prefix)
      suffix = ".ATTRIBUTES/VARIABLE_VALUE"
      return [reader.get_tensor(f"{a}/{b}/{suffix}") for a, b in names]
  except (OSError, KeyError, ValueError, tf.errors.OpError) as error:
    raise InputError(
      f"{path} has no weights of such a GRULM ({error}): save them with its "
      "save_weights, and give its --num_layers"
    ) from error
  raise InputError(
    f"{path} is neither a run's folder nor weights that Keras saved: give "
    "NAME.weights.h5, or NAME of NAME.index"
  )


def _read_h5(path: str, names: list[tuple[str, str]]) -> list[np.ndarray]:
  counts: dict[str, int] = {}
  weights = []
  with h5py.File(path) as file:
    for owner, _ in names:  # whose variables are numbered in their order
      number = counts.get(owner, 0)
      weights.append(np.asarray(file[f"{owner}/vars/{number}"]))
      counts[owner] = number + 1
  return weights
