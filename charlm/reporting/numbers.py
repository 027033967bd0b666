"""The numbers of a report, which `report.py --format=json` prints.

The page shows no others.
"""

import pathlib

from charlm.data.passages import find_passages
from charlm.data.text import Text
from charlm.evaluation.ngram import Baseline, baselines
from charlm.reporting.result import Result
from charlm.reporting.settings import compare_settings
from charlm.reporting.types import Numbers, Part, RunGroup


def report_numbers(results: list[Result], train: Text | None) -> Numbers:
  """Returns what there is to say of runs, as JSON can hold it.

  Args:
    results: of the runs. Only those with the same eval text are compared: they
      are a group, ranked by their losses. The first run's group comes first.
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
  """Describes runs with one eval text, the best first."""
  # As of eval texts, the hash alone does not tell bytes from characters.
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
  return {
    "eval_sha256": first.eval_sha256,
    # The first character is not predicted.
    "num_characters": len(first.text) - 1,
    "ranked_by": parts[0],
    "settings": compare_settings(results, parts),
    "runs": [result.run for result in ranked],
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
