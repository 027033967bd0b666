"""Flags made of the fields of an options class; no other module uses absl."""

import dataclasses
import os
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags

from charlm.options import PATH, Options, option

# By the annotation of a field.
_DEFINE: dict[object, Callable[..., object]] = {
  bool: flags.DEFINE_bool,
  int: flags.DEFINE_integer,
  float: flags.DEFINE_float,
  str: flags.DEFINE_string,
  str | None: flags.DEFINE_string,
}


@dataclasses.dataclass(frozen=True)
class _Help(Options):
  help: bool = option(False, "show this help", group="Help")
  # absl reads these files itself, but does not list the flag.
  flagfile: str = option("", "file of flags, one a line")


def define_flags(options: type[Options]) -> flags.FlagValues:
  """Returns a flag for each field of an options class, and `--help`.

  They are in a `FlagValues` of their own, so that several programs, or one
  several times, can run in one process.
  """
  values, group = flags.FlagValues(), "Flags"  # the title, if none is given
  for field in (*dataclasses.fields(options), *dataclasses.fields(_Help)):
    group = field.metadata["group"] or group
    _DEFINE[field.type](
      name=field.name,
      default=field.default,
      help=field.metadata["help"],
      flag_values=values,
      module_name=group,
    )
  return values


def given_flags(
  values: flags.FlagValues, options: type[Options]
) -> dict[str, Any]:
  """Returns the values, by name, of the flags that were given."""
  found = {}
  for field in dataclasses.fields(options):
    if not values[field.name].present:
      continue
    value = values[field.name].value
    if value and field.metadata["allowed"] is PATH:
      value = os.path.expanduser(value)
    found[field.name] = value
  return found


def parse(flags_given: Sequence[str], options: type[Options]) -> dict[str, Any]:
  """Returns the values, by name, that some flags of an options class give.

  Raises absl's errors: an unknown flag, or no such flag file.
  """
  values = define_flags(options)
  values(["", *flags_given])
  return given_flags(values, options)


def help_text(values: flags.FlagValues, name: str, usage: str) -> str:
  """Returns what `--help` prints, at most 80 columns wide.

  The flags are under the titles of their groups.
  """
  lines = [usage, "", f"{name} [--flag=value ...]"]
  wrapper = textwrap.TextWrapper(79, "", " " * 34, break_long_words=False)
  for title, group in values.flags_by_module_dict().items():
    lines += ["", title]
    for flag in group:
      # absl writes '0.0' for the number that a person writes as 0.
      value = (flag.default_as_str or "").strip("'")
      # A boolean is given as --flag or --noflag.
      default = "" if flag.boolean else "=" + value.removesuffix(".0")
      wrapper.initial_indent = f"  --{flag.name}{default}".ljust(33) + " "
      lines += wrapper.wrap(flag.help)
  return "\n".join(lines)
