"""Requests as lines, which `sample.py --per_line` answers as they come."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from charlm.errors import InputError
from charlm.sampling.options import Request

_FIELDS = {field.name: field.type for field in dataclasses.fields(Request)}


def parse_request(line: bytes, defaults: Request, encoding: str) -> Request:
  """Parses a line: a prefix or, if it begins with `{`, a JSON object.

  Args:
    line: without its end.
    defaults: of all that the line does not give.
    encoding: of the model's texts; Latin-1 for bytes.

  Raises InputError: not UTF-8, no JSON object, another field than a
    request's, or a value that is not allowed.
  """
  try:
    if not line.startswith(b"{"):
      return dataclasses.replace(defaults, prefix=line.decode(encoding))
    values = json.loads(line)
  except UnicodeDecodeError as error:
    raise InputError(f"not UTF-8 at byte {error.start}") from None
  except (ValueError, RecursionError):
    raise InputError(
      'no JSON object: give a prefix that begins with { as {"prefix": "{"}'
    ) from None
  if others := ", ".join(sorted(values.keys() - _FIELDS.keys())):
    raise InputError(f"unknown: {others}; give {', '.join(_FIELDS)}")
  request = dataclasses.replace(defaults, **_typed(values))
  texts = {
    name: getattr(request, name).encode().decode(encoding)
    for name in ("prefix", "stop")
    if name in values
  }
  return dataclasses.replace(request, **texts)


def _typed(values: Mapping[str, Any]) -> dict[str, Any]:
  """Makes integers floats where a request has floats, as flags do."""
  return {
    name: float(value)
    if _FIELDS[name] is float and type(value) is int and abs(value) < 2**53
    else value
    for name, value in values.items()
  }
