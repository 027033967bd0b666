"""Options: typed fields with a help text, checked when an object is made.

The flags of each script are the fields of such a class (`system/flags.py`).
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
  """The values that an option may have."""

  holds: Callable[[Any], bool]
  words: str  # what follows "give a value" in the message


ANY = Allowed(lambda value: True, "")
FRACTION = Allowed(lambda value: 0 <= value < 1, "in [0, 1)")
NOT_NEGATIVE = Allowed(lambda x: 0 <= x < math.inf, "of 0 or more, and finite")
POSITIVE = Allowed(lambda value: 0 < value < math.inf, "above 0, and finite")


def between(least: float, most: float = 2**31 - 1) -> Allowed:
  """Allows the numbers from `least` to `most`, by default int32's largest."""
  words = f"between {least:,} and {most:,}"
  return Allowed(lambda value: least <= value <= most, words)


def one_of(*values: str) -> Allowed:
  """Allows the given strings."""
  words = f"of {', '.join(values[:-1])} or {values[-1]}"
  return Allowed(values.__contains__, words)


def is_utf8(text: str) -> bool:
  """Tells whether a text, such as a file's name, can be written as UTF-8."""
  return not re.search(r"[\ud800-\udfff]", text)  # lone surrogates


def _is_path(text: str | None) -> bool:
  return text is None or (is_utf8(text) and "\0" not in text)


_UTF8 = "in UTF-8 (where the locale has another encoding: LC_ALL=C.UTF-8)"
UTF8 = Allowed(is_utf8, _UTF8)
# For one file or folder. `system/flags.py` expands a `~` at its start, since a
# shell leaves it as it is in `--flag=~`.
PATH = Allowed(_is_path, f"that is a path {_UTF8}")


def option(
  default: _Value, help: str, allowed: Allowed = ANY, group: str = ""
) -> _Value:
  """Declares a field of an `Options` class.

  Args:
    default: the value where none is given.
    help: what the option does to the result, with its unit.
    allowed: the values that it may have.
    group: the title under which `--help` shows this field and those after it.

  Returns a dataclass field, which type checkers take for its default.
  """
  # A dataclass lets a field carry such a dictionary, and ignores it.
  metadata = {"help": help, "allowed": allowed, "group": group}
  return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Options:
  """The base of all options.

  Raises InputError: a value has the wrong type or is not allowed.
  """

  # Checked here, not where flags are parsed: a config can also come from a
  # file, or from a caller of the package.
  def __post_init__(self) -> None:
    for field in dataclasses.fields(self):
      value, allowed = getattr(self, field.name), field.metadata["allowed"]
      # Not `isinstance`, for which True is an integer. Only a union has args.
      if type(value) not in (typing.get_args(field.type) or [field.type]):
        words = f"of type {getattr(field.type, '__name__', field.type)}"
      elif not allowed.holds(value):
        words = allowed.words
      else:
        continue
      raise InputError(f"{field.name} is {value!r}: give a value {words}")


@dataclasses.dataclass(frozen=True)
class RunOptions(Options):
  """The options of every script."""

  run_dir: str = option(
    "runs/shakespeare", "folder of the run", PATH, group="The run"
  )
  device: str = option(
    "auto", "cpu, gpu, or auto: a GPU if found", one_of("auto", "cpu", "gpu")
  )


@dataclasses.dataclass(frozen=True)
class ModelOptions(RunOptions):
  """The options of every script that reads a trained model."""

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
  layer: str = option("", "FILE.py:CLASS of the run's layer, if it is your own")
