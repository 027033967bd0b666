"""The initial model, with which a new run begins: `--init_from` names it.

It is that of a run, or what `export.py --format=npz` wrote, or weights that
Keras saved.

The format `.npz`: a model as NumPy arrays, which need no TensorFlow.

Arrays: `vocabulary` (JSON), `settings` (JSON: layer and sizes), `embeddings`
`[V, D]`; for each layer i, from 0 on, its weights by their names; then
`dense_kernel` `[H, V]` and `dense_bias` `[V]`. Those of a GRU are `kernel_i`
`[D, 3H]` (above the first layer, D is H), `recurrent_kernel_i` `[H, 3H]`,
`bias_i` `[2, 3H]` (of inputs, of states). The 3H columns are those of the
update gate, the reset gate, and the candidate. The weights are in the order of
Keras' `get_weights`.
"""

import dataclasses
import io
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from charlm.config import SAME_AS_INITIAL, Config, without_layer_norm
from charlm.data.vocabulary import vocabulary_to_json
from charlm.errors import InputError
from charlm.runs.run import Run, is_model, open_run
from charlm.system.files import write_atomically


class NumpyFile(NamedTuple):
  """What a file holds."""

  settings: dict[str, Any]  # of the config, those of `SAME_AS_INITIAL`
  vocab: list[str]
  weights: dict[str, np.ndarray]  # in the order of `get_weights`


def write_numpy(content: NumpyFile, path: Path) -> None:
  """Writes a file; raises OSError: it cannot be written."""
  arrays: dict[str, Any] = {
    "vocabulary": vocabulary_to_json(content.vocab),
    "settings": json.dumps(content.settings),
    **content.weights,
  }
  data = io.BytesIO()
  np.savez(data, **arrays)
  path.parent.mkdir(parents=True, exist_ok=True)
  write_atomically(path, [data.getvalue()])


def read_numpy(path: Path) -> NumpyFile:
  """Reads a file, with weights as float32; nothing in it is executed.

  Raises InputError: it is missing, damaged, or not such a file.
  """
  try:
    # NumPy leaves a damaged file open, if it has opened it.
    with path.open("rb") as data, np.load(data, allow_pickle=False) as file:
      weights = dict(file)
    vocab = json.loads(str(weights.pop("vocabulary")))
    there = json.loads(str(weights.pop("settings")))
    settings = {name: there[name] for name in SAME_AS_INITIAL}
    weights = {n: x.astype(np.float32) for n, x in weights.items()}
  except Exception as error:  # NumPy and zipfile raise all kinds for damage
    raise InputError(
      f"{path} is no model that export.py --format=npz wrote "
      f"({type(error).__name__}: {error}): export it again"
    ) from error
  try:
    without_layer_norm(there)
  except InputError as error:
    raise InputError(f"{path}: {error}") from error
  return NumpyFile(settings, vocab, weights)


@dataclasses.dataclass(frozen=True)
class Initial:
  """A model to begin with, before its weights are read."""

  name: str
  settings: dict[str, Any]  # of the config, those of `SAME_AS_INITIAL`
  vocab: list[str]
  source: Run | NumpyFile

  def check(self, config: Config) -> None:
    """Raises InputError: a new run's config has other sizes."""
    for name, there in self.settings.items():
      here = getattr(config, name)
      if str(here).lower() != str(there).lower():
        raise InputError(
          f"{name} is {here}, but {there} in {self.name}: give --{name}={there}"
        )


def open_initial(name: str) -> Initial | None:
  """Opens what `--init_from` names.

  It is None for an empty name, and for weights of Keras: they have no
  vocabulary, and the flags tell their sizes.

  Raises InputError: damaged, or a folder without a run.
  """
  if not name:
    return None
  path = Path(os.path.expanduser(name))
  if path.suffix == ".npz" and path.is_file():
    file = read_numpy(path)
    return Initial(name, file.settings, file.vocab, file)
  if path.is_dir() or is_model(path):
    run = open_run(path)
    settings = {field: getattr(run.config, field) for field in SAME_AS_INITIAL}
    return Initial(name, settings, run.vocab, run)
  return None
