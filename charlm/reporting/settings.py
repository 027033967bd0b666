"""Settings: runs that differ in the seed alone, and whether one is better."""

import math
from collections.abc import Sequence

import numpy as np

from charlm.evaluation.score import confidence_interval
from charlm.reporting.result import Result
from charlm.reporting.types import Difference, Losses, Part, Setting


def compare_settings(
  results: Sequence[Result], parts: Sequence[Part]
) -> list[Setting]:
  """Describes settings by their losses on parts, the best by the first one.

  Of copies of a run, which say nothing of seeds, the first counts.
  """
  by_setting: dict[object, dict[int, Result]] = {}
  for result in results:
    seeds = by_setting.setdefault(result.setting, {})
    seeds.setdefault(result.run["seed"], result)
  settings = sorted(
    (list(seeds.values()) for seeds in by_setting.values()),
    key=lambda runs: _losses(runs, parts[0]).mean(),
  )
  return [
    {
      "runs": [result.run["name"] for result in runs],
      "losses": {part: _describe(runs, settings[0], part) for part in parts},
    }
    for runs in settings
  ]


def welch_interval(
  one: np.ndarray, other: np.ndarray
) -> tuple[float, float] | None:
  """Returns the 95 % interval of the difference of two means (Welch 1947).

  The groups may vary differently. A single value says nothing of how much its
  group varies: the interval is None.
  """
  if min(len(one), len(other)) < 2:
    return None
  squared_errors = np.array([x.var(ddof=1) / len(x) for x in (one, other)])
  total = squared_errors.sum()
  half = 0.0
  if total:
    weights = squared_errors / total
    freedom = 1 / sum(weights**2 / [len(one) - 1, len(other) - 1])
    half = student_quantile(freedom) * math.sqrt(total)
  difference = one.mean() - other.mean()
  return float(difference - half), float(difference + half)


def student_quantile(degrees_of_freedom: float) -> float:
  """Returns the t for which 95 % of Student's distribution is in -t to t."""
  # With t = sqrt(degrees) * tan(angle), the density of an angle is a power of
  # its cosine. Its sums are accurate to six digits.
  edges = np.linspace(0, math.pi / 2, 100_001)
  density = np.cos((edges[1:] + edges[:-1]) / 2) ** (degrees_of_freedom - 1)
  sums = np.append(0, density.cumsum())
  angle = np.interp(0.95 * sums[-1], sums, edges)
  return math.sqrt(degrees_of_freedom) * math.tan(angle)


def _losses(runs: Sequence[Result], part: Part) -> np.ndarray:
  """Returns the losses of R runs on a part, `[R]`."""
  return np.array([result.scores[part].log_perplexity for result in runs])


def _describe(
  runs: Sequence[Result], best: Sequence[Result], part: Part
) -> Losses:
  losses, error = _losses(runs, part), None
  if len(losses) > 1:
    error = float(losses.std(ddof=1) / math.sqrt(len(losses)))
  return {
    "mean": float(losses.mean()),
    "lowest": float(losses.min()),
    "highest": float(losses.max()),
    "standard_error": error,
    "difference_to_best": (
      None if runs is best else _difference(runs, best, part)
    ),
  }


def _difference(
  one: Sequence[Result], other: Sequence[Result], part: Part
) -> Difference:
  nats = _mean_nats(one, part) - _mean_nats(other, part)
  text_interval = confidence_interval(nats)
  return {
    "mean": float(nats.mean()),
    "text_interval": text_interval if len(nats) > 1 else None,
    "seed_interval": welch_interval(_losses(one, part), _losses(other, part)),
  }


def _mean_nats(runs: Sequence[Result], part: Part) -> np.ndarray:
  """Returns the mean nats of each of N characters over the runs, `[N]`."""
  total = np.zeros(runs[0].scores[part].num_characters)
  for result in runs:
    total += result.scores[part].nats
  return total / len(runs)
