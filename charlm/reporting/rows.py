"""Compares settings: a row for the runs that differ only in their seed.

`table` returns the rows as every format shows them.
"""

import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

from charlm.data.text import sha256
from charlm.errors import InputError
from charlm.reporting.types import Difference, Group, Part, Row, Run

_NUMBERS = ["no", "one", "two", "three", "four", "five", "six", "seven"]
_NUMBERS += ["eight", "nine", "ten"]
_LEVEL = 0.95
_NO_TEXT = sha256([])


def group_runs(runs: Sequence[Run], baseline: str = "") -> list[Group]:
  """Groups runs by their eval text, and compares the settings in a group.

  Args:
    runs: what `read_run` returned.
    baseline: the name of a run or a row with which the others are compared; by
      default the best row. A row that several texts have is also compared over
      all of them.

  Raises InputError: no finished row is the baseline.
  """
  texts: dict[object, list[Run]] = {}
  for run in runs:
    # The hash alone does not tell the bytes of a file from its characters.
    key = run["setting"]["eval_sha256"], run["setting"]["unit"]
    texts.setdefault(key, []).append(run)
  groups = [_group(of_text) for of_text in texts.values()]
  found = [_compare(group, baseline) for group in groups]
  if baseline and not any(found):
    names = [row["name"] for group in groups for row in group["rows"]]
    raise InputError(
      f"no finished run or row is named {baseline}: give another --baseline, "
      f"such as --baseline='{names[0] if names else runs[0]['name']}'"
    )
  if len(groups) > 1 and all(found):
    groups[0]["notes"] += _across_texts(groups, groups[0]["baseline"])
  return groups


def _group(runs: list[Run]) -> Group:
  """Describes the runs of one eval text, the best row first."""
  valid_texts = {run["setting"]["valid_sha256"] for run in runs}
  part: Part = "valid"
  notes = []
  if valid_texts == {_NO_TEXT}:
    part = "eval"
    notes.append("There is no valid text: sorted by the eval loss.")
  elif len(valid_texts) > 1:
    part = "eval"
    notes.append("The valid texts differ: sorted by the eval loss.")
  if len({run["setting"]["vocabulary_sha256"] for run in runs}) > 1:
    notes.append(
      "The vocabularies differ. [UNK] is easier to predict than the characters "
      "that it stands for."
    )
  settings: dict[object, dict[int, Run]] = {}
  for run in sorted(runs, key=lambda run: run["state"] != "finished"):
    seeds = settings.setdefault(tuple(run["setting"].items()), {})
    other = seeds.setdefault(run["seed"], run)
    if other is not run:
      notes.append(
        f"{run['name']} has the settings and the seed of {other['name']}: "
        "counted once."
      )
  rows = [
    _row(list(seeds.values()), part)
    for seeds in settings.values()
    if any(_loss(run, part) is not None for run in seeds.values())
  ]
  rows.sort(key=lambda row: (not row["finished"], row["loss"]))
  if early := [run["name"] for run in runs if _loss(run, part) is None]:
    notes.append(f"No {part} loss yet: {', '.join(early)}.")
  by_name = {run["name"]: run for run in runs}
  firsts = [by_name[row["runs"][0]] for row in rows]
  for row, columns in zip(rows, _columns(firsts), strict=True):
    row["settings"] = columns
    row["name"] = ", ".join(f"{n} {value}" for n, value in columns.items())
  if len(rows) == 1:
    alone = len(runs) == 1
    rows[0]["name"] = runs[0]["name"] if alone else "all runs"
  ranked = [name for row in rows for name in row["runs"]]
  order = {name: i for i, name in enumerate(ranked)}
  return {
    "eval_sha256": str(runs[0]["setting"]["eval_sha256"]),
    "unit": str(runs[0]["setting"]["unit"]),
    "sorted_by": part,
    "baseline": "",
    "summary": "",
    "notes": notes,
    "rows": rows,
    "runs": sorted(runs, key=lambda run: order.get(run["name"], len(order))),
  }


def _loss(run: Run, part: Part) -> float | None:
  return run["valid_loss"] if part == "valid" else run["eval_loss"]


