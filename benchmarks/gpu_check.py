"""Checks a machine with GPUs: what runs, how fast, and whether it is right.

    .venv/bin/python -m benchmarks.gpu_check

Each part is a process with a time limit: one that hangs or crashes loses
nothing of the others, nor of what it has measured before. `gpu_check.json` is
written after each part. At the end come a table in Markdown and what fell short
of the expectations. The exit code is 1 if anything did.
"""

import argparse
import contextlib
import dataclasses
import json
import math
import os
import pathlib
import random
import signal
import string
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from benchmarks import machine
from benchmarks.tables import table
from benchmarks.task import Text

_ROOT = pathlib.Path(__file__).resolve().parents[1]
# How many seconds each part may take: ten minutes together.
PARTS = {
  "devices": 60,
  "graphs": 110,
  "steps": 130,
  "evaluation": 30,
  "sampling": 40,
  "replicas": 60,
  "loss": 50,
  "dropout": 30,
  "resume": 70,
  "memory": 20,
}
FAILED = "failed"  # begins the value of a row that has no number


class Row(NamedTuple):
  """What a part found."""

  name: str
  value: float | str
  unit: str = ""

  def __str__(self) -> str:
    if isinstance(self.value, str):
      return self.value
    return f"{self.value:,.4g} {self.unit}".rstrip()


class Check(NamedTuple):
  """What all parts are told."""

  folder: str  # of the text
  device: str  # gpu or cpu
  toy: bool = False  # tiny sizes


@dataclasses.dataclass
class Outcome:
  """What became of a part."""

  rows: list[Row]
  problem: str = ""  # why it ended early, if it did
  seconds: float = 0.0


class Expectation(NamedTuple):
  """A bound of a row."""

  part: str
  row: str
  at_most: float = math.inf
  at_least: float = -math.inf

  def __str__(self) -> str:
    if self.at_most == math.inf:
      return f"at least {self.at_least:g}"
    return f"at most {self.at_most:g}"


# All are estimated, and were never measured on hardware. Speed and memory are
# those of the full sizes on a GPU.
SPEEDS = (
  Expectation("steps", "step of default, cuDNN", at_most=10),
  Expectation("steps", "step of fast.flags, cuDNN", at_most=10),
  Expectation("steps", "step of an LSTM, cuDNN", at_most=10),
  Expectation("evaluation", "evaluation, charlm", at_least=100_000),
  Expectation("sampling", "1 text on the CPU", at_most=60),
  Expectation("sampling", "64 texts", at_most=20),
  Expectation("replicas", "speed-up of 2 replicas", at_least=1.3),
  Expectation("memory", "peak of a step of default", at_most=1024),
  Expectation("memory", "peak of a step of an LSTM", at_most=4096),
)
# These hold everywhere.
RESULTS = (
  Expectation("loss", "GPU and CPU differ", at_most=0.02),
  Expectation("dropout", "numbers unlike the CPU's", at_most=0),
  Expectation("dropout", "loss with XLA differs", at_most=0.01),
  Expectation("resume", "loss differs", at_most=0.01),
)


def collect(command: list[str], seconds: float, device: str) -> Outcome:
  """Runs a part: a process that prints a row as JSON in each line."""
  environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
  if device == "cpu":
    environment["CUDA_VISIBLE_DEVICES"] = "-1"
  with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as log:
    start, problem = time.monotonic(), ""
    process = subprocess.Popen(
      command,
      stdout=out,
      stderr=log,
      cwd=_ROOT,
      env=environment,
      start_new_session=True,
    )
    try:
      code = process.wait(seconds)
    except subprocess.TimeoutExpired:
      problem = f"took more than {seconds:g} s"
    else:
      log.seek(0)
      last = [line.strip() for line in log if line.strip()][-1:]
      if code:
        problem = ": ".join([f"exit code {code}", *last])
    finally:
      # With the processes that it has started.
      with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
      process.wait()
    out.seek(0)
    whole = [line for line in out if line.endswith("\n")]
    rows = [Row(*json.loads(line)) for line in whole]
    return Outcome(rows, problem, time.monotonic() - start)


def command_of(part: str, check: Check) -> list[str]:
  """Returns the command that runs a part."""
  told = json.dumps(check)
  return [sys.executable, "-m", "benchmarks.gpu_parts", part, told]


