"""Kills a training run again and again; it must equal an uninterrupted one.

    python tests/soak.py --kills=50
    python tests/soak.py --kills=20 --workers=2

One run is never disturbed. The other is killed at random instants, half of them
while it writes a checkpoint, and started again each time. With several workers,
one of them is killed or frozen, and the others must end. Afterwards, the
variables of both runs must be equal bit by bit, in the newest checkpoint and in
the best, and so must their metrics, except for speed and clock.
"""

import argparse
import dataclasses
import functools
import hashlib
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

from workers import Workers

from charlm.system.process import import_quietly

_ROOT = pathlib.Path(__file__).resolve().parent.parent
# All features of training, with frequent checkpoints.
FLAGS = (
  "--embedding_dim=32",
  "--rnn_units=64",
  "--num_layers=2",
  "--gru=fused",
  "--dropout_rate=0.1",
  "--optimizer=muon",
  "--weight_decay=0.01",
  "--carry_state",
  "--reset_rate=0.05",
  "--valid_lines=200",
  "--schedule=cosine",
  "--warmup_steps=50",
  "--clip_norm=1",
  "--precision=bfloat16",
  "--checkpoint_every_steps=20",
  "--eval_every_steps=300",
  "--summary_every_steps=7",
)
# The events that kills wait for, with their relative frequencies. The delay of
# a kill comes before the wait for a save, and after the other events.
_INSTANTS = {"start": 1, "first steps": 3, "begin of a save": 4}
_POLLING_SECONDS = 0.0005
_ENDED_WITHIN = 24 * 3600.0  # seconds; a training ends by then


@dataclasses.dataclass(frozen=True)
class Kill:
  """When a kill came, and what it left."""

  after: str  # a key of `_INSTANTS`
  step: int  # of the newest whole checkpoint
  left_overs: int  # files and folders of an interrupted save
  frozen: bool  # by SIGSTOP
  seconds: float  # until the other workers had ended


def soak(
  flags: list[str],
  folder: pathlib.Path,
  num_kills: int,
  seed: int,
  max_delay: float = 3.0,
  start: Callable[..., Any] | None = None,
  num_workers: int = 1,
) -> list[Kill]:
  """Trains one run without interruption, and another one through kills.

  A kill comes up to `max_delay` seconds after its event. `start` starts a
  trainer, given the script and its flags; the default starts a process. Two
  workers must equal two replicas of one process. More workers add up in another
  order, so they are compared with other workers.

  Raises AssertionError: the two runs are not equal.
  """
  uninterrupted, disturbed = folder / "uninterrupted", folder / "disturbed"
  baseline = functools.partial(start or _start, "train.py", *flags)
  train, rng = baseline, random.Random(seed)
  if num_workers > 1:
    args = baseline.args
    train = functools.partial(Workers, rng, _start, num_workers, *args)
  if num_workers == 2:
    baseline = functools.partial(baseline, "--num_replicas=2")
  elif num_workers > 2:
    baseline = train
  assert baseline(f"--run_dir={uninterrupted}").wait(_ENDED_WITHIN) == 0
  kills: list[Kill] = []
  while len(kills) < num_kills:
    (after,) = rng.choices([*_INSTANTS], [*_INSTANTS.values()])
    delay = rng.uniform(0, max_delay)
    process = train(f"--run_dir={disturbed}")
    if not _wait(process, disturbed, after, delay):
      break
    frozen = num_workers > 1 and rng.random() < 0.25
    process.send_signal(signal.SIGSTOP if frozen else signal.SIGKILL)
    killed = time.monotonic()
    exit_code = process.wait()
    # 0 if the run had just ended.
    assert num_workers == 1 or exit_code in (0, 4), exit_code
    kill = _inspect(disturbed, after, frozen, time.monotonic() - killed)
    kills.append(kill)
    print(f"kill {len(kills)}: {kill}", flush=True)
  assert train(f"--run_dir={disturbed}").wait(_ENDED_WITHIN) == 0
  assert_equal_runs(disturbed, uninterrupted)
  return kills


def assert_equal_runs(one: pathlib.Path, other: pathlib.Path) -> None:
  """Compares the metrics except speed and clock, and both checkpoints."""
  assert numbers(one) == numbers(other)
  for name in ("checkpoints", "best"):
    assert fingerprint(one / name) == fingerprint(other / name)


