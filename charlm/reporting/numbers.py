"""The numbers of a report, as `report.py --format=json` prints them.

The page shows the same numbers.
"""

import pathlib
from collections.abc import Sequence

import numpy as np
from scipy import stats

from charlm.data.passages import find_passages
from charlm.data.text import Text
from charlm.evaluation.ngram import Baseline, baselines
from charlm.reporting.result import MAX_SHOWN, Result
from charlm.reporting.types import (
  Difference,
  Losses,
  Numbers,
  Part,
  RunGroup,
  Setting,
)

# Settings that differ in more fields are named by their recipes.
_MOST_NAMED = 4


def compare_settings(
  results: Sequence[Result], parts: Sequence[Part]
) -> list[Setting]:
  """Compares settings by their losses; the first part ranks them, best first.

  Copies of a run count once, since they tell nothing about other seeds.
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
      "name": name,
      "runs": [result.run["name"] for result in runs],
      "losses": {part: _describe(runs, settings[0], part) for part in parts},
    }
    for name, runs in zip(_names(settings), settings, strict=True)
  ]


def _names(settings: Sequence[Sequence[Result]]) -> list[str]:
  """Names settings by the fields in which they differ."""
  firsts = [runs[0] for runs in settings]
  if len(firsts) == 1:
    alone = len(settings[0]) == 1
    return [firsts[0].run["name"] if alone else "all runs"]
  fields = [dict(first.setting) for first in firsts]
  differing = [n for n in fields[0] if len({each[n] for each in fields}) > 1]
  # Hashes, and whether a text has a file, make no good names.
  named = [n for n in differing if not n.endswith(("_sha256", "corpus"))]
  names = [
    ", ".join(f"{n} {'none' if each[n] == '' else each[n]}" for n in named)
    for each in fields
  ]
  recipes = [f"recipe {first.run['recipe'] or 'none'}" for first in firsts]
  if len(named) > _MOST_NAMED and len({*recipes}) == len(recipes):
    return recipes
  if len({*names}) == len(names):
    return names
  # They differ only in their texts.
  return [
    f"{name} ({first.run['name']})" if name else first.run["name"]
    for name, first in zip(names, firsts, strict=True)
  ]


def _summary(settings: Sequence[Setting], part: Part, unit: str) -> str:
  """Says which setting is best, and whether the seeds could explain it."""
  best, *others = settings
  losses = best["losses"][part]
  if not others:
    eval_loss = best["losses"]["eval"]["mean"]
    on_eval = f", {eval_loss:.4f} (eval)" * (part == "valid")
    return (
      f"{best['name']}: loss {losses['mean']:.4f} ({part}){on_eval}, in nats "
      f"per {unit}."
    )
  seeds = len(best["runs"])
  mean = f", the mean of {seeds} seeds" * (seeds > 1)
  difference = others[0]["losses"][part]["difference_to_best"]
  assert difference is not None  # only the best has none
  text = (
    f"Best of {len(settings)} settings: {best['name']}, with the {part} loss "
    f"{losses['mean']:.4f} nats per {unit}{mean}. Next: {others[0]['name']}, "
    f"{difference['mean']:.4f} higher. "
  )
  interval = difference["seed_interval"]
  if interval is None:
    return text + (
      "The seeds could explain the difference: train each setting with two "
      "seeds or more."
    )
  low, high = interval
  could = "could" if low <= 0 <= high else "are unlikely to"
  return (
    f"{text}The seeds {could} explain the difference (95 % confidence "
    f"interval over seeds: {low:+.4f} to {high:+.4f})."
  )


def welch_interval(
  one: np.ndarray, other: np.ndarray
) -> tuple[float, float] | None:
  """Returns the 95 % interval of the difference of two means (Welch 1947).

  The variances may differ. Returns None if a group has a single value, which
  tells nothing about its variance.
  """
  if min(len(one), len(other)) < 2:
    return None
  test = stats.ttest_ind(one, other, equal_var=False)
  low, high = test.confidence_interval(0.95)
  return float(low), float(high)


def _losses(runs: Sequence[Result], part: Part) -> np.ndarray:
  """Returns the runs' losses on a part, `[R]`."""
  return np.array([result.scores[part].log_perplexity for result in runs])