def _row(runs: list[Run], part: Part) -> Row:
  """Describes the runs of a setting, which `_group` names.

  Unfinished runs do not count, unless no run is finished.
  """
  states = [run["state"] for run in runs if run["state"] != "finished"]
  finished = len(states) < len(runs)
  counted = [
    run
    for run in runs
    if _loss(run, part) is not None
    and (run["state"] == "finished" or not finished)
  ]
  counted.sort(key=lambda run: _loss(run, part) or 0)
  losses = _known(counted, f"{part}_loss")
  return {
    "name": "",
    "settings": {},
    "finished": finished,
    "unfinished": ", ".join(
      f"{states.count(state)} {state}" for state in dict.fromkeys(states)
    ),
    "runs": [run["name"] for run in counted],
    "loss": statistics.fmean(losses),
    "spread": statistics.stdev(losses) if len(losses) > 1 else None,
    "best": min(losses),
    "eval_loss": _mean(counted, "eval_loss"),
    "minutes": _mean(counted, "minutes"),
    "num_weights": counted[0]["num_weights"],
    "characters_per_second": _mean(counted, "characters_per_second"),
    "difference": None,
  }


def _known(runs: list[Run], field: str) -> list[float]:
  values: list[Any] = [run[field] for run in runs]  # type: ignore[literal-required]
  return [value for value in values if value is not None]


def _mean(runs: list[Run], field: str) -> float | None:
  values = _known(runs, field)
  return statistics.fmean(values) if values else None


def _columns(runs: Sequence[Run]) -> list[dict[str, str]]:
  """Returns the fields in which runs differ, as few as tell them apart.

  Fields that follow from the recipe are replaced by its name.
  """
  every = [{"recipe": x["recipe"], **x["setting"]} for x in runs]
  fields = every[0] if every else {}
  differing = [n for n in fields if len({x[n] for x in every}) > 1]
  # These make no good names, and mostly follow from others.
  last = [n for n in differing if n.endswith(("_sha256", "corpus", "steps"))]
  shown = [n for n in differing if n not in (*last, "recipe")]
  if "recipe" in differing:
    follow = [
      n
      for n in shown
      if len({(x["recipe"], x[n]) for x in every})
      == len({x["recipe"] for x in every})
    ]
    if len(follow) > 1:
      shown = ["recipe", *(n for n in shown if n not in follow)]
  for name in last:
    if len({tuple(x[n] for n in shown) for x in every}) < len(every):
      shown.append(name)
  return [{n: _setting_text(n, x[n]) for n in shown} for x in every]


def _setting_text(name: str, value: object) -> str:
  if name.endswith("_sha256"):
    return str(value)[:8]
  return f"{value:g}" if isinstance(value, float) else str(value) or "none"


def _compare(group: Group, baseline: str) -> bool:
  """Compares the finished rows with the baseline; returns whether it is there.

  Writes the summary, too.
  """
  rows = [row for row in group["rows"] if row["finished"]]
  named = [row for row in rows if baseline in (row["name"], *row["runs"])]
  first = (named or rows or group["rows"])[:1]
  losses = _losses(group)
  for row in rows:
    if row not in first:
      others = losses[first[0]["name"]]
      row["difference"] = _difference(losses[row["name"]], others)
  correct([row["difference"] for row in rows if row["difference"]])
  group["baseline"] = named[0]["name"] if named else "the best"
  group["summary"] = _summary(group, rows)
  return bool(named)


def _losses(group: Group) -> dict[str, dict[object, float]]:
  """Returns the losses of each finished row's runs, by their seed."""
  part = group["sorted_by"]
  runs = {run["name"]: run for run in group["runs"]}
  return {
    row["name"]: {
      runs[name]["seed"]: _loss(runs[name], part) or 0.0 for name in row["runs"]
    }
    for row in group["rows"]
    if row["finished"]
  }


def _across_texts(groups: Sequence[Group], baseline: str) -> list[str]:
  """Compares the rows with the baseline by pairs of text and seed."""
  pairs: dict[str, dict[object, float]] = {}
  for group in groups:
    for name, losses in _losses(group).items():
      for seed, loss in losses.items():
        pairs.setdefault(name, {})[group["eval_sha256"], seed] = loss
  others = pairs.pop(baseline)
  differences = {name: _difference(pairs[name], others) for name in pairs}
  correct(list(differences.values()))
  return [
    f"Over all texts, {name}: {each['verdict'].replace('seeds', 'pairs')}."
    for name, each in differences.items()
  ]


