"""Weights that `GRULM.save_weights` wrote.

Keras 3 writes `NAME.weights.h5`, Keras 2 a TensorFlow checkpoint `NAME.index`
and `NAME.data-00000-of-00001`. Only arrays are read, nothing is executed.
"""

import collections
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import h5py
import numpy as np
import tensorflow as tf

from charlm.config import Config
from charlm.errors import InputError
from charlm.model.language_model import LanguageModel, model_of
from charlm.system.files import plain_path

_Spec = tuple[str, str, tuple[int, ...]]  # of a weight: owner, name and shape


def load_keras_weights(
  path: str, config: Config, vocab_size: int
) -> LanguageModel:
  """Returns a model of a config's sizes with the weights of a file.

  Args:
    path: the file; for a checkpoint, `.index` may be left out.
    config: gives the sizes of the model.
    vocab_size: V of the corpus, whose vocabulary must be that of the weights.

  Raises InputError: no such weights, or weights of other shapes.
  """
  # TensorFlow wants the prefix of two files; a user may name the index.
  prefix = path.removesuffix(".index")
  if not os.path.isfile(path if path.endswith(".h5") else f"{prefix}.index"):
    raise InputError(
      f"{path} is neither a run's folder, nor an exported model, nor weights "
      "that Keras saved: give a folder, NAME.npz, NAME.weights.h5 or NAME.index"
    )
  if config.layer != "gru":
    raise InputError(
      f"--init_from={path} has weights of a GRULM: leave out --layer, or give "
      "a run"
    )
  if config.layer_norm:
    raise InputError(
      f"--init_from={path} has weights of Keras, whose GRU has no layer "
      "normalisation: give --nolayer_norm"
    )
  read = _read_h5 if path.endswith(".h5") else _read_ckpt
  try:
    weights = list(read(prefix, _weight_specs(config, vocab_size)))
    if not all(np.isfinite(weight).all() for weight in weights):
      raise InputError(f"{path} has weights that are not finite: give others")
  except InputError:
    raise
  except Exception as error:  # h5py and TensorFlow raise all kinds for damage
    raise InputError(
      f"{path} has no weights of a GRULM with these flags ({error}): save them "
      "with save_weights, and give the model's --num_layers"
    ) from error
  model = model_of(config, vocab_size)
  model.set_weights(weights)
  return model


def _weight_specs(config: Config, vocab_size: int) -> Iterator[_Spec]:
  """Yields owner, name and shape of each weight, as `get_weights` has them."""
  depth, units = config.embedding_dim, config.rnn_units
  yield "embedding", "embeddings", (vocab_size, depth)
  for i in range(config.num_layers):
    gru = f"gru_{i}" if i else "gru"
    # Keras lists a layer's own weights before those of its cell.
    if config.layer_norm:
      yield gru, "gain", (3 * units,)
    yield f"{gru}/cell", "kernel", (depth, 3 * units)
    yield f"{gru}/cell", "recurrent_kernel", (units, 3 * units)
    yield f"{gru}/cell", "bias", (2, 3 * units)
    depth = units
  yield "dense", "kernel", (units, vocab_size)
  yield "dense", "bias", (vocab_size,)


def _read_ckpt(prefix: str, specs: Iterable[_Spec]) -> Iterator[np.ndarray]:
  with plain_path(Path(prefix)) as path:
    reader = tf.compat.v1.train.NewCheckpointReader(path)
    shapes = reader.get_variable_to_shape_map()
    for owner, name, shape in specs:
      key = f"{owner}/{name}/.ATTRIBUTES/VARIABLE_VALUE"
      _check_shape(
        path=prefix,
        name=f"{owner}/{name}",
        there=tuple(shapes[key]),
        here=shape,
      )
      yield np.asarray(reader.get_tensor(key), np.float32)


def _read_h5(path: str, specs: Iterable[_Spec]) -> Iterator[np.ndarray]:
  numbers = collections.Counter[str]()  # of the next variable of an owner
  with h5py.File(path) as file:
    for owner, name, shape in specs:
      data = file[f"{owner}/vars/{numbers[owner]}"]
      numbers[owner] += 1
      _check_shape(
        path=path, name=f"{owner}/{name}", there=data.shape, here=shape
      )
      # Data can be truncated: checked before memory is allocated.
      if data.id.get_storage_size() < data.nbytes:
        raise ValueError(f"{data.name} is truncated")
      yield np.asarray(data, np.float32)


def _check_shape(
  *, path: str, name: str, there: tuple[int, ...], here: tuple[int, ...]
) -> None:
  if there != here:
    raise InputError(
      f"{name} has the shape {list(there)} in {path}, but the vocabulary and "
      f"the flags give {list(here)}: give the corpus and sizes of that model"
    )
