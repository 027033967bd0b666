"""Measures charlm beside the reference, PyTorch and JAX.

    .venv/bin/python -m benchmarks.bench

Each contestant runs in its own process. Those of a group are alive together
and take turns, so the machine's drift affects all alike: compare the ratios.
After each group, the results are written to `bench.json` and `bench.md`.
"""

import argparse
import dataclasses
import json
import pathlib
import signal
import sys
import tempfile
import time
from typing import Any

from benchmarks import contestants, machine, pool, tables
from benchmarks.contestants import Group
from benchmarks.task import Sizes, Task, Text
from charlm.errors import InputError

_GROUPS = (
  "training",
  "input",
  "sampling",
  "evaluation",
  "scaling",
)
_STREAMS = (1, 64)
_SECONDS_PER_TURN = 1.5
# Scaling gets a third of the rounds: most of its time is preparation.
_ROUNDS_DIVISOR = 3


class Bench:
  """One run of the benchmark: its options, and the results so far."""

  def __init__(self, args: argparse.Namespace, text: Text) -> None:
    self._args = args
    self._text = text
    self._sizes = Sizes(len(text.vocab), layer=args.layer)
    self._deadline = time.monotonic() + 60 * args.minutes
    self._few_rounds = -(-args.rounds // _ROUNDS_DIVISOR)
    self.results: dict[str, Any] = {
      "machine": machine.describe(),
      "rounds": args.rounds,
      "groups": {},
      "skipped": [],
    }

  def run(self) -> None:
    """Measures the groups that `--only` names."""
    groups = [contestants.training(self._sizes)]
    groups += [contestants.input_pipeline(self._sizes)]
    groups += [contestants.sampling(num_streams) for num_streams in _STREAMS]
    groups += [contestants.evaluation()]
    for group in groups:
      if group.name.split("_")[0] in self._args.only and self._in_time(
        group.title
      ):
        self.results["groups"][group.name] = self._measure(
          group, self._sizes, self._args.rounds
        )
        self._write()
    if "scaling" in self._args.only:
      self._measure_scaling()
      self._write()

  def _measure_scaling(self) -> None:
    points = self.results["scaling"] = []
    for sizes in contestants.scaling_points(self._sizes):
      group = contestants.scaling(sizes)
      if self._in_time(group.title):
        point = self._measure(
          group=group,
          sizes=sizes,
          num_rounds=self._few_rounds,
          seconds_per_turn=_SECONDS_PER_TURN / 3,
        )
        points.append(point)
        self._write()

  def _measure(
    self,
    group: Group,
    sizes: Sizes,
    num_rounds: int,
    seconds_per_turn: float = _SECONDS_PER_TURN,
  ) -> dict[str, Any]:
    """Measures a group; returns the results, one entry per contestant."""
    tasks = {
      c.name: Task(
        builder=c.builder,
        options=c.options,
        sizes=sizes,
        folder=self._text.folder,
      )
      for c in group.contestants
    }
    timings = pool.measure(tasks, num_rounds, seconds_per_turn)
    reference = timings[group.reference]
    entries: dict[str, dict[str, Any]] = {}
    for contestant in group.contestants:
      timing = timings[contestant.name]
      entry = entries[contestant.name] = {"label": contestant.label}
      if timing.error:
        entry["error"] = timing.error
        continue
      entry["seconds"] = timing.median
      entry["seconds_of_rounds"] = timing.seconds
      entry["peak_bytes"] = timing.peak_bytes
      if not reference.error:
        entry["speedup"] = timing.speedup_over(reference)
    return {
      "title": group.title,
      "characters": group.characters,
      "sizes": dataclasses.asdict(sizes),
      "contestants": entries,
    }

  def _in_time(self, title: str) -> bool:
    """Announces a measurement, or records that there is no time for it."""
    minutes = (self._deadline - time.monotonic()) / 60
    if minutes > 0:
      print(f"{title} ({minutes:.0f} minutes left)", file=sys.stderr)
      return True
    self.results["skipped"].append(f"{title}: no time left")
    return False

  def _write(self) -> None:
    folder = self._args.output
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(self.results, indent=1) + "\n"
    (folder / "bench.json").write_text(text)
    (folder / "bench.md").write_text(tables.to_markdown(self.results))


def main(argv: list[str]) -> int:
  """Runs the benchmark; returns the exit code."""
  parser = argparse.ArgumentParser(
    "bench.py",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("--corpus", default="shakespeare", help="as in train.py")
  parser.add_argument(
    "--rounds", type=int, default=27, help="per group; a third for scaling"
  )
  parser.add_argument(
    "--minutes", type=float, default=55, help="starts no group after these"
  )
  parser.add_argument(
    "--output", type=pathlib.Path, default="benchmarks", help="folder"
  )
  parser.add_argument(
    "--only",
    nargs="+",
    choices=_GROUPS,
    default=_GROUPS,
    help="the groups to measure",
  )
  parser.add_argument("--layer", choices=("gru", "lstm"), default="gru")
  args = parser.parse_args(argv[1:])
  if args.rounds < 1:
    parser.error(f"--rounds is {args.rounds}: give 1 or more")
  # SIGTERM ends the contestants' processes, as Ctrl-C does.
  signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
  with tempfile.TemporaryDirectory() as folder:
    text = Text(folder)
    try:
      text.write(args.corpus)
    except InputError as error:
      parser.error(str(error))
    bench = Bench(args, text)
    bench.run()
  print(tables.to_markdown(bench.results))
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv))
