"""The initial model, with which a new run begins: `--init_from` names it.

It is that of a run, or what `export.py --format=npz` wrote, or weights that
Keras saved. The name `english` stands for a model that comes with charlm.
"""

import dataclasses
import os
from pathlib import Path
from typing import Any

from charlm.config import SAME_AS_INITIAL, Config
from charlm.data.text import sha256
from charlm.errors import InputError
from charlm.runs.numpy_file import NumpyFile, read_numpy
from charlm.runs.run import Run, open_run

_MODELS = Path(__file__).parents[2] / "models"
# By name, the hash of the file in models/.
_KNOWN = {
  "english": "803f6b369a5a0dd1c07d2a31c4c8cf7aed95b6f1ab2182664b67af1547b22606"
}


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
      if (here := getattr(config, name)) != there:
        raise InputError(
          f"{name} is {here}, but {there} in {self.name}: give --{name}={there}"
        )


def open_initial(name: str) -> Initial | None:
  """Opens what `--init_from` names.

  It is None for an empty name, and for weights of Keras: they have no
  vocabulary, and the flags tell their sizes.

  Raises InputError: damaged, or not the file that came with charlm.
  """
  if not name:
    return None
  path = Path(os.path.expanduser(name))
  if name in _KNOWN:
    path = _MODELS / f"{name}.npz"
    if not path.is_file() or sha256([path.read_bytes()]) != _KNOWN[name]:
      raise InputError(
        f"{path} is missing or damaged: restore it in a clone (git checkout "
        f"models), or give --init_from=./{name} for a folder of that name"
      )
  if path.is_dir():
    run = open_run(path)
    settings = {field: getattr(run.config, field) for field in SAME_AS_INITIAL}
    return Initial(name, settings, run.vocab, run)
  if path.suffix == ".npz" and path.is_file():
    file = read_numpy(path)
    return Initial(name, file.settings, file.vocab, file)
  return None