def fingerprint(folder: pathlib.Path) -> str:
  """Returns the newest checkpoint's step and the SHA-256 of its variables."""
  import_quietly("tensorflow")
  import tensorflow as tf

  steps = [int(p.stem.partition("-")[2]) for p in folder.glob("*.index")]
  reader = tf.train.load_checkpoint(str(folder / f"ckpt-{max(steps)}"))
  digest = hashlib.sha256()
  for name in sorted(reader.get_variable_to_shape_map()):
    # Skips the description of the graph, and the counter of saves.
    if name.endswith("VARIABLE_VALUE") and not name.startswith("save_counter"):
      value = reader.get_tensor(name)
      digest.update(f"{name} {value.dtype} {value.shape}".encode())
      digest.update(value.tobytes())
  return f"step {max(steps)} {digest.hexdigest()}"


def numbers(run_dir: pathlib.Path) -> list[dict]:
  """Returns the metrics except speed and clock, which no two runs share."""
  import_quietly("tensorflow")
  from charlm.runs.records import read_records

  path = run_dir / "metrics.jsonl"
  records = read_records(path)
  assert len(records) == len(path.read_text().splitlines()), "a malformed line"
  for record in records:
    record.pop("characters_per_second", None)
    record.pop("seconds")
    record.pop("time")
  return records


def _start(
  script: str, *flags: str, env: dict[str, str] | None = None
) -> subprocess.Popen:
  command = [sys.executable, str(_ROOT / script), *flags]
  env = {**os.environ, **(env or {})}
  return subprocess.Popen(command, stdout=subprocess.DEVNULL, env=env)


def _wait(
  process: subprocess.Popen, run_dir: pathlib.Path, after: str, delay: float
) -> bool:
  """Waits for the instant of a kill; returns whether the process still runs."""
  starts, metrics = run_dir / "starts.jsonl", run_dir / "metrics.jsonl"
  num_starts = _size(starts)
  events = [lambda: _size(starts) > num_starts]
  if after != "start":
    events.append(lambda: _size(metrics) > num_metrics)
  events.append(lambda: time.monotonic() > end)
  if after == "begin of a save":
    events.append(lambda: _saving(run_dir))
  for happened in events:
    while not happened():
      if process.poll() is not None:
        return False
      time.sleep(_POLLING_SECONDS)
    num_metrics, end = _size(metrics), time.monotonic() + delay
  return True


def _size(path: pathlib.Path) -> int:
  return path.stat().st_size if path.exists() else 0


def _saving(run_dir: pathlib.Path) -> bool:
  folders = (run_dir / "checkpoints", run_dir / "best")
  return any(
    name.endswith("_temp") for folder in folders for name in os.listdir(folder)
  )


def _inspect(
  run_dir: pathlib.Path, after: str, frozen: bool, seconds: float
) -> Kill:
  steps, left_overs = [0], 0
  for folder in (run_dir / "checkpoints", run_dir / "best"):
    names = {path.name for path in folder.glob("ckpt-*")}
    for name in names:
      stem, _, suffix = name.partition(".")
      if suffix == "index":
        steps.append(int(stem.partition("-")[2]))
      elif suffix == "" or f"{stem}.index" not in names:
        left_overs += 1
  return Kill(after, max(steps), left_overs, frozen, round(seconds, 1))


def main(argv: list[str]) -> int:
  """Runs the soak; returns the exit code."""
  parser = argparse.ArgumentParser("soak.py")
  parser.add_argument("--corpus", default="shakespeare", help="as in train.py")
  parser.add_argument("--kills", type=int, default=50)
  parser.add_argument("--workers", type=int, default=1)
  parser.add_argument("--seed", type=int, default=time.time_ns() % 2**32)
  args = parser.parse_args(argv[1:])
  print(f"seed {args.seed}", flush=True)
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder)
    flags = [*FLAGS, f"--corpus={args.corpus}"]
    flags.append(f"--epochs={2 + args.kills // 5}")
    kills = soak(flags, path, args.kills, args.seed, num_workers=args.workers)
    for part in ("checkpoints", "best"):
      print(f"both runs, {part}: {fingerprint(path / 'disturbed' / part)}")
    print(f"both runs: {len(numbers(path / 'disturbed'))} equal metrics")
  print(f"{len(kills)} kills, {sum(k.left_overs > 0 for k in kills)} in a save")
  return 0 if len(kills) == args.kills else 1


if __name__ == "__main__":
  sys.exit(main(sys.argv))
