"""Compares GRU, LSTM and minGRU at 0.97 million weights, on tiny shakespeare.

    taskset -c 0 .venv/bin/python -m benchmarks.layers --only mingru

All have the recipe `tinyshakespeare`. Each layer has the same trials, by a
larger valid text; the settings of its best trial are trained with three seeds,
and scored on the eval text. `--time` times the training steps instead, of all
layers in turns. What was measured is kept as JSON in `results/layers/`, for the
table and the picture of `results/README.md`. A stopped run is resumed.
"""

import argparse
import pathlib
import re
import shutil
import statistics
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks import machine
from benchmarks.trainings import (
  ROOT,
  eval_loss,
  keep,
  lowest_valid_loss,
  read,
  train,
)
from charlm.reporting.page import label_losses
from charlm.runs.metrics import Record, read_records

HEADER = (
  "layer",
  "units",
  "weights",
  "valid: recipe's settings",
  "half the rate",
  "twice the dropout",
  "stream",
  "windows of 256",
  "step",
)
_FOLDER = ROOT / "results" / "layers"
_RUNS = ROOT / "runs" / "layers"
_UNITS = {"gru": 312, "lstm": 270, "mingru": 646}  # in each of two layers
# The flag of each that is not charlm's own.
_OWN = {"mingru": f"--layer={ROOT}/examples/mingru.py:MinGRU"}
_TRIALS = {
  "recipe": [],
  "half-rate": ["--learning_rate=0.006"],
  "twice-dropout": ["--dropout_rate=0.2"],
}
_NUM_SEEDS = 3
_STEPS_PER_EPOCH = 312  # of the recipe
_PROTOCOLS = {
  "stream": [],
  "windows of 256": ["--protocol=windows", "--window=256"],
}
_ROUNDS = 3  # of timed steps


def measure(layer: str, corpus: pathlib.Path) -> dict[str, Any]:
  """Trains a layer's trials and seeds; returns what was measured."""
  trials = {}
  for name, settings in _TRIALS.items():
    run_dir = _RUNS / layer / name
    valid = ["--valid_lines=0", "--valid_chars=55770"]
    train(run_dir, *_flags(layer, corpus), *settings, *valid)
    trials[name] = lowest_valid_loss(run_dir)
  best = min(trials, key=trials.__getitem__)
  runs = []
  for seed in range(_NUM_SEEDS):
    run_dir = _RUNS / layer / str(seed)
    flags = [*_flags(layer, corpus), *_TRIALS[best], f"--seed={seed}"]
    said = train(run_dir, *flags)
    runs.append(
      {
        "valid_loss": lowest_valid_loss(run_dir),
        "scores": {
          k: eval_loss(run_dir, *v, *([_OWN[layer]] if layer in _OWN else []))
          for k, v in _PROTOCOLS.items()
        },
        "curve": [r["loss"] for r in _records(run_dir, "valid")],
      }
    )
  num_weights = re.search(r"^model .* (\S+) weights$", said, re.M)
  assert num_weights
  return {
    "machine": machine.describe(),
    "num_weights": num_weights[1],
    "trials": trials,
    "runs": runs,
  }


def time_steps(corpus: pathlib.Path) -> dict[str, Any]:
  """Returns the milliseconds of a training step, of each layer and round."""
  times: dict[str, list[float]] = {layer: [] for layer in _UNITS}
  run_dir = _RUNS / "timed"
  for _ in range(_ROUNDS):
    for layer, milliseconds in times.items():
      shutil.rmtree(run_dir, ignore_errors=True)
      train(run_dir, *_flags(layer, corpus), "--max_steps=60")
      first, *_, last = _records(run_dir, "train")
      seconds = last["seconds"] - first["seconds"]
      milliseconds.append(1000 * seconds / (last["step"] - first["step"]))
  return {"machine": machine.describe(), "milliseconds": times}


def _results() -> dict[str, dict[str, Any]]:
  """Returns what was measured of each layer."""
  return {layer: read(_FOLDER / f"{layer}.json") for layer in _UNITS}


def rows() -> Iterator[list[str]]:
  """Yields the rows of the table in `results/README.md`."""
  times = read(_FOLDER / "steps.json")["milliseconds"]
  for layer, result in _results().items():
    row = [f"`{layer}`", f"{_UNITS[layer]}", result["num_weights"]]
    row += [f"{result['trials'][trial]:.4f}" for trial in _TRIALS]
    for protocol in _PROTOCOLS:
      losses = [run["scores"][protocol] for run in result["runs"]]
      low, high = min(losses), max(losses)
      row.append(f"{statistics.mean(losses):.4f} ({low:.4f} to {high:.4f})")
    ratios = [a / b for a, b in zip(times[layer], times["gru"], strict=True)]
    yield [*row, f"{statistics.median(ratios):.2f}"]


def plot(path: pathlib.Path) -> None:
  """Draws the losses after each epoch, mean and range, by epoch and time.

  They are of the text that is scored then: the valid text or, in older
  measurements, the eval text.
  """
  figure = Figure(figsize=(9, 4.5), layout="constrained")
  by_epoch, by_time = figure.subplots(1, 2, sharey=True)
  times = read(_FOLDER / "steps.json")["milliseconds"]
  for layer, result in _results().items():
    # The losses after each epoch, of each seed.
    losses = np.array([run["curve"] for run in result["runs"]])
    low, high = losses.min(0), losses.max(0)
    epochs = np.arange(1, losses.shape[1] + 1)
    minutes = statistics.median(times[layer]) / 60_000
    for axes, factor in ((by_epoch, 1), (by_time, minutes * _STEPS_PER_EPOCH)):
      (line,) = axes.plot(epochs * factor, losses.mean(0), label=layer)
      color = line.get_color()
      axes.fill_between(epochs * factor, low, high, color=color, alpha=0.2)
  by_epoch.set_xlabel("epochs")
  by_time.set_xlabel("minutes of training steps, on one core")
  for axes in (by_epoch, by_time):
    axes.grid(alpha=0.3)
  by_epoch.legend()
  label_losses(by_epoch, by_time, "character of the text scored")
  figure.savefig(path)


def main(argv: list[str]) -> int:
  """Measures and writes; returns the exit code."""
  parser = argparse.ArgumentParser("layers.py", description=__doc__)
  parser.add_argument("--only", nargs="*", choices=_UNITS, default=_UNITS)
  parser.add_argument("--time", action="store_true")
  parser.add_argument(
    "--corpus",
    type=pathlib.Path,
    default=ROOT.parent / "shared" / "data" / "tinyshakespeare.txt",
  )
  args = parser.parse_args(argv[1:])
  if args.time:
    keep(_FOLDER / "steps.json", time_steps(args.corpus))
    return 0
  for layer in args.only:
    keep(_FOLDER / f"{layer}.json", measure(layer, args.corpus))
  return 0


def _flags(layer: str, corpus: pathlib.Path) -> list[str]:
  recipe = ROOT / "recipes" / "tinyshakespeare.flags"
  kind = _OWN.get(layer, f"--layer={layer}")
  flags = [f"--corpus={corpus}", f"--flagfile={recipe}", kind]
  return [*flags, f"--rnn_units={_UNITS[layer]}"]


def _records(run_dir: pathlib.Path, split: str) -> list[Record]:
  records = read_records(run_dir / "metrics.jsonl")
  return [record for record in records if record["split"] == split]


if __name__ == "__main__":
  sys.exit(main(sys.argv))
