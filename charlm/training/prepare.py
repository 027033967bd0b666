"""What a start trains with: flags, then the run's config, then a recipe.

A value comes from the first of these that has one:

1. the flags, also those in a file of `--flagfile`
2. the config of the run that is resumed
3. the initial run, which `--init_from` names: unit, layer, and sizes
4. the recipe that `--recipe` names
5. the default

TensorFlow is not needed yet, so wrong flags and paths are refused at once.
"""

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from charlm.config import OF_INITIAL_RUN, Config
from charlm.data.corpus import Split, load_texts
from charlm.data.text_to_ids import Corpus
from charlm.errors import InputError
from charlm.runs.run import open_run
from charlm.runs.run_dir import RunDir
from charlm.system.flags import parse
from charlm.training.train_options import TrainOptions

_RECIPES = Path(__file__).parents[2] / "recipes"
# What `--recipe=auto` chooses, by the largest number of characters of the train
# text that it is for (recipes/LOG.md).
_AUTO = ((3_000_000, "small"), (2**63, "fast"))
# How a recipe of `auto` takes the valid text.
_KEPT_APART = {"valid_lines": -1}


class Prepared(NamedTuple):
  """What a start trains with."""

  options: TrainOptions
  corpus: Corpus
  split: Split


def prepare(
  given: Mapping[str, Any], in_files: Collection[str] = ()
) -> Prepared:
  """Completes the options of a start, and loads its texts.

  Args:
    given: the values of flags, by name.
    in_files: the names of those that only flag files give. If the layer lacks
      such an option, or one of the recipe, it has its default.

  Raises:
    InputError: bad values, a text or a recipe that cannot be read, or a run in
      `run_dir` that began with another recipe.
    OSError: the ids of the corpus cannot be written.
  """
  run_dir = RunDir(given.get("run_dir", TrainOptions.run_dir))
  recipe = given.get("recipe", "")
  initial = os.path.expanduser(given.get("init_from", ""))
  values, dropped = dict(given), set(in_files)
  if run_dir.exists():
    config = open_run(run_dir.path).config
    if recipe not in ("", "auto", config.recipe):
      raise InputError(
        f"the run in {run_dir.path} began with {config.recipe or 'no'} recipe, "
        f"not {recipe}: to train its model by that, begin a new run, train.py "
        f"--init_from={run_dir.path} --corpus={config.corpus} "
        f"--recipe={recipe} --run_dir=another/folder"
      )
    stored = dict(vars(config))
    if values.get("epochs", config.epochs) != config.epochs:
      del stored["max_steps"]  # more epochs extend the run beyond it
    values = stored | values | {"recipe": config.recipe}
    recipe = ""
  elif os.path.isdir(initial):
    config = open_run(initial).config
    values = {name: getattr(config, name) for name in OF_INITIAL_RUN} | values
  texts = None
  if recipe == "auto":
    config = Config.of_texts({**_without_parts(_KEPT_APART, values), **values})
    texts = load_texts(config, values.get("corpus_cache", ""))
    size = len(texts[1].train)
    recipe = next(name for at_most, name in _AUTO if size <= at_most)
  if recipe:
    settings = _without_parts(_read(recipe), values)
    dropped |= settings.keys() - values.keys()
    values = settings | values | {"recipe": recipe}
  options = TrainOptions(**values, from_flag_file=tuple(sorted(dropped)))
  try:
    texts = texts or load_texts(options.config, options.corpus_cache)
  except InputError as error:
    if run_dir.exists() and "corpus" not in given:
      raise InputError(
        f"{error} (the path is from {run_dir.config_path}: if the text was "
        "moved, give --corpus)"
      ) from error
    raise
  return Prepared(options, *texts)


def _read(recipe: str) -> dict[str, Any]:
  """Returns the values that a recipe gives, by the names of their flags.

  Raises InputError: there is no such recipe.
  """
  path = _RECIPES / f"{recipe}.flags"
  if not path.is_file():
    names = ", ".join(sorted(path.stem for path in _RECIPES.glob("*.flags")))
    raise InputError(f"recipe is {recipe!r}: give one of auto, {names}")
  return parse([f"--flagfile={path}"], Config)


def _without_parts(
  settings: dict[str, Any], values: Mapping[str, Any]
) -> dict[str, Any]:
  """Leaves out how a part of the text is chosen, if `values` say that."""
  kept = dict(settings)
  for part in ("eval", "valid"):
    names = {f"{part}_lines", f"{part}_chars", f"{part}_corpus"}
    if names & values.keys():
      kept = {name: x for name, x in kept.items() if name not in names}
  return kept
