"""A request for samples: which texts to draw, and how."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from charlm.config import Config
from charlm.options import UTF8, Allowed, Options, between, option


class Limits(NamedTuple):
  """The limits that `Request` describes; the defaults allow all characters."""

  top_k: int = 0
  top_p: float = 1.0


@dataclasses.dataclass(frozen=True)
class Request(Options):
  """A request for samples; each field is a flag of `sample.py`.

  The limits apply to probabilities after the division by the temperature, in
  the order of the fields: each to the characters that the previous ones leave.

  Raises InputError: a value is not allowed.
  """

  prefix: str = option(
    "", "text to continue; default: the start of a line", UTF8, group="The text"
  )
  stop: str = option(
    "", "end a text before its part after the prefix has this string", UTF8
  )
  num_chars: int = option(
    1000, "largest number of characters after the prefix", between(1, 10**8)
  )
  num_samples: int = option(1, "number of texts", between(1, 10**6))
  seed: int = option(0, "seed of the draws", between(0, 2**64 - 1))
  temperature: float = option(
    1.0,
    "divides the log-probabilities: 0 is greedy, above 1 favours rare "
    "characters; usually 0.5 to 1.2",
    Allowed(lambda x: x == 0 or 0.001 <= x <= 1000, "0, or 0.001 to 1000"),
    group="How it is drawn",
  )
  top_k: int = option(
    0, "draw from the k most likely characters; 0: from all", between(0, 10**6)
  )
  top_p: float = option(
    1.0,
    "draw from the fewest characters that sum to this; usually 0.8 to 1",
    between(1e-6, 1),
  )

  @property
  def limits(self) -> Limits:
    """The settings for which a graph is compiled."""
    return Limits(self.top_k, self.top_p)


_FLOATS = ("temperature", "top_p")


def fill_request(
  defaults: Request, values: Mapping[str, Any], config: Config
) -> Request:
  """Returns a request with some new values.

  Args:
    defaults: has the values of all other fields.
    values: new values by field name; may be NumPy scalars, or integers where
      the field is a float.
    config: the config of the model's run: it decides how `prefix` and `stop`
      become the model's characters, and whether they are lowercased.

  Raises InputError: a value is not allowed.
  """
  typed: dict[str, Any] = {}
  for name, value in values.items():
    plain = value.item() if isinstance(value, np.generic) else value
    is_whole = name in _FLOATS and type(plain) is int
    typed[name] = float(plain) if is_whole else plain
  request = dataclasses.replace(defaults, **typed)  # checks the types
  prefix, stop = (
    config.lowered(text).encode().decode(config.encoding)
    for text in (request.prefix, request.stop)
  )
  return dataclasses.replace(request, prefix=prefix, stop=stop)
