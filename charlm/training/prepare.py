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
from pathlib import Path
from typing import Any, NamedTuple

from charlm.config import Config
from charlm.data.corpus import Split, load_texts
from charlm.data.text_to_ids import Corpus
from charlm.errors import InputError
from charlm.runs.initial import open_initial
from charlm.runs.run import open_run
from charlm.runs.run_dir import RunDir
from charlm.system.flags import parse
from charlm.system.process import say
from charlm.training.train_options import TrainOptions

_RECIPES = Path(__file__).parents[2] / "recipes"
# What `--recipe=auto` chooses, by the largest number of characters of the train
# text that it is for (recipes/LOG.md). All of them split a text alike.
_AUTO = (
  (200_000, "text-100k"),
  (600_000, "text-300k"),
  (3_000_000, "text-1M"),
  (30_000_000, "text-10M"),
  (2**63, "text-100M"),
)
# With `--init_from`, `auto` chooses the recipe `finetune` up to this size.
_FINETUNE_AT_MOST = 600_000


class Prepared(NamedTuple):
  """What a start trains with."""

  options: TrainOptions
  corpus: Corpus
  split: Split


def prepare(given: Mapping[str, Any]) -> Prepared:
  """Completes the options of a start, and loads its texts.

  Args:
    given: the values of flags, by name.

  Raises:
    InputError: bad values, a text or a recipe that cannot be read, or a run in
      `run_dir` that began with another recipe.
    OSError: the ids of the corpus cannot be written.
  """
  run_dir = RunDir(given.get("run_dir", TrainOptions.run_dir))
  if run_dir.exists():
    return _resume(given, run_dir)
  if "corpus" not in given:  # or else --run_dir may be mistyped
    say(
      f"a new run begins in {run_dir.path}, on the plays of Shakespeare: "
      "--corpus takes another text, Ctrl-C stops it\n"
    )
  values, recipe = dict(given), given.get("recipe", "")
  if initial := open_initial(given.get("init_from", "")):
    values = initial.settings | values
  auto = recipe == "auto"
  options = _with_recipe(_AUTO[0][1] if auto else recipe, values)
  corpus, split = load_texts(options.config, options.corpus_cache)
  if auto:
    size = len(split.train)
    recipe = next(name for at_most, name in _AUTO if size <= at_most)
    if given.get("init_from") and size <= _FINETUNE_AT_MOST:
      recipe = "finetune"
    options = _with_recipe(recipe, values)
  return Prepared(options, corpus, split)


def _resume(given: Mapping[str, Any], run_dir: RunDir) -> Prepared:
  """Completes the options by the config of the run that is resumed."""
  config = open_run(run_dir.path).config
  recipe = given.get("recipe") or "auto"
  if recipe not in ("auto", config.recipe):
    raise InputError(
      f"the run in {run_dir.path} began with {config.recipe or 'no'} recipe, "
      f"not {recipe}: to train its model by that, "
      f"{_begin_a_new_run(run_dir, config, recipe, given)}"
    )
  numbers = {n: given[n] for n in ("epochs", "max_steps") if n in given}
  longer = any(value != getattr(config, n) for n, value in numbers.items())
  if longer and config.schedule != "constant":
    raise InputError(
      f"the learning rate of the run in {run_dir.path} falls to zero in "
      f"{config.epochs} epochs, so it cannot be trained for another number of "
      "them: to train its model further, "
      f"{_begin_a_new_run(run_dir, config, config.recipe, given)}"
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
      f"{error} (flags that are not given are those of {run_dir.config_path}: "
      "if they do not go with yours, leave yours out, or give a new --run_dir)"
    ) from error
  try:
    corpus, split = load_texts(options.config, options.corpus_cache)
  except InputError as error:
    raise InputError(
      f"{error} (paths that are not given are those of {run_dir.config_path}: "
      "if a text was moved, give --corpus, --eval_corpus or --valid_corpus)"
    ) from error
  return Prepared(options, corpus, split)


def _begin_a_new_run(
  run_dir: RunDir, config: Config, recipe: str, given: Mapping[str, Any]
) -> str:
  """Returns the command of a new run that begins with the model of a run."""
  # Which text, and how it is split.
  fields = itertools.takewhile(lambda x: x[0] != "recipe", vars(config).items())
  command = [
    f"--{name}={value}"
    for name, value in fields
    if value != getattr(Config, name)
  ]
  command.insert(0, f"--init_from={run_dir.path}")
  command += [f"--recipe={recipe}"] if recipe else []
  numbers = [n for n in ("epochs", "max_steps") if n in given]
  command += [f"--{name}={given[name]}" for name in numbers]
  command += ["--run_dir=another/folder"]
  return f"begin a new run, train.py {shlex.join(command)}"


def _with_recipe(recipe: str, values: Mapping[str, Any]) -> TrainOptions:
  """Returns options with what a recipe, if there is one, adds to `values`."""
  settings = _read(recipe) if recipe else {}
  # What the values decide otherwise, or what has no meaning beside them.
  ignored = set(values)
  for part in ("eval", "valid"):
    names = {f"{part}_lines", f"{part}_chars", f"{part}_corpus"}
    ignored |= names if names & values.keys() else set()
  if values.get("schedule") == "constant":
    ignored.add("warmup_steps")
  if values.get("carry_state") is False:
    ignored.add("reset_rate")
  added = {n: value for n, value in settings.items() if n not in ignored}
  return TrainOptions(**(added | dict(values) | {"recipe": recipe}))


def _read(recipe: str) -> dict[str, Any]:
  """Returns the values that a recipe gives, by the names of their flags.

  Raises InputError: there is no such recipe.
  """
  path = _RECIPES / f"{recipe}.flags"
  if not _RECIPES.is_dir():
    raise InputError(
      "the installed package has no recipes: leave out recipe, or install a "
      "clone by pip install -e"
    )
  if not path.is_file():
    names = ", ".join(sorted(path.stem for path in _RECIPES.glob("*.flags")))
    raise InputError(f"recipe is {recipe!r}: give one of auto, {names}")
  try:
    return parse([f"--flagfile={path}"], Config)
  except Exception as error:  # the flags module's own
    raise InputError(
      f"{path}: {error}: give flags that define a run"
    ) from error