def _difference(
  losses: dict[object, float], others: dict[object, float]
) -> Difference:
  """Compares two settings by the seeds, or texts and seeds, that they share."""
  differences = np.array([losses[s] - others[s] for s in losses if s in others])
  result: Difference = {
    "pairs": len(differences),
    "mean": float(differences.mean()) if len(differences) else None,
    "low": None,
    "high": None,
    "p": None,
    "verdict": "",
  }
  # Equal runs have no spread, and SciPy would warn.
  if len(differences) > 1 and np.ptp(differences) > 1e-9:
    test = stats.ttest_1samp(differences, 0)  # of pairs
    low, high = test.confidence_interval(_LEVEL)
    result |= {"low": float(low), "high": float(high), "p": float(test.pvalue)}
  return result


def correct(differences: list[Difference]) -> None:
  """Corrects the p values for their number (Holm 1979); adds the verdicts."""
  tested = [x for x in differences if x["p"] is not None]
  largest = 0.0
  for i, difference in enumerate(sorted(tested, key=lambda x: x["p"] or 0)):
    largest = max(largest, (len(tested) - i) * (difference["p"] or 0))
    difference["p"] = min(1.0, largest)
  for difference in differences:
    difference["verdict"] = _verdict(difference, len(tested))


def _verdict(difference: Difference, num_tested: int) -> str:
  """Says how surely a loss differs from the baseline's."""
  number, mean = difference["pairs"], difference["mean"]
  low, high, p = difference["low"], difference["high"], difference["p"]
  counted = _NUMBERS[number] if number < len(_NUMBERS) else str(number)
  if mean is None:
    return "no seed in common: nothing can be said"
  by = f"{'lower' if mean < 0 else 'higher'} by {abs(mean):.4f}"
  if number == 1:
    return f"{by}, one pair: nothing can be said"
  if p is None or low is None or high is None:
    return f"{by} in each of {counted} pairs"
  if low < 0 < high:
    return (
      f"cannot be told with {counted} seeds: {by}, 95 % between {low:+.4f} and "
      f"{high:+.4f}"
    )
  near, far = sorted([abs(low), abs(high)])
  told = f"{by}, 95 % between {near:.4f} and {far:.4f}, {counted} pairs"
  if p > 1 - _LEVEL:
    return f"cannot be told among {num_tested + 1} settings: {told}"
  return told


def _summary(group: Group, rows: list[Row]) -> str:
  """Says which row is best, and how surely."""
  part, unit = group["sorted_by"], group["unit"]
  if not rows:
    return "No run is finished."
  best, *others = rows
  number = len(best["runs"])
  mean = f", mean of {number} seeds" * (number > 1)
  on_eval = ""
  if part == "valid" and best["eval_loss"] is not None:
    on_eval = f" (eval loss {best['eval_loss']:.4f})"
  text = f"{part} loss {best['loss']:.4f} nats per {unit}{mean}{on_eval}."
  if not others:
    return f"{best['name']}: {text}"
  text = f"Best of {len(rows)} settings: {best['name']}, {text}"
  if best["difference"]:  # from the baseline that was given
    verdict = best["difference"]["verdict"]
    return f"{text} Compared with {group['baseline']}: {verdict}."
  assert others[0]["difference"]  # only the best, the baseline, has none
  verdict = others[0]["difference"]["verdict"]
  return f"{text} Next: {others[0]['name']}, {verdict}."


def table(group: Group) -> list[dict[str, Any]]:
  """Returns a group's rows as cells by column, for every format.

  Numbers are not rounded; None is an empty cell.
  """
  part = group["sorted_by"]
  nothing: dict[str, Any] = {}
  return [
    {
      **row["settings"],
      "seeds": len(row["runs"]),
      "unfinished": row["unfinished"] or None,
      f"{part} loss": row["loss"],
      "spread": row["spread"],
      "best": row["best"],
      **({"eval loss": row["eval_loss"]} if part == "valid" else {}),
      "difference": compared.get("mean"),
      "from": compared.get("low"),
      "to": compared.get("high"),
      "pairs": compared.get("pairs"),
      "p": compared.get("p"),
      "verdict": compared.get("verdict", _uncompared(group, row)),
      "minutes": row["minutes"],
      "weights": row["num_weights"],
      "characters/s": row["characters_per_second"],
    }
    for row in group["rows"]
    for compared in [row["difference"] or nothing]
  ]


def _uncompared(group: Group, row: Row) -> str | None:
  if not row["finished"]:
    return "not finished: losses so far"
  return "the baseline" if len(group["rows"]) > 1 else None
