"""The initial model of a new run: the one that `--init_from` names.

It comes from a run, a file of `export.py --format=npz`, or weights that Keras
saved.

An `.npz` file holds a model as NumPy arrays, so reading it needs no TensorFlow:
`vocabulary` (JSON), `settings` (JSON: layer and sizes), `embeddings` `[V, D]`;
for each layer i, counted from 0, its weights by name; then `dense_kernel`
`[H, V]` and `dense_bias` `[V]`. A GRU has `kernel_i` `[D, 3H]` (above the first
layer, D is H), `recurrent_kernel_i` `[H, 3H]`, and `bias_i` `[2, 3H]` (inputs,
then states). The 3H columns belong to the update gate, the reset gate, and the
candidate. The weights are in the order of Keras' `get_weights`.
"""

import contextlib
import dataclasses
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from charlm.config import SAME_AS_INITIAL, Config, without_removed
from charlm.data.vocabulary import vocabulary_to_json
from charlm.errors import InputError
from charlm.runs.run import Run, is_model, open_run
from charlm.system.files import write_atomically


class NumpyFile(NamedTuple):
  """The content of an `.npz` file."""

  settings: dict[str, Any]  # the config's fields in `SAME_AS_INITIAL`
  vocab: list[str]
  weights: dict[str, np.ndarray]  # in the order of `get_weights`


def write_numpy(content: NumpyFile, path: Path) -> None:
  """Writes an `.npz` file.

  Raises OSError: it cannot be written.
  """
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
  """Reads an `.npz` file, weights as float32; executes nothing in it.

  Raises InputError: it is missing, damaged, or of another kind.
  """
  try:
    # NumPy does not close a damaged file that it opened itself.
    with path.open("rb") as data, np.load(data, allow_pickle=False) as file:
      weights = dict(file)
    vocab = json.loads(str(weights.pop("vocabulary")))
    all_settings = json.loads(str(weights.pop("settings")))
    settings = {name: all_settings[name] for name in SAME_AS_INITIAL}
    weights = {n: x.astype(np.float32) for n, x in weights.items()}
  except Exception as error:  # NumPy and zipfile raise many types for damage
    raise InputError(
      f"{path} is not a model that export.py --format=npz wrote "
      f"({type(error).__name__}: {error}): export it again"
    ) from error
  try:
    without_removed(all_settings)
  except InputError as error:
    raise InputError(f"{path}: {error}") from error
  return NumpyFile(settings, vocab, weights)


@dataclasses.dataclass(frozen=True)
class Initial:
  """An initial model whose weights are not read yet."""

  name: str
  settings: dict[str, Any]  # the config's fields in `SAME_AS_INITIAL`
  vocab: list[str]
  source: Run | NumpyFile

  def check(self, config: Config) -> None:
    """Raises InputError: the new run's config has another layer or size."""
    for name, theirs in self.settings.items():
      ours = getattr(config, name)
      if str(ours).lower() != str(theirs).lower():
        raise InputError(
          f"{name} is {ours}, but {theirs} in {self.name}: give "
          f"--{name}={theirs}"
        )


def open_initial(name: str) -> Initial | None:
  """Opens the model that `--init_from` names.

  Returns None for an empty name, and for weights that Keras saved: these have
  no vocabulary, and take their sizes from the flags.

  Raises InputError: it is damaged, or a folder without a run.
  """
  if not name:
    return None
  path = Path(os.path.expanduser(name))
  if path.suffix == ".npz" and path.is_file():
    file = read_numpy(path)
    return Initial(name, file.settings, file.vocab, file)
  if path.is_dir() or is_model(path):
    with remedy_for(name):
      run = open_run(path)
    settings = {field: getattr(run.config, field) for field in SAME_AS_INITIAL}
    return Initial(name, settings, run.vocab, run)
  return None


@contextlib.contextmanager
def remedy_for(name: str) -> Iterator[None]:
  """Adds to an error of an initial run how to begin without it."""
  try:
    yield
  except InputError as error:
    raise InputError(
      f"{error}, or begin without {name}: --init_from="
    ) from error
