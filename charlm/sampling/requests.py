"""Requests: made of values, or parsed from a line."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from charlm.config import Config
from charlm.errors import InputError
from charlm.sampling.options import Request

_FIELDS = {field.name: field.type for field in dataclasses.fields(Request)}


def parse_request(line: bytes, defaults: Request, config: Config) -> Request:
  """Parses a line: a prefix or, if it begins with `{`, a JSON object.

  Args:
    line: without its end.
    defaults: of all that the line does not give.
    config: of the model's run.

  Raises InputError: not UTF-8, no JSON object, another field than a
    request's, or a value that is not allowed.
  """
  try:
    if not line.startswith(b"{"):
      prefix = config.lowered(line.decode(config.encoding))
      return dataclasses.replace(defaults, prefix=prefix)
    values = json.loads(line)
  except UnicodeDecodeError as error:
    raise InputError(f"not UTF-8 at byte {error.start}: convert it") from None
  except (ValueError, RecursionError):
    raise InputError(
      'no JSON object: give a prefix such as {a in the form {"prefix": "{a"}'
    ) from None
  # JSON that begins with a brace is an object.
  if others := ", ".join(sorted(values.keys() - _FIELDS.keys())):
    raise InputError(f"unknown: {others}; give {', '.join(_FIELDS)}")
  return fill_request(defaults, values, config)


def fill_request(
  defaults: Request, values: Mapping[str, Any], config: Config
) -> Request:
  """Returns a request with other values.

  Args:
    defaults: of all that is not given.
    values: by the names of a request's fields. Integers for fields of floats
      are converted, as they are in flags.
    config: of the model's run: `prefix` and `stop` are converted to characters
      of the model, in lower case if the corpus was.

  Raises InputError: a value that is not allowed.
  """
  typed = dict(values)
  for name, value in values.items():
    # A program writes 1 for 1.0; above 2**53 a float may be another number.
    if _FIELDS[name] is float and type(value) is int and abs(value) < 2**53:
      typed[name] = float(value)
  request = dataclasses.replace(defaults, **typed)  # checks the types
  for name in {"prefix", "stop"} & values.keys():
    text = config.lowered(getattr(request, name))
    typed[name] = text.encode().decode(config.encoding)
  return dataclasses.replace(defaults, **typed)
