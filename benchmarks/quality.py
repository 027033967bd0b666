"""Compares a recipe with the reference's `fit`: wall time to a given loss.

    .venv/bin/python -m benchmarks.quality --corpus=PATH

The recipe is trained before and after the reference, to reveal the machine's
drift. Its clock covers the whole command `train.py`, with evaluations, saves,
the final score and a sample; the reference's clock covers `fit` alone. The
curves are written to `quality.json` and `quality.svg`.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import Any, TypeAlias

from matplotlib.figure import Figure

from benchmarks import machine
from benchmarks.task import Text
from charlm.errors import InputError
from charlm.reporting.page import label_losses
from charlm.runs.metrics import read_records

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_SECONDS_BETWEEN_LOOKS = 0.05

# `seconds` and `loss` of the eval text, by epoch.
Curve: TypeAlias = list[dict[str, float]]


def train_recipe(corpus: str, recipe: pathlib.Path) -> Curve:
  """Runs `train.py`; returns its curve.

  Raises subprocess.CalledProcessError if the training failed.
  """
  with tempfile.TemporaryDirectory() as folder:
    command = [sys.executable, str(_ROOT / "train.py"), f"--corpus={corpus}"]
    command += [f"--flagfile={recipe}", f"--run_dir={folder}/run"]
    metrics = pathlib.Path(folder, "run", "metrics.jsonl")
    curve: Curve = []
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
      while True:
        ended = process.poll() is not None
        records = [r for r in read_records(metrics) if r["split"] == "eval"]
        for record in records[len(curve) :]:
          seconds, loss = time.perf_counter() - start, record["loss"]
          curve.append({"seconds": seconds, "loss": loss})
          print(f"  {seconds:6.0f} s {loss:.4f}", file=sys.stderr)
        if ended:
          break
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    if process.returncode:
      raise subprocess.CalledProcessError(process.returncode, command)
    # Includes the last save, the score and the sample.
    curve[-1]["seconds"] = time.perf_counter() - start
    return curve


def train_reference(folder: str, num_epochs: int) -> Curve:
  """Trains the reference in its own process; returns its curve."""
  code = "import sys; from benchmarks import reference as r; "
  code += "r.train(sys.argv[1], int(sys.argv[2]))"
  command = [sys.executable, "-c", code, folder, str(num_epochs)]
  curve = []
  with subprocess.Popen(
    command,
    cwd=_ROOT,
    stdout=subprocess.PIPE,
    env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
    text=True,
  ) as process:
    for line in process.stdout or ():
      curve.append(json.loads(line))
      print(f"  {line}", end="", file=sys.stderr)
  if process.returncode:
    raise subprocess.CalledProcessError(process.returncode, command)
  return curve


def describe(curves: dict[str, Curve]) -> str:
  """Says how soon each run reached the reference's best loss."""
  reference = curves["reference"]
  target = min(point["loss"] for point in reference)
  whole = reference[-1]["seconds"]
  lines = [
    f"reference: best {target:.4f} in {len(reference)} epochs of {whole:.0f} s"
  ]
  for label, curve in curves.items():
    if label == "reference":
      continue
    reached = [p["seconds"] for p in curve if p["loss"] <= target]
    best = min(point["loss"] for point in curve)
    when = (
      f"at or below that after {reached[0]:.0f} s, "
      f"1/{whole / reached[0]:.1f} of the reference's time"
      if reached
      else "never at that"
    )
    lines.append(f"{label}: best {best:.4f}; {when}")
  return "\n".join(lines)


def plot_curves(curves: dict[str, Curve], path: pathlib.Path) -> None:
  """Plots losses over wall time, and marks the reference's best."""
  figure = Figure(figsize=(8, 4.5), layout="constrained")
  axes = figure.subplots()
  for label, curve in curves.items():
    axes.plot(
      [point["seconds"] / 60 for point in curve],
      [point["loss"] for point in curve],
      marker="o",
      markersize=4,
      label=label,
    )
  target = min(point["loss"] for point in curves["reference"])
  axes.axhline(target, color="black", linestyle="--", label=f"{target:.4f}")
  axes.set_xscale("log")
  ticks = [0.5, 1, 2, 5, 10, 20, 50]
  axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
  axes.set_xlabel("wall time, minutes")
  label_losses(axes, axes, "character of the eval text")
  axes.grid(alpha=0.3)
  axes.legend()
  figure.savefig(path)


def measure(args: argparse.Namespace) -> dict[str, Curve]:
  """Trains the recipe, the reference, and the recipe again."""
  curves = {}
  with tempfile.TemporaryDirectory() as folder:
    text = Text(folder)
    text.write(args.corpus)
    for label in (args.recipe.stem, "reference", f"{args.recipe.stem}, again"):
      print(label, file=sys.stderr)
      if label == "reference":
        curves[label] = train_reference(folder, args.epochs)
      else:
        curves[label] = train_recipe(args.corpus, args.recipe)
  return curves


def main(argv: list[str]) -> int:
  """Runs the comparison; returns the exit code."""
  parser = argparse.ArgumentParser("quality.py", description=__doc__)
  parser.add_argument("--corpus", default="shakespeare", help="as in train.py")
  parser.add_argument(
    "--recipe", type=pathlib.Path, default=_ROOT / "recipes" / "fast.flags"
  )
  parser.add_argument("--epochs", type=int, default=10, help="the reference's")
  parser.add_argument(
    "--output", type=pathlib.Path, default="benchmarks", help="folder"
  )
  args = parser.parse_args(argv[1:])
  results: dict[str, Any] = {"machine": machine.describe()}
  try:
    curves = results["curves"] = measure(args)
  except (InputError, subprocess.CalledProcessError) as error:
    parser.error(str(error))
  args.output.mkdir(parents=True, exist_ok=True)
  text = json.dumps(results, indent=1) + "\n"
  (args.output / "quality.json").write_text(text)
  plot_curves(curves, args.output / "quality.svg")
  print(machine.in_words(results["machine"]), describe(curves), sep="\n")
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv))
