"""What a start trains with: flags, then the run's config, then a recipe.

A value comes from the first of these that has one:

1. the flags, also those in a file of `--flagfile`
2. the config of the run that is resumed
3. the initial model, which `--init_from` names: unit, layer, and sizes
4. the recipe that `--recipe` names
5. the default

TensorFlow is not needed yet, so wrong flags and paths are refused at once.
"""

import itertools
import shlex
from collections.abc import Mapping
from typing import Any, NamedTuple

from charlm.config import Config
from charlm.data.corpus import Corpus
from charlm.data.split import Split, load_texts
from charlm.errors import InputError
from charlm.runs.initial import Initial, open_initial
from charlm.runs.run import Run, open_run, run_exists, run_folder
from charlm.system.messages import say
from charlm.training.options import TrainOptions
from charlm.training.recipes import SIZES_OF_AUTO, recipe_of_auto, with_recipe


class Prepared(NamedTuple):
  """What a start trains with."""

  options: TrainOptions
  corpus: Corpus
  split: Split
  run: Run | None  # the one that is resumed
  initial: Initial | None  # of a new run, as `open_initial` returns it


def prepare(given: Mapping[str, Any]) -> Prepared:
  """Completes the options of a start, and opens texts, run, initial model.

  Args:
    given: the values of flags, by name.

  Raises:
    InputError: bad values, a text or a recipe that cannot be read, or a run in
      `run_dir` that began with another recipe.
    OSError: the ids of the corpus cannot be written.
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
  # The recipes of `auto` split a text alike.
  options = with_recipe(SIZES_OF_AUTO[0][1] if auto else recipe, values)
  corpus, split = load_texts(options.config, options.corpus_cache)
  if auto:
    recipe = recipe_of_auto(
      len(split.train), has_initial=bool(options.init_from)
    )
    options = with_recipe(recipe, values)
  return Prepared(options, corpus, split, run=None, initial=initial)


def _resume(given: Mapping[str, Any], run: Run) -> Prepared:
  """Completes the options by the config of the run that is resumed."""
  config = run.config
  recipe = given.get("recipe") or "auto"
  if recipe not in ("auto", config.recipe):
    raise InputError(
      f"the run in {run.path} began with {config.recipe or 'no'} recipe, "
      f"not {recipe}: to train its model by that, "
      f"{_begin_a_new_run(run, recipe, given)}"
    )
  numbers = {n: given[n] for n in ("epochs", "max_steps") if n in given}
  longer = any(value != getattr(config, n) for n, value in numbers.items())
  if longer and config.schedule != "constant":
    raise InputError(
      f"the learning rate of the run in {run.path} falls to zero at its end: "
      "to train longer, "
      f"{_begin_a_new_run(run, config.recipe, given)}"
    )
  stored = dict(vars(config))
  epochs = given.get("epochs")
  if isinstance(epochs, int) and epochs > config.epochs:
    del stored["max_steps"]  # else it would end the longer run
  values = stored | dict(given) | {"recipe": config.recipe}
  try:
    options = TrainOptions(**values)
  except InputError as error:
    raise InputError(
      f"{error} (flags that are not given are those of {run.config_path}: "
      "if they do not go with yours, leave yours out, or give a new --run_dir)"
    ) from error
  try:
    corpus, split = load_texts(options.config, options.corpus_cache)
  except InputError as error:
    raise InputError(
      f"{error} (paths that are not given are those of {run.config_path}: "
      "if a text was moved, give --corpus, --eval_corpus or --valid_corpus)"
    ) from error
  return Prepared(options, corpus, split, run=run, initial=None)


def _begin_a_new_run(run: Run, recipe: str, given: Mapping[str, Any]) -> str:
  """Returns the command of a new run that begins with the model of a run."""
  # Which text, and how it is split.
  values = vars(run.config).items()
  fields = itertools.takewhile(lambda field: field[0] != "recipe", values)
  command = [
    f"--{name}={value}"
    for name, value in fields
    if value != getattr(Config, name)
  ]
  command.insert(0, f"--init_from={run.path}")
  command += [f"--recipe={recipe}"] if recipe else []
  numbers = [n for n in ("epochs", "max_steps") if n in given]
  command += [f"--{name}={given[name]}" for name in numbers]
  command += ["--run_dir=another/folder"]
  return f"begin a new run, train.py {shlex.join(command)}"
