"""The numbers of a report, which `report.py --format=json` prints.

The page shows no others.
"""

import math
import pathlib

import numpy as np

from charlm.data.passages import find_passages
from charlm.data.text import Text
from charlm.evaluation.score import confidence_interval
from charlm.reporting.ngram import Baseline, baselines
from charlm.reporting.result import Result
from charlm.reporting.types import Difference, Numbers, Run, RunGroup


def report_numbers(results: list[Result], train: Text | None) -> Numbers:
  """Returns what there is to say of runs, as JSON can hold it.

  Args:
    results: of the runs. Only those with the same eval text are compared: they
      are a group, ranked by their scores. The first run's group comes first.
    train: what the first run was trained on; without it, whatever needs that
      text is left out.
  """
  first = results[0]
  groups: dict[tuple[str, str], list[Result]] = {}
  for result in results:
    # Not by the string alone: the bytes of one file can read as the characters
    # of another. Nor by the hash alone: a run of bytes and one of characters
    # have the same hash of one file, but other strings.
    groups.setdefault((result.text, result.eval_sha256), []).append(result)
  numbers: Numbers = {
    # The first key, by which report.py recognises a file that it wrote.
    "groups": [_group(x) for x in groups.values()],
    "first": first.run["name"],
    "characters": first.characters,
  }
  if train is not None:
    numbers["baselines"] = _baselines(first, train)
    found, *in_samples = find_passages([first.text, *first.samples], train)
    samples = [sample.to_dict() for sample in in_samples]
    numbers["memorised"] = {"eval_text": found.share, "samples": samples}
  return numbers


def short_names(paths: list[str]) -> list[str]:
  """Returns the last parts of each path, as few as tell them apart."""
  parts = [pathlib.PurePath(path).parts for path in paths]
  for depth in range(1, max(map(len, parts)) + 1):
    names = [str(pathlib.PurePath(*path[-depth:])) for path in parts]
    if len(set(names)) == len(names):
      return names
  return paths


def _group(results: list[Result]) -> RunGroup:
  """Describes runs with one eval text, the best by `stream` first."""
  best, *others = sorted(
    results, key=lambda result: result.run["scores"]["stream"]["log_perplexity"]
  )
  compared: list[Run] = [
    {**other.run, "difference_to_best": _difference(other, best)}
    for other in others
  ]
  return {
    "eval_sha256": best.eval_sha256,
    # The first character is not predicted.
    "num_characters": len(best.text) - 1,
    "runs": [best.run, *compared],
  }


def _difference(one: Result, other: Result) -> Difference:
  """Returns the paired difference of two scores, and its 95 % interval."""
  # A mean of millions of float32 can lose its last digits.
  difference = one.nats.astype(np.float64) - other.nats.astype(np.float64)
  low, high = interval = confidence_interval(difference)
  return {
    "mean": float(difference.mean()),
    "interval": interval if math.isfinite(low) else None,
    "excludes_0": low > 0 or high < 0,
  }


def _baselines(first: Result, train: Text) -> list[Baseline]:
  """Returns the scores of the baselines and, at the end, the first run's."""
  run: Baseline = {
    "name": first.run["name"],
    "nats": first.run["scores"]["stream"]["log_perplexity"],
    "num_bytes": 4 * first.run["num_weights"],  # float32
  }
  return [
    *baselines(
      str(train), first.text, vocab=first.vocab, encoding=train.encoding
    ),
    run,
  ]
