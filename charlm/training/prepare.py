"""Collects the settings of a start, and opens its texts, run and initial model.

Each setting comes from the first of these that has a value:

1. the flags, also those in a file of `--flagfile`
2. the config of the resumed run
3. the initial model of `--init_from`: unit, layer, and sizes
4. the recipe of `--recipe`
5. the default

This does not import TensorFlow, so wrong flags and paths are refused at once.
"""

import itertools
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from charlm.config import SAME_AS_INITIAL, Config
from charlm.data.corpus import Corpus
from charlm.data.split import Split, load_texts
from charlm.errors import InputError
from charlm.runs.initial import Initial, open_initial
from charlm.runs.run import Run, is_model, open_run, run_exists, run_folder
from charlm.system.messages import say
from charlm.training.options import TrainOptions
from charlm.training.recipes import (
  FINETUNE_AT_MOST,
  SIZES_OF_AUTO,
  recipe_of_auto,
  with_recipe,
)


class Prepared(NamedTuple):
  """The settings of a start, and its open texts, run and initial model."""

  options: TrainOptions
  corpus: Corpus
  split: Split
  run: Run | None  # the resumed run; None for a new one
  initial: Initial | None  # the initial model of a new run
  # The same start from the model of English, if `auto` may choose that.
  english: "Prepared | None" = None


def prepare(given: Mapping[str, Any]) -> Prepared:
  """Completes the given flags, and opens texts, run and initial model.

  Args:
    given: maps the names of the given flags to their values.

  Raises:
    InputError: a value is bad, a text or recipe cannot be read, or the run in
      `run_dir` began with another recipe.
  """
  folder = run_folder(given.get("run_dir", TrainOptions.run_dir))
  if run_exists(folder):
    return _resume(given, open_run(folder))
  if "corpus" not in given:  # the --run_dir of an earlier run may be mistyped
    say(f"a new run, on plays of Shakespeare (or --corpus), in {folder}\n")
  values, recipe = dict(given), given.get("recipe", "")
  if initial := open_initial(given.get("init_from", "")):
    values = initial.settings | values
  auto = recipe == "auto"
  # All recipes of `auto` split a text alike, so the first will do for now.
  options = with_recipe(SIZES_OF_AUTO[0][1] if auto else recipe, values)
  corpus, split = load_texts(options.config)
  if auto:
    recipe = recipe_of_auto(
      len(split.train), has_initial=bool(options.init_from)
    )
    options = with_recipe(recipe, values)
  prepared = Prepared(options, corpus, split, run=None, initial=initial)
  return prepared._replace(english=_from_english(given, prepared))


def _from_english(
  given: Mapping[str, Any], prepared: Prepared
) -> Prepared | None:
  """Returns the start from the model of English, or None if it does not fit.

  Whether it knows the text is seen only when it is loaded.
  """
  if (
    given.get("recipe") != "auto"
    or given.keys() & {"init_from", *SAME_AS_INITIAL}
    or len(prepared.split.train) > FINETUNE_AT_MOST
    or not is_model(Path("english"))
  ):
    return None
  initial = open_initial("english")
  assert initial
  values = initial.settings | dict(given) | {"init_from": "english"}
  options = with_recipe("finetune", values)
  return prepared._replace(options=options, initial=initial)


def _resume(given: Mapping[str, Any], run: Run) -> Prepared:
  """Completes the given flags with the config of the resumed run."""
  config = run.config
  recipe = given.get("recipe") or "auto"
  if recipe not in ("auto", config.recipe):
    raise InputError(
      f"the run in {run.path} began with {config.recipe or 'no'} recipe, "
      f"not {recipe}: to train its model with that, "
      f"{_begin_a_new_run(run, recipe, given)}"
    )
  lengths = {n: given[n] for n in ("epochs", "max_steps") if n in given}
  changed = any(value != getattr(config, n) for n, value in lengths.items())
  if changed and config.schedule != "constant":
    raise InputError(
      f"the learning rate of the run in {run.path} falls to zero at its end: "
      "for another length, "
      f"{_begin_a_new_run(run, config.recipe, given)}"
    )
  stored = dict(vars(config))
  epochs = given.get("epochs")
  if isinstance(epochs, int) and epochs > config.epochs:
    del stored["max_steps"]  # it would end the run before these epochs
  values = stored | dict(given) | {"recipe": config.recipe}
  try:
    options = TrainOptions(**values)
  except InputError as error:
    raise InputError(
      f"{error} (all other flags are those in {run.config_path}: if yours do "
      "not fit them, leave yours out, or give a new --run_dir)"
    ) from error
  try:
    corpus, split = load_texts(options.config)
  except InputError as error:
    raise InputError(
      f"{error} (all other paths are those in {run.config_path}: if a text was "
      "moved, give --corpus, --eval_corpus or --valid_corpus)"
    ) from error
  return Prepared(options, corpus, split, run=run, initial=None)


def _begin_a_new_run(run: Run, recipe: str, given: Mapping[str, Any]) -> str:
  """Suggests the command of a new run that starts from a run's model."""
  # The fields before `recipe` choose the text and its parts.
  values = vars(run.config).items()
  fields = itertools.takewhile(lambda field: field[0] != "recipe", values)
  command = [
    f"--{name}={value}"
    for name, value in fields
    if value != getattr(Config, name)
  ]
  command.insert(0, f"--init_from={run.path}")
  command += [f"--recipe={recipe}"] if recipe else []
  lengths = [n for n in ("epochs", "max_steps") if n in given]
  command += [f"--{name}={given[name]}" for name in lengths]
  command += ["--run_dir=another/folder"]
  return f"begin a new run, train.py {shlex.join(command)}"
