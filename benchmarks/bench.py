"""Measures charlm beside the reference, PyTorch and JAX.

    .venv/bin/python -m benchmarks.bench

Each contestant is a process. Those of a column are alive together and take
turns, so the machine's drift affects all alike: compare the ratios. After each
column, the tables so far are written to `bench.md` in this folder.
"""

import argparse
import contextlib
import dataclasses
import multiprocessing
import os
import pathlib
import re
import resource
import statistics
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.task import CHUNK_CHARS, SAMPLE_CHARS, Sizes, Text, markdown
from charlm.errors import InputError
from charlm.system.process import import_quietly

_PAGE = pathlib.Path(__file__).with_name("bench.md")
_WARM_UP_RUNS = 2
# All are alive at once: none may reserve the whole memory of a GPU.
_ENVIRONMENT = {
  "TF_CPP_MIN_LOG_LEVEL": "3",
  "TF_FORCE_GPU_ALLOW_GROWTH": "true",
  "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
}
CHARLM, FIT = "charlm", "Keras (the reference)"
# Module and function that build a `Run` from sizes and text.
STEP = {
  CHARLM: "ours.build_step",
  FIT: "reference.build_step",
  "PyTorch": "pytorch.build_step",
  "JAX": "jax_scan.build_step",
}


@dataclasses.dataclass(frozen=True)
class Table:
  """Contestants, and the sizes at which they do the same work."""

  builders: dict[str, str]  # by the contestant's name
  columns: dict[str, dict[str, Any]]  # changes of the sizes by heading
  precisions: tuple[str, ...] = ("float32",)
  # Characters of a unit of work, for each text. Without them it is a step.
  characters: int = 0


TABLES = {
  "step": Table(STEP, {"step": {}}, ("float32", "bfloat16")),
  "sampling": Table(
    {CHARLM: "ours.build_sampling", FIT: "reference.build_sampling"},
    {"one text": {"batch_size": 1}, "64 texts": {"batch_size": 64}},
    characters=SAMPLE_CHARS,
  ),
  "evaluation": Table(
    {CHARLM: "ours.build_evaluation", FIT: "reference.build_evaluation"},
    {"evaluation": {"batch_size": 1}},
    characters=CHUNK_CHARS,
  ),
  "windows": Table(
    STEP, {f"{2**n} windows": {"batch_size": 2**n} for n in range(10)}
  ),
  "sizes": Table(
    STEP,
    {
      **{f"{n} units": {"rnn_units": n} for n in (128, 256, 1024, 2048)},
      **{f"{n} characters": {"seq_length": n} for n in (25, 50, 200, 400)},
      "2 layers": {"num_layers": 2},
    },
  ),
}


class Worker:
  """The process of a contestant, and its measurements."""

  def __init__(self, builder: str, sizes: Sizes, corpus: str) -> None:
    """Starts the process, which prepares its work."""
    os.environ.update(_ENVIRONMENT)
    self.seconds: list[float] = []  # per unit of work, one for each turn
    self.peak_bytes = 0
    self.failed = False
    self._times = 1
    spawn = multiprocessing.get_context("spawn")
    self._connection, other = spawn.Pipe()
    self._process = spawn.Process(
      target=_serve, args=(other, builder, sizes, corpus), daemon=True
    )
    self._process.start()
    other.close()  # so that the end of the process is noticed

  def attempt(self, stage: Callable[["Worker"], None]) -> None:
    """Calls one of the methods below, unless the process has ended."""
    try:
      if not self.failed:
        stage(self)
    except (EOFError, OSError):  # stderr has the reason
      self.failed = True

  def wait(self) -> None:
    """Waits until the process is ready."""
    self._connection.recv()

  def calibrate(self, seconds_per_turn: float) -> None:
    """Finds how many units of work fill a turn; at least one."""
    seconds = self._run()
    self._times = max(1, round(seconds_per_turn / max(seconds, 1e-9)))

  def take_turn(self) -> None:
    """Measures one turn."""
    self.seconds.append(self._run())

  def close(self) -> None:
    """Ends the process."""
    self._process.kill()
    self._process.join()
    self._connection.close()

  def times_as_fast(self, other: "Worker") -> float:
    """Returns the median over the rounds."""
    rounds = zip(other.seconds, self.seconds, strict=True)
    return statistics.median(theirs / mine for theirs, mine in rounds)

  def _run(self) -> float:
    """Returns the seconds of a unit of work."""
    self._connection.send(self._times)
    seconds, self.peak_bytes = self._connection.recv()
    return seconds / self._times


def _serve(
  connection: Connection, builder: str, sizes: Sizes, corpus: str
) -> None:
  """Runs in the process of a contestant: works on request, else sleeps."""
  module, _, function = builder.rpartition(".")
  import_quietly(f"benchmarks.{module}", keep=False)
  build = getattr(sys.modules[f"benchmarks.{module}"], function)
  run = build(sizes, Text.load(corpus))
  for _ in range(_WARM_UP_RUNS):
    run(1)
  connection.send("ready")
  with contextlib.suppress(EOFError):  # the benchmark was ended
    while True:
      seconds = run(connection.recv())
      connection.send((seconds, _peak_bytes()))