def shortfalls(outcomes: dict[str, Outcome], with_speed: bool) -> Iterator[str]:
  """Yields what failed, and what falls short of the expectations."""
  for part, outcome in outcomes.items():
    if outcome.problem:
      yield f"{part}: {outcome.problem}"
    for row in outcome.rows:
      if str(row.value).startswith(FAILED):
        yield f"{part}: {row.name}: {row.value}"
  for expected, value in _compared(outcomes, with_speed):
    # What is not a number is out of all bounds.
    if value is not None and not (
      expected.at_least <= value <= expected.at_most
    ):
      yield (
        f"{expected.part}: {expected.row}: {value:,.4g}, expected {expected}"
      )


def _compared(
  outcomes: dict[str, Outcome], with_speed: bool
) -> Iterator[tuple[Expectation, float | None]]:
  """Yields the expectations of these parts, each with the value, if any."""
  for expected in (*(SPEEDS if with_speed else ()), *RESULTS):
    if expected.part in outcomes:
      values = {row.name: row.value for row in outcomes[expected.part].rows}
      value = values.get(expected.row)
      yield expected, None if isinstance(value, str) else value


def to_markdown(outcomes: dict[str, Outcome], with_speed: bool) -> str:
  """Returns the table, what fell short, and what could not be compared."""
  rows = [
    (f"{part}: {row.name}", str(row))
    for part, outcome in outcomes.items()
    for row in outcome.rows
  ]
  text = table(("", "measured"), rows)
  lists = {
    "Fell short": list(shortfalls(outcomes, with_speed)),
    "Expected, but not measured": [
      f"{expected.part}: {expected.row}, {expected}"
      for expected, value in _compared(outcomes, with_speed)
      if value is None
    ],
  }
  for title, lines in lists.items():
    if lines:
      text += f"\n\n{title}:\n\n" + "\n".join(f"- {line}" for line in lines)
  return text


def _write_text(folder: str, num_lines: int) -> None:
  """Writes a text of random words: the default one may need the network."""
  rng, letters = random.Random(0), string.ascii_letters + "',-.:;?!"
  words = ["".join(rng.choices(letters, k=n % 8 + 2)) for n in range(99)]
  lines = [" ".join(rng.choices(words, k=8)) + "\n" for _ in range(num_lines)]
  path = pathlib.Path(folder, "corpus.txt")
  path.write_text("".join(lines))
  Text(folder).write(str(path))


def _json(outcomes: dict[str, Outcome], with_speed: bool) -> str:
  found: dict[str, Any] = {
    "machine": machine.describe(),
    "parts": {part: vars(outcome) for part, outcome in outcomes.items()},
    "fell_short": list(shortfalls(outcomes, with_speed)),
  }
  return json.dumps(found, indent=1) + "\n"


def main(argv: list[str]) -> int:
  """Runs the parts; returns the exit code."""
  parser = argparse.ArgumentParser(
    "gpu_check.py",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument(
    "--only", default=",".join(PARTS), help="names of parts, with commas"
  )
  parser.add_argument("--device", choices=("gpu", "cpu"), default="gpu")
  parser.add_argument("--toy", action="store_true", help="tiny sizes")
  parser.add_argument("--limit", type=float, help="seconds for each part")
  parser.add_argument(
    "--output",
    type=pathlib.Path,
    default="benchmarks/gpu_check.json",
    help="file, which is written anew",
  )
  args = parser.parse_args(argv[1:])
  parts = args.only.split(",")
  if unknown := [part for part in parts if part not in PARTS]:
    parser.error(f"no part is called {unknown[0]!r}: give {', '.join(PARTS)}")
  # Ends the process of a part, too, as Ctrl-C does.
  signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
  with_speed = args.device == "gpu" and not args.toy
  outcomes: dict[str, Outcome] = {}
  with tempfile.TemporaryDirectory() as folder:
    check = Check(folder, args.device, args.toy)
    _write_text(folder, num_lines=1_200 if args.toy else 20_000)
    for part in parts:
      limit = args.limit or PARTS[part]
      print(f"{part}: at most {limit:g} s", file=sys.stderr)
      command = command_of(part, check)
      outcomes[part] = collect(command, limit, args.device)
      args.output.write_text(_json(outcomes, with_speed))
  print(to_markdown(outcomes, with_speed))
  return 1 if any(shortfalls(outcomes, with_speed)) else 0


if __name__ == "__main__":
  sys.exit(main(sys.argv))
