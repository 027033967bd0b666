"""Compares `--init_from=english` with random weights, on texts of six kinds.

    taskset -c 0 .venv/bin/python -m benchmarks.finetuning --only verse-100k

None of the texts is in the text of `make english`. What was measured is kept as
JSON in `results/finetuning/`, for the table of `results/README.md`.
"""

import argparse
import math
import pathlib
import re
import shutil
import statistics
import sys
import time
from collections.abc import Iterator
from typing import Any

from benchmarks import machine, texts
from benchmarks.trainings import (
  ROOT,
  eval_loss,
  keep,
  lowest_valid_loss,
  read,
  train,
)

_FOLDER = ROOT / "results" / "finetuning"
_SETTINGS = {"scratch": "", "finetuned": "--init_from=english"}
_TEXTS = ("verse", "novels", "manuals", "stdlib", "german", "hebrew")
_NAMES = [
  f"{text}-{size}" for size in ("100k", "300k", "1M") for text in _TEXTS
]


def measure(
  name: str, setting: str, seed: int, folder: pathlib.Path
) -> dict[str, Any]:
  """Trains once, and scores; returns the losses."""
  path = texts.make(name, folder)
  run_dir = folder / "runs" / name / f"{setting}-{seed}"
  shutil.rmtree(run_dir, ignore_errors=True)  # of a training that was killed
  flags = ["--recipe=auto", f"--corpus={path}", f"--seed={seed}"]
  start = time.perf_counter()
  said = train(run_dir, *flags, *_SETTINGS[setting].split())
  minutes = (time.perf_counter() - start) / 60
  begins = re.search(r"^initial .* loss (\S+), n-grams (\S+): ", said, re.M)
  return {
    "loss": eval_loss(run_dir),
    "valid_loss": lowest_valid_loss(run_dir),
    "minutes": minutes,
    "begins": [float(x) for x in begins.groups()] if begins else None,
  }


def rows() -> Iterator[list[str]]:
  """Yields the rows of the table in `results/README.md`."""
  for name in _NAMES:
    result = read(_FOLDER / f"{name}.json")
    num_seeds = min(len(result.get(setting, [])) for setting in _SETTINGS)
    if not num_seeds:
      continue  # not measured, or not to its end
    runs = [result[setting][:num_seeds] for setting in _SETTINGS]
    cells = [name, str(num_seeds)]
    for part in ("valid_loss", "loss"):
      losses = [[run[part] for run in each] for each in runs]
      scratch, finetuned = map(statistics.mean, losses)
      gain = scratch - finetuned
      cells += [f"{scratch:.4f}", f"{finetuned:.4f}", f"{gain:.3f}"]
      if num_seeds > 1:
        errors = [statistics.variance(each) / len(each) for each in losses]
        cells[-1] += f" ({gain / math.sqrt(sum(errors)):.0f})"
    begins, ngrams = result["finetuned"][0]["begins"]
    cells += [f"{begins:.2f}", f"{ngrams:.2f}"]
    times = [[run["minutes"] for run in each] for each in runs]
    ratio = ""
    if None not in times[1]:  # both in one sitting
      ratio = f"{statistics.mean(times[1]) / statistics.mean(times[0]):.2f}"
    yield [*cells, ratio]


def main(argv: list[str]) -> int:
  """Measures and writes; returns the exit code."""
  parser = argparse.ArgumentParser("finetuning.py", description=__doc__)
  parser.add_argument("--only", nargs="*", choices=_NAMES, default=_NAMES)
  parser.add_argument("--seeds", type=int, default=1)
  parser.add_argument(
    "--folder", type=pathlib.Path, default=ROOT / "runs" / "texts"
  )
  args = parser.parse_args(argv[1:])
  for name in args.only:
    path = _FOLDER / f"{name}.json"
    result = read(path) or {"name": name, "machine": machine.describe()}
    for seed in range(args.seeds):
      for setting in _SETTINGS:
        runs = result.setdefault(setting, [])
        if seed == len(runs):
          runs.append(measure(name, setting, seed, args.folder.resolve()))
          keep(path, result)
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv))
