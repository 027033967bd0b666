"""The numbers of a report, which `report.py --format=json` prints.

The page shows no others.
"""

import dataclasses
import math
import pathlib

import numpy as np

from charlm.data.passages import find_passages
from charlm.data.text import Text, readable
from charlm.evaluation.score import confidence_interval
from charlm.reporting import analysis
from charlm.reporting.ngram import Baseline, baselines
from charlm.reporting.result import WINDOW, Result
from charlm.reporting.types import (
  CONTEXT,
  Character,
  Difference,
  Numbers,
  Point,
  Run,
  RunGroup,
  WithTrainText,
  WorstPassage,
)
from charlm.runs.records import Record

_PASSAGE = 100  # characters


def report_numbers(results: list[Result], train: Text | None) -> Numbers:
  """Returns what there is to say of runs, as JSON can hold it.

  Args:
    results: of the runs. Only those with the same eval text are compared: they
      are a group, ranked by their scores. The first run's group comes first.
    train: what the first run was trained on; without it, whatever needs that
      text is left out.
  """
  names = short_names([result.name for result in results])
  results = [
    dataclasses.replace(result, name=name)
    for result, name in zip(results, names, strict=True)
  ]
  first = results[0]
  groups: dict[tuple[str, str], list[Result]] = {}
  for result in results:
    # Not by the string alone: the bytes of one file can read as the characters
    # of another. Nor by the hash alone: a run of bytes and one of characters
    # have the same hash of one file, but other strings.
    groups.setdefault((result.text, result.eval_sha256), []).append(result)
  beside: WithTrainText = {}
  if train is not None:
    beside = _beside_train_text(first, train)
  return {
    # The first key, by which report.py recognises a file that it wrote.
    "groups": [_group(x) for x in groups.values()],
    **beside,
    "first": first.name,
    "passages_with_the_highest_loss": _worst(first),
    "characters": _characters(first),
  }


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
  ranked = sorted(results, key=lambda r: r.scores["stream"].log_perplexity)
  text = results[0].text
  return {
    "eval_sha256": results[0].eval_sha256,
    # The first character is not predicted.
    "num_characters": len(text) - 1,
    "runs": [_run(result, ranked[0]) for result in ranked],
  }


def _run(result: Result, best: Result) -> Run:
  text, nats = result.text[1:], result.scores["stream"].nats
  encoding = result.encoding
  windows = result.scores[f"windows of {WINDOW}"]
  return {
    "name": result.name,
    "step": result.step,
    "num_weights": result.num_weights,
    "scores": {k: score.to_dict() for k, score in result.scores.items()},
    "difference_to_best": None if result is best else _pair(result, best),
    "curves": curves(result.records, result.characters_per_step),
    "loss_by": {
      "kind of character": analysis.by_class(text, nats, encoding),
      "letter of a word": analysis.by_position_in_word(
        result.text, nats, encoding
      ),
      CONTEXT: analysis.by_context_length(windows.nats, WINDOW),
    },
    "samples": [readable(sample.text, encoding) for sample in result.samples],
  }


def _pair(one: Result, other: Result) -> Difference:
  """Returns the paired difference of two scores, and its 95 % interval."""
  # A mean of millions of float32 can lose its last digits.
  nats = [r.scores["stream"].nats.astype(np.float64) for r in (one, other)]
  difference = nats[0] - nats[1]
  low, high = interval = confidence_interval(difference)
  return {
    "mean": float(difference.mean()),
    "interval": interval if math.isfinite(low) else None,
    "excludes_0": low > 0 or high < 0,
  }


def curves(
  records: list[Record], characters_per_step: int
) -> dict[str, list[Point]]:
  """Returns the points of each split's curve, from the records of a run.

  `seconds` are wall time since step 0, without pauses between starts; None if
  an earlier version trained the first steps.
  """
  points: dict[str, list[Point]] = {"train": [], "eval": []}
  for record in records:
    point: Point = {
      "step": record["step"],
      "characters": record["step"] * characters_per_step,
      "seconds": record.get("seconds"),
      "loss": record["loss"],
    }
    if "valid_loss" in record:
      point["valid_loss"] = record["valid_loss"]
    points[record["split"]].append(point)
  return points


def _beside_train_text(first: Result, train: Text) -> WithTrainText:
  texts = [first.text, *(sample.text for sample in first.samples)]
  found, *in_samples = find_passages(texts, train)
  models = baselines(str(train), first.text, first.vocab, train.encoding)
  nats = first.scores["stream"].log_perplexity
  # A weight takes four bytes.
  models.append(Baseline(first.name, nats, 4 * first.num_weights))
  return {
    "baselines": [
      {"name": model.name, "nats": model.nats, "num_bytes": model.num_bytes}
      for model in models
    ],
    "memorised": {
      "eval_text": found.share,
      "samples": [sample.to_dict() for sample in in_samples],
    },
  }


def _worst(first: Result) -> list[WorstPassage]:
  passages = analysis.worst_passages(first.scores["stream"].nats, _PASSAGE)
  return [
    {
      "start": start + 1,
      "mean_nats": nats,
      "text": readable(
        first.text[start + 1 : start + 1 + _PASSAGE], first.encoding
      ),
    }
    for start, nats in passages
  ]


def _characters(first: Result) -> list[Character]:
  """Describes the first characters: their loss, and what was expected."""
  ids, probs = first.expected
  nats = first.scores["stream"].nats
  return [
    {
      "character": char,
      "nats": round(float(loss), 4),
      "expected": [first.vocab[i] for i in best],
      "probabilities": [round(p, 4) for p in shares],
    }
    for char, loss, best, shares in zip(
      first.text[1:], nats, ids.tolist(), probs.tolist(), strict=False
    )
  ]
