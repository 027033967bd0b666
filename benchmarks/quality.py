"""Compares a recipe with the reference's `fit`: wall time and loss.

    .venv/bin/python -m benchmarks.quality --corpus=PATH

The recipe is trained before and after the reference, to reveal the machine's
drift. Its time covers the whole command `train.py`, with evaluations, saves,
the final score and a sample; the reference's time covers `fit` alone.
"""

import argparse
import pathlib
import subprocess
import sys
import tempfile
import time

from charlm.system.process import import_quietly

import_quietly("tensorflow", "keras")

from benchmarks import machine, reference
from benchmarks.task import Text, markdown
from charlm.errors import InputError
from charlm.runs.records import read_records

_ROOT = pathlib.Path(__file__).resolve().parents[1]


def train_recipe(corpus: str, recipe: str) -> tuple[float, float]:
  """Runs `train.py`; returns its seconds, and the loss of the eval text.

  Raises subprocess.CalledProcessError if the training failed.
  """
  with tempfile.TemporaryDirectory() as folder:
    command = [sys.executable, str(_ROOT / "train.py"), f"--corpus={corpus}"]
    command += [f"--recipe={recipe}", f"--run_dir={folder}/run"]
    start = time.perf_counter()
    subprocess.run(command, stdout=sys.stderr, check=True)
    seconds = time.perf_counter() - start
    records = read_records(pathlib.Path(folder, "run", "metrics.jsonl"))
    return seconds, [x["loss"] for x in records if x["split"] == "eval"][-1]


def main(argv: list[str]) -> int:
  """Runs the comparison; returns the exit code."""
  parser = argparse.ArgumentParser("quality", description=__doc__)
  parser.add_argument("--corpus", default="shakespeare", help="as in train.py")
  parser.add_argument("--recipe", default="fast", help="as in train.py")
  parser.add_argument("--epochs", type=int, default=10, help="the reference's")
  args = parser.parse_args(argv[1:])
  try:
    text = Text.load(args.corpus)
    before = train_recipe(args.corpus, args.recipe)
    fit = reference.train(text, args.epochs)
    after = train_recipe(args.corpus, args.recipe)
  except (InputError, subprocess.CalledProcessError) as error:
    parser.error(str(error))
  rows = [["run", "time", "eval loss", "times as fast"]]
  for name, (seconds, loss) in {
    f"`{args.recipe}`, before the reference": before,
    f"`{args.recipe}`, after the reference": after,
    f"epochs of the reference's `fit`: {args.epochs}": fit,
  }.items():
    ratio = fit[0] / seconds
    rows.append([name, f"{seconds:,.0f} s", f"{loss:.4f}", f"{ratio:.1f}"])
  print(machine.in_words(), markdown(rows), sep="\n\n")
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv))