def _peak_bytes() -> int:
  with contextlib.suppress(FileNotFoundError):
    # `ru_maxrss` would include the peak of the parent process.
    status = pathlib.Path("/proc/self/status").read_text()
    return 1024 * int(re.findall(r"VmHWM:\s*(\d+) kB", status)[0])
  unit = 1 if sys.platform == "darwin" else 1024
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def measure(
  tasks: dict[str, tuple[str, Sizes]],
  corpus: str,
  *,
  num_rounds: int,
  seconds_per_turn: float,
) -> dict[str, Worker]:
  """Measures contestants side by side.

  All prepare at once; then they work one at a time, in a rotating order.

  Args:
    tasks: builder and sizes by the contestant's name.
    corpus: the text, as for `--corpus`.
    num_rounds: the number of turns that each gets.
    seconds_per_turn: the intended length of a turn.

  Returns:
    The workers by name, with their measurements.
  """
  workers = {
    name: Worker(builder, sizes, corpus)
    for name, (builder, sizes) in tasks.items()
  }
  order = list(workers.values())
  try:
    for stage in (
      Worker.wait,
      lambda worker: worker.calibrate(seconds_per_turn),
      *[Worker.take_turn] * num_rounds,
    ):
      for worker in order:
        worker.attempt(stage)
      order = order[1:] + order[:1]
  finally:
    for worker in order:
      worker.close()
  return workers


def to_markdown(table: Table, measured: dict[str, dict[str, Worker]]) -> str:
  """Returns two tables, of times and of memory, a column for each heading.

  `measured` has the workers by heading and name.
  """
  what = "characters/s" if table.characters else "ms"
  times = [[f"{what} (times as fast as Keras)", *measured]]
  memory = [["peak MiB", *measured]]
  for name in next(iter(measured.values())):
    times.append([name])
    memory.append([name])
    for heading, workers in measured.items():
      worker, fit = workers[name], workers[FIT]
      if worker.failed:
        times[-1].append("failed")
        memory[-1].append("")
        continue
      seconds = statistics.median(worker.seconds)
      texts = table.columns[heading].get("batch_size", 1)
      rate = table.characters * texts / seconds
      shown = f"{rate:,.0f}" if table.characters else f"{1000 * seconds:,.1f}"
      if not fit.failed:
        shown += f" ({worker.times_as_fast(fit):.2f})"
      times[-1].append(shown)
      memory[-1].append(f"{worker.peak_bytes / 2**20:,.0f}")
  ratios = map(_fastest_other, measured.values())
  times.append(["fastest other / charlm", *ratios])
  return f"{markdown(times)}\n\n{markdown(memory)}"


def _fastest_other(workers: dict[str, Worker]) -> str:
  """Returns its time as a multiple of charlm's, both in float32."""
  charlm = workers[CHARLM]
  others = [workers[name] for name in STEP if name in workers][1:]
  measured = [other for other in others if not other.failed]
  if charlm.failed or not measured:
    return ""
  return f"{min(charlm.times_as_fast(other) for other in measured):.2f}"


def main(argv: list[str]) -> int:
  """Measures the tables; returns the exit code."""
  # Here, since it imports TensorFlow: a contestant's process, too, imports this
  # file, and TensorFlow must not count as memory of PyTorch or JAX.
  import_quietly("benchmarks.machine")
  from benchmarks.machine import in_words

  parser = argparse.ArgumentParser("bench", description=__doc__)
  parser.add_argument("--corpus", default="shakespeare", help="as in train.py")
  parser.add_argument("--rounds", type=int, default=9, help="turns of each")
  parser.add_argument("--seconds", type=float, default=1.0, help="of a turn")
  parser.add_argument("--only", nargs="+", choices=TABLES, default=TABLES)
  sizes_group = parser.add_argument_group("sizes, where a table has no others")
  defaults = dataclasses.asdict(Sizes())
  names = [name for name in defaults if name != "precision"]
  for name in names:
    value = defaults[name]
    sizes_group.add_argument(f"--{name}", type=type(value), default=value)
  args = parser.parse_args(argv[1:])
  base = Sizes(**{name: getattr(args, name) for name in names})
  try:
    Text.load(args.corpus)
  except InputError as error:
    parser.error(str(error))
  pages = {}
  for title in args.only:
    table, measured = TABLES[title], {}
    for heading, changes in table.columns.items():
      print(f"{title}: {heading}", file=sys.stderr)
      sizes = dataclasses.replace(base, **changes)
      tasks = {
        name if precision == "float32" else f"{name}, {precision}": (
          builder,
          dataclasses.replace(sizes, precision=precision),
        )
        for precision in table.precisions
        for name, builder in table.builders.items()
        # `fit` has Keras' defaults.
        if precision == "float32" or name != FIT
      }
      measured[heading] = measure(
        tasks,
        args.corpus,
        num_rounds=args.rounds,
        seconds_per_turn=args.seconds,
      )
      pages[title] = f"## {title}\n\n{to_markdown(table, measured)}"
      page = "\n\n".join([in_words(), *pages.values()])
      _PAGE.write_text(f"{page}\n")
  print(_PAGE.read_text(), end="")
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv))
