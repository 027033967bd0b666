"""Options: typed fields with a help text, validated on construction.

`system/flags.py` turns the fields of such a class into a script's flags.
"""

import dataclasses
import math
import re
import typing
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from charlm.errors import InputError

_Value = TypeVar("_Value")


class Allowed(NamedTuple):
  """The allowed values of an option."""

  accepts: Callable[[Any], bool]
  description: str  # follows "give" in the error message


ANY = Allowed(lambda value: True, "")
FRACTION = Allowed(lambda value: 0 <= value < 1, "a number in [0, 1)")
NOT_NEGATIVE = Allowed(
  lambda value: 0 <= value < math.inf, "a finite number, at least 0"
)
POSITIVE = Allowed(
  lambda value: 0 < value < math.inf, "a finite number above 0"
)


def between(least: float, most: float = 2**31 - 1) -> Allowed:
  """Allows the numbers from `least` to `most`, by default int32's largest."""
  description = f"a number from {least:,} to {most:,}"
  return Allowed(lambda value: least <= value <= most, description)


def one_of(*values: str) -> Allowed:
  """Allows the given strings."""
  description = f"{', '.join(values[:-1])} or {values[-1]}"
  return Allowed(values.__contains__, description)


def is_utf8(text: str) -> bool:
  """Returns whether a text, such as a file name, can be encoded as UTF-8."""
  return not re.search(r"[\ud800-\udfff]", text)  # lone surrogates


def _is_path(text: str | None) -> bool:
  return text is None or (is_utf8(text) and "\0" not in text)


_UTF8 = "in UTF-8 (if the locale has another encoding: LC_ALL=C.UTF-8)"
UTF8 = Allowed(is_utf8, f"text {_UTF8}")
# For one file or folder. `system/flags.py` expands a leading `~`, because the
# shell does not in `--flag=~`.
PATH = Allowed(_is_path, f"a path {_UTF8}")


def option(
  default: _Value, help: str, allowed: Allowed = ANY, group: str = ""
) -> _Value:
  """Declares a field of an `Options` class.

  Args:
    default: the default value.
    help: the option's effect on the result, with its unit.
    allowed: the allowed values.
    group: the `--help` heading of this field and the following ones.

  Returns a dataclass field, which type checkers see as its default.
  """
  metadata = {"help": help, "allowed": allowed, "group": group}
  return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Options:
  """The base class of all options.

  Raises InputError: a value has the wrong type or is not allowed.
  """

  # Checked here, not when flags are parsed: a config can also come from a file
  # or from a user of the package.
  def __post_init__(self) -> None:
    for field in dataclasses.fields(self):
      value, allowed = getattr(self, field.name), field.metadata["allowed"]
      # Not `isinstance`, which takes True for an int. Only unions have args.
      if type(value) not in (typing.get_args(field.type) or [field.type]):
        name = getattr(field.type, "__name__", field.type)
        description = f"a value of type {name}"
      elif not allowed.accepts(value):
        description = allowed.description
      else:
        continue
      raise InputError(f"{field.name} is {value!r}: give {description}")


@dataclasses.dataclass(frozen=True)
class RunOptions(Options):
  """The options of every script."""

  run_dir: str = option(
    "runs/shakespeare", "folder of the run", PATH, group="The run"
  )
  device: str = option(
    "auto",
    "cpu, gpu, or auto: a GPU if there is one",
    one_of("auto", "cpu", "gpu"),
  )


@dataclasses.dataclass(frozen=True)
class ModelOptions(RunOptions):
  """The options of every script that loads a trained model."""

  run_dir: str = option(
    "runs",
    "folder of the run, english, or a folder of runs: the one saved last",
    PATH,
    group="The run",
  )
  checkpoint: str = option(
    "auto",
    "latest, best, or a step; auto: best if the run has a valid text, else "
    "latest",
  )
  layer: str = option("", "FILE.py:CLASS of the run's layer if it is your own")
