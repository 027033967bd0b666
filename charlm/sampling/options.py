"""How characters are drawn."""

import dataclasses

from charlm.options import Allowed, Options, between, option


@dataclasses.dataclass(frozen=True)
class DrawOptions(Options):
  """Each field is a flag of `sample.py`.

  The limits act in the order of the fields, by the probabilities after the
  division by the temperature; each acts on what those before it leave.

  Raises InputError: a value is not allowed.
  """

  temperature: float = option(
    1.0,
    "divides the log-probabilities; 0 always takes the most likely character, "
    "0.5 to 1.2 is usual",
    Allowed(
      lambda value: value == 0 or 0.001 <= value <= 1000,
      "of 0 (greedy), or 0.001 to 1000",
    ),
    group="How it is drawn",
  )
  top_k: int = option(
    0, "draw from the k most likely characters; 0: from all", between(0, 10**6)
  )
  top_p: float = option(
    1.0,
    "nucleus sampling: draw from the smallest set of most likely characters "
    "whose probabilities add up to at least this",
    between(1e-6, 1),
  )
  min_p: float = option(
    0.0,
    "draw from the characters whose probability is at least this fraction of "
    "the highest one",
    between(0, 1),
  )
