"""Recipes: files of flags that complete the settings of a new run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from charlm.config import Config
from charlm.errors import InputError
from charlm.system.flags import parse
from charlm.training.options import TrainOptions

_RECIPES = Path(__file__).parents[2] / "recipes"
# The recipes of `--recipe=auto`, each for train texts of up to this many
# characters (recipes/LOG.md). All of them split a text alike.
SIZES_OF_AUTO = (
  (200_000, "text-100k"),
  (600_000, "text-300k"),
  (3_000_000, "text-1M"),
  (30_000_000, "text-10M"),
  (2**63, "text-100M"),
)
# From an initial model, `auto` chooses `finetune` for train texts up to this
# size; up to there, it also finds out whether to begin with `english`.
FINETUNE_AT_MOST = 600_000


def recipe_of_auto(num_characters: int, has_initial: bool) -> str:
  """Returns the recipe that `auto` chooses for a train text.

  Args:
    num_characters: the size of the train text.
    has_initial: whether the run starts from an initial model.
  """
  if has_initial and num_characters <= FINETUNE_AT_MOST:
    return "finetune"
  return next(name for most, name in SIZES_OF_AUTO if num_characters <= most)


def with_recipe(recipe: str, values: Mapping[str, Any]) -> TrainOptions:
  """Returns `values`, completed with the settings of a recipe, if any.

  Raises InputError: there is no such recipe, or a value is not allowed.
  """
  settings = _read(recipe) if recipe else {}
  # Settings that the values override or make meaningless.
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


def shown_settings(config: Config) -> dict[str, Any]:
  """Returns the settings that TensorBoard's page HParams shows for a run.

  The page has room for five, so one of them lists everything that differs from
  the recipe or, without one, from the defaults. The corpus comes last, since
  its name may be long.
  """
  try:
    usual = with_recipe(config.recipe, {}).config
  except InputError:  # the run began with a recipe of another commit
    usual = Config()
  fields = vars(config)
  shown = {n: fields[n] for n in ("recipe", "layer", "learning_rate", "seed")}
  others = [
    f"{name}={fields[name]}"
    for name in (*sorted(fields.keys() - {"corpus"}), "corpus")
    if name not in shown and fields[name] != getattr(usual, name)
  ]
  return shown | {"settings": " ".join(others)}


def _read(recipe: str) -> dict[str, Any]:
  """Reads the flags in a recipe's file: maps their names to their values.

  Raises InputError: there is no such recipe.
  """
  path = _RECIPES / f"{recipe}.flags"
  if not _RECIPES.is_dir():
    raise InputError(
      "the installed package has no recipes: leave out recipe, or install a "
      "clone with pip install -e"
    )
  if not path.is_file():
    names = ", ".join(sorted(path.stem for path in _RECIPES.glob("*.flags")))
    raise InputError(f"recipe is {recipe!r}: give one of auto, {names}")
  try:
    return parse([f"--flagfile={path}"], Config)
  except Exception as error:  # of the flags module
    raise InputError(
      f"{path}: {error}: give flags that define a run"
    ) from error
