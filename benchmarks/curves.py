"""Draws the held-out loss of several runs over wall time.

    python -m benchmarks.curves OUTPUT.svg 'LABEL=FILE.jsonl' ...

The files are like a run's `metrics.jsonl`: an object a line. Those count that
have `"split": "eval"`; they need `loss` and the wall time `seconds`.
"""

import json
import pathlib
import sys

from matplotlib.figure import Figure


def plot_curves(
  files: dict[str, pathlib.Path],
  output: pathlib.Path,
  target: float | None = None,
) -> None:
  """Draws runs over each other.

  Args:
    files: the metrics of each run by its label.
    output: the picture; its suffix says which kind.
    target: a loss to mark, nats per character.
  """
  figure = Figure(figsize=(8, 4.5), layout="constrained")
  axes = figure.subplots()
  for label, path in files.items():
    records = [json.loads(line) for line in path.read_text().splitlines()]
    points = [
      (record["seconds"] / 60, record["loss"])
      for record in records
      if record["split"] == "eval"
    ]
    axes.plot(*zip(*points, strict=True), marker="o", markersize=4, label=label)
  if target is not None:
    axes.axhline(target, color="black", linestyle="--", label=f"{target:.4g}")
  axes.set_xlabel("wall time, minutes")
  axes.set_ylabel("held-out loss, nats per character")
  axes.grid(alpha=0.3)
  axes.legend()
  figure.savefig(output)


def main(argv: list[str]) -> int:
  """Draws; returns the exit code."""
  if len(argv) < 3 or not all("=" in pair for pair in argv[2:]):
    print(__doc__, file=sys.stderr)
    return 2
  pairs = [pair.split("=", 1) for pair in argv[2:]]
  files = {label: pathlib.Path(path) for label, path in pairs}
  plot_curves(files, pathlib.Path(argv[1]))
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv))
