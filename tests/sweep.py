"""Compiles what charlm compiles, at many sizes: none may take long.

    python tests/sweep.py --seed=1

XLA compiles a function anew for each size of a model, and one of LLVM's passes
that is fast at one size may never end at another. So each combination runs in a
process that is killed when it takes too long.
"""

import argparse
import concurrent.futures
import contextlib
import dataclasses
import functools
import itertools
import json
import logging
import queue
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from charlm.system.process import import_quietly

_VOCAB_SIZES = range(3, 301)
_UNITS = (8, 16, 48, 64, 100, 512)
_LIMITS = ("none", "top_k", "top_p", "min_p")
_LIMIT_VALUES = {"top_k": 5, "top_p": 0.9, "min_p": 0.05}
_NUM_ROWS = (1, 2, 32)
_EVALUATIONS = ("stream", "lines", "dynamic", "per line")
_NUM_WINDOWS = (1, 2, 5, 16)  # of a step of training, which XLA compiles
_LARGEST_SECONDS = 5.0  # of a combination's first run, compiling included
_KILLED_AFTER = 60.0  # seconds
_RUNS_OF_A_PROCESS = 100  # since what was compiled stays in memory


@dataclasses.dataclass(frozen=True)
class Combination:
  """A model's sizes, and what is done with it."""

  vocab_size: int
  units: int
  num_layers: int = 1
  layer_norm: bool = False
  # How it is evaluated, what limits the texts drawn, or that it is trained.
  use: str = "none"
  num_rows: int = 1  # texts drawn, or windows of a step


def hung() -> list[Combination]:
  """Lists combinations whose compilation once did not end."""
  return [
    *(
      Combination(vocab_size, units, use="top_k")
      for vocab_size in range(8, 129, 8)
      for units in (16, 48)
    ),
    Combination(8, 16, use="top_p"),
    Combination(16, 16, use="top_p"),
    *(Combination(16, 512, use=limit) for limit in _LIMITS[1:]),
  ]


def drawn(seed: int) -> list[Combination]:
  """Lists combinations of sampling with all pairs of settings, and others.

  Each vocabulary meets each number of units; with them comes what adds the most
  pairs that were not there. Each evaluation, and training with each number of
  windows, meets all layers, with vocabularies that are drawn.
  """
  rng = random.Random(seed)
  rest = list(itertools.product((1, 2), (False, True), _LIMITS, _NUM_ROWS))
  seen: set[tuple] = set()
  result = []
  for sizes in itertools.product(_VOCAB_SIZES, _UNITS):
    pairs = {
      other: set(itertools.combinations(enumerate((*sizes, *other)), 2))
      for other in rng.sample(rest, len(rest))
    }
    best = max(pairs, key=lambda other: len(pairs[other] - seen))
    seen |= pairs[best]
    result.append(Combination(*sizes, *best))
  for *layers, use in itertools.product(
    _UNITS, (1, 2), (False, True), _EVALUATIONS
  ):
    for vocab_size in rng.sample(_VOCAB_SIZES, 8):
      result.append(Combination(vocab_size, *layers, use))
  for *layers, num_rows in itertools.product(
    _UNITS, (1, 2), (False, True), _NUM_WINDOWS
  ):
    for vocab_size in rng.sample(_VOCAB_SIZES, 4):
      result.append(Combination(vocab_size, *layers, "train", num_rows))
  rng.shuffle(result)
  return result


def sweep(
  combinations: list[Combination], num_processes: int, most: float
) -> Iterator[tuple[Combination, float]]:
  """Yields each combination with the seconds of its first run.

  What takes more than `most` seconds is killed: its seconds are infinite.
  """
  waiting: queue.SimpleQueue[Combination] = queue.SimpleQueue()
  results: queue.SimpleQueue[Any] = queue.SimpleQueue()
  for combination in combinations:
    waiting.put(combination)
  with concurrent.futures.ThreadPoolExecutor(num_processes) as pool:
    for _ in range(num_processes):
      pool.submit(_work_off, waiting, results, most)
    for _ in combinations:
      result = results.get()
      if isinstance(result, BaseException):
        raise result
      yield result