def _describe(
  runs: Sequence[Result], best: Sequence[Result], part: Part
) -> Losses:
  losses, error, difference = _losses(runs, part), None, None
  if len(losses) > 1:
    error = float(stats.sem(losses))
  if runs is not best:
    best_losses = _losses(best, part)
    difference = Difference(
      mean=float(losses.mean() - best_losses.mean()),
      seed_interval=welch_interval(losses, best_losses),
    )
  return {
    "mean": float(losses.mean()),
    "lowest": float(losses.min()),
    "highest": float(losses.max()),
    "standard_error": error,
    "difference_to_best": difference,
  }


def report_numbers(
  results: list[Result], *, train: Text | None, shown: Text, shown_name: str
) -> Numbers:
  """Builds the report as JSON-serialisable data.

  Args:
    results: the runs' results. Only runs with the same eval text are compared:
      they form a group, ranked by loss. The first run's group comes first.
    train: the first run's train text; None leaves out the baselines and the
      share of copied text.
    shown: the text of the heat map, for which the results have expectations.
    shown_name: its name.
  """
  first = results[0]
  groups: dict[tuple[str, str], list[Result]] = {}
  for result in results:
    # The string alone is not enough: the bytes of one file can read as the
    # characters of another. Nor is the hash: for the same file, a byte-level
    # run and a character-level run have the same hash, but other strings.
    groups.setdefault((result.text, result.eval_sha256), []).append(result)
  numbers: Numbers = {
    # The first key: report.py recognises its own files by it.
    "groups": [_group(x) for x in groups.values()],
    "first": first.run["name"],
    "heat_map": {
      "name": shown_name,
      "text": str(shown.part(0, MAX_SHOWN)),
      "num_characters": len(shown),
      "runs": [x.expectations for x in results if x.expectations],
    },
  }
  if train is not None:
    numbers["baselines"] = _baselines(first, train)
    (copied,) = find_passages([first.text], train)
    numbers["memorised"] = copied.share
  return numbers


def short_names(paths: list[str]) -> list[str]:
  """Shortens each path to its last parts, as few as keep them distinct."""
  parts = [pathlib.PurePath(path).parts for path in paths]
  for depth in range(1, max(map(len, parts)) + 1):
    names = [str(pathlib.PurePath(*path[-depth:])) for path in parts]
    if len(set(names)) == len(names):
      return names
  return paths


def _group(results: list[Result]) -> RunGroup:
  """Describes runs with the same eval text, the best first."""
  # As above, the hash alone does not tell bytes from characters.
  valid_texts = {
    (result.valid_sha256, valid.num_characters) if valid else None
    for result in results
    for valid in [result.scores.get("valid")]
  }
  parts: list[Part] = ["eval"]
  if len(valid_texts) == 1 and None not in valid_texts:
    parts = ["valid", "eval"]
  first = results[0]
  ranked = sorted(results, key=lambda x: x.scores[parts[0]].log_perplexity)
  settings = compare_settings(results, parts)
  return {
    "eval_sha256": first.eval_sha256,
    # The first character is not predicted.
    "num_characters": len(first.text) - 1,
    "ranked_by": parts[0],
    "summary": _summary(settings, parts[0], first.scores["eval"].unit),
    "settings": settings,
    "runs": [result.run for result in ranked],
  }


def _baselines(first: Result, train: Text) -> list[Baseline]:
  """Returns the baselines' scores, followed by the first run's."""
  run: Baseline = {
    "name": first.run["name"],
    "nats": first.run["eval_score"]["log_perplexity"],
    "num_bytes": 4 * first.run["num_weights"],  # float32
  }
  return [
    *baselines(
      str(train), first.text, vocab=first.vocab, encoding=train.encoding
    ),
    run,
  ]
