"""Command-line flags from an options class; only this module uses absl."""

import dataclasses
import os
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags

from charlm.options import PATH, Options, option

# By a field's annotation.
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
  # absl reads these files itself, but does not list the flag in the help.
  flagfile: str = option("", "file with one flag per line")


def define_flags(options: type[Options]) -> flags.FlagValues:
  """Defines a flag for each field of an options class, and `--help`.

  Each call has a `FlagValues` of its own, so that one process can run several
  programs, or the same one several times.
  """
  values, group = flags.FlagValues(), "Flags"  # the default heading
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
  """Returns the values of the given flags by name."""
  given = {}
  for field in dataclasses.fields(options):
    if not values[field.name].present:
      continue
    value = values[field.name].value
    if value and field.metadata["allowed"] is PATH:
      value = os.path.expanduser(value)
    given[field.name] = value
  return given


def parse(args: Sequence[str], options: type[Options]) -> dict[str, Any]:
  """Parses flags of an options class into values by name.

  Raises absl's errors: an unknown flag or a missing flag file.
  """
  values = define_flags(options)
  values(["", *args])
  return given_flags(values, options)


def help_text(values: flags.FlagValues, name: str, usage: str) -> str:
  """Returns the text of `--help`, at most 80 columns wide.

  Flags are listed under the headings of their groups.
  """
  lines = [usage, "", f"{name} [--flag=value ...]"]
  wrapper = textwrap.TextWrapper(79, "", " " * 34, break_long_words=False)
  for title, group in values.flags_by_module_dict().items():
    lines += ["", title]
    for flag in group:
      # absl writes '0.0' where the help shows 0.
      value = (flag.default_as_str or "").strip("'")
      # A boolean is given as --flag or --noflag.
      default = "" if flag.boolean else "=" + value.removesuffix(".0")
      wrapper.initial_indent = f"  --{flag.name}{default}".ljust(33) + " "
      lines += wrapper.wrap(flag.help)
  return "\n".join(lines)
