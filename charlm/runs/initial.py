"""What a new run begins with: the weights that `--init_from` names."""

import os

from charlm.config import SAME_AS_INITIAL, Config
from charlm.errors import InputError
from charlm.model.keras_weights import load_keras_weights
from charlm.model.language_model import LanguageModel
from charlm.model.layers import RecurrentLayer
from charlm.runs.run import Run, open_run
from charlm.runs.run_dir import RunDir
from charlm.runs.trained_model import load_model
from charlm.system.process import say


def open_initial(run_dir: RunDir, config: Config) -> Run | None:
  """Opens the run that this run begins with.

  It is None without `init_from`, for a file of weights, and once this run has
  checkpoints: they hold newer weights, and the initial run may be gone.
  """
  if not config.init_from or run_dir.checkpoint_steps():
    return None
  is_folder = os.path.isdir(config.init_from)
  return open_run(config.init_from) if is_folder else None


def load_initial(
  *,
  run_dir: RunDir,
  initial: Run | None,
  config: Config,
  vocab_size: int,
  layer: type[RecurrentLayer] | None = None,
) -> LanguageModel | None:
  """Returns the model that this run begins with, if it is not a new one.

  The vocabulary of an initial run may be shorter than this run's; a file of
  weights must have one of the same size.

  Raises InputError: no such model, or one of other sizes.
  """
  if not config.init_from or run_dir.checkpoint_steps():
    return None
  if initial is None:
    return load_keras_weights(config.init_from, config, vocab_size)
  for name in SAME_AS_INITIAL:
    here, there = getattr(config, name), getattr(initial.config, name)
    if here != there:
      raise InputError(
        f"{name} is {here}, but {there} in {initial.dir.path}: give "
        f"--{name}={there}"
      )
  which = initial.which_checkpoint("auto")
  model, step = load_model(initial, which, layer)
  say(f"initial  {initial.dir.path}: the {which} checkpoint, step {step:,}\n")
  return model