def _work_off(
  waiting: queue.SimpleQueue, results: queue.SimpleQueue, most: float
) -> None:
  """Has the combinations run by one process after another."""
  try:
    while not waiting.empty():
      with subprocess.Popen(
        [sys.executable, __file__, "--worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
      ) as process:
        assert process.stdout.readline() == "ready\n"
        with contextlib.suppress(queue.Empty):
          for _ in range(_RUNS_OF_A_PROCESS):
            combination = waiting.get_nowait()
            timer = threading.Timer(most, process.kill)
            timer.start()
            print(
              json.dumps(dataclasses.astuple(combination)),
              file=process.stdin,
              flush=True,
            )
            line = process.stdout.readline()
            timer.cancel()
            results.put((combination, float(line or "inf")))
            if not line:
              break
        process.kill()
  except BaseException as error:
    results.put(error)


def _worker() -> None:
  """Runs the combinations that come as lines; prints each one's seconds."""
  import_quietly("tensorflow", "keras")
  # Many models in one process look to it like one that is traced again.
  logging.getLogger("tensorflow").setLevel(logging.ERROR)
  from charlm.system.devices import choose_device

  choose_device("cpu")  # where XLA compiles
  print("ready", flush=True)
  for line in sys.stdin:
    run = _prepare(Combination(*json.loads(line)))
    start = time.perf_counter()
    run()
    print(time.perf_counter() - start, flush=True)


def _prepare(combination: Combination) -> Any:
  """Returns what runs a combination, with a model that is built."""
  from charlm.evaluation.dynamic import DynamicEvaluator
  from charlm.evaluation.evaluator import Evaluator
  from charlm.model.language_model import GRULM
  from charlm.sampling.generator import GenerativeModel
  from charlm.sampling.options import Request

  size = combination.vocab_size
  if combination.use == "train":
    return _prepare_training(combination)
  vocab = ["[UNK]", "", "\n", *map(chr, range(ord("!"), ord("!") + size - 3))]
  model = GRULM(
    size,
    8,
    combination.units,
    combination.num_layers,
    layer_norm=combination.layer_norm,
  )
  model.build([None, None])
  ids = np.arange(200) % (size - 2) + 2
  use, evaluator = combination.use, Evaluator(model)
  if use == "stream":
    return functools.partial(evaluator.stream, ids)
  if use == "lines":
    return functools.partial(evaluator.lines, ids, 2)
  if use == "dynamic":
    return lambda: DynamicEvaluator(model, ids[:40]).stream(ids[:40])
  if use == "per line":
    two_lines = np.array([0, 2, 0, 0, 0, 2])
    return functools.partial(evaluator.lines, two_lines, 2)
  limits = {use: _LIMIT_VALUES[use]} if use in _LIMIT_VALUES else {}
  request = Request("", "", 3, combination.num_rows, **limits)
  return functools.partial(GenerativeModel(model, vocab).sample, request)


def _prepare_training(combination: Combination) -> Any:
  """Returns what takes a step whose gradient XLA compiles."""
  from charlm.config import Config
  from charlm.data.batches import Batches
  from charlm.system.devices import create_strategy
  from charlm.training.build import build_trainer
  from charlm.training.hooks import Hooks

  config = Config(
    seq_length=20,
    batch_size=combination.num_rows,
    embedding_dim=8,
    rnn_units=combination.units,
    num_layers=combination.num_layers,
    layer_norm=combination.layer_norm,
  )
  size = combination.vocab_size
  batches = Batches(np.arange(2000) % size, 20, config.batch_size)
  strategy = create_strategy(1, config.batch_size)
  trainer = build_trainer(config, size, batches, strategy)
  assert trainer.uses_xla
  return lambda: trainer.train(1, 1, Hooks())


def main(argv: list[str]) -> int:
  """Runs the sweep; returns the exit code."""
  parser = argparse.ArgumentParser("sweep.py")
  parser.add_argument("--processes", type=int, default=2)
  parser.add_argument("--seed", type=int, default=time.time_ns() % 2**32)
  parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
  args = parser.parse_args(argv[1:])
  if args.worker:
    _worker()
    return 0
  combinations = [*hung(), *drawn(args.seed)]
  print(f"seed {args.seed}, {len(combinations):,} combinations", flush=True)
  start, results = time.monotonic(), []
  for result in sweep(combinations, args.processes, _KILLED_AFTER):
    results.append(result)
    if result[1] > _LARGEST_SECONDS or len(results) % 100 == 0:
      print(f"{len(results):,}: {result}", flush=True)
  minutes = (time.monotonic() - start) / 60
  results.sort(key=lambda result: -result[1])
  slow = sum(seconds > _LARGEST_SECONDS for _, seconds in results)
  print(f"{slow} of {len(results):,} took long, {minutes:.0f} minutes in all")
  print("\n| seconds | combination |\n|---|---|")
  for combination, seconds in results[:10]:
    print(f"| {seconds:.2f} | {combination} |")
  return 1 if slow else 0


if __name__ == "__main__":
  sys.exit(main(sys.argv))
