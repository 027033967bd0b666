"""Tells what charlm does on the GPUs of a machine: one page to send back.

    .venv/bin/python -m benchmarks.gpu_check

It writes `gpu-check.md` for people and `gpu-check.json` for programs, anew
after each part. A part is a process with a time limit: one that hangs or
crashes loses nothing of the others, and its log is kept. Nothing is judged.
"""

import argparse
import contextlib
import dataclasses
import functools
import importlib.util
import json
import os
import pathlib
import platform
import random
import re
import signal
import string
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from benchmarks import machine, pool
from benchmarks.tables import table
from benchmarks.task import (
  BLOCK_CHARS,
  SAMPLE_CHARS,
  Run,
  Sizes,
  Task,
  Text,
  timed,
)
from benchmarks.worker import take_stdout
from charlm.config import Config
from charlm.data.batches import build_batches
from charlm.errors import HungError, InputError
from charlm.model.language_model import model_of
from charlm.runs.metrics import read_records
from charlm.runs.provenance import describe_start
from charlm.runs.run import checkpoint_steps
from charlm.system.devices import (
  choose_device,
  create_strategy,
  kind_of_device,
  most_gpus,
)
from charlm.system.flags import parse
from charlm.training.replicas import GPU_WINDOWS, Replicas
from charlm.training.trainer import Trainer, build_trainer
from charlm.training.workers import Cluster

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_TOY = (
  "--batch_size=4",
  "--seq_length=8",
  "--embedding_dim=4",
  "--rnn_units=8",
)
_RECIPES = ("reference", "fast", "tinyshakespeare")
_VARIABLES = r"CUDA|NCCL|TF_|XLA|NVIDIA|LD_LIBRARY_PATH|PATH$"
_LOG_CHARS = 2_000  # the end of a log, on the page; the JSON has all of it


@dataclasses.dataclass
class Part:
  """What a part found, and how it ended."""

  rows: list[list[Any]] = dataclasses.field(default_factory=list)
  problem: str = ""
  seconds: float = 0.0
  log: str = ""


@dataclasses.dataclass(frozen=True)
class Check:
  """What all parts are told."""

  folder: str  # of the text
  device: str
  toy: bool  # tiny sizes

  @property
  def text(self) -> Text:
    """The text to train on."""
    return Text(self.folder)

  def flags(self, recipe: str, *more: str) -> list[str]:
    """Returns the flags of a recipe, whose warm-up fits any text."""
    sizes = _TOY if self.toy else ()
    file = f"--flagfile={_ROOT}/recipes/{recipe}.flags"
    return [file, "--warmup_steps=0", *sizes, *more]

  def task(self, builder: str, **options: Any) -> Task:
    """Returns the task of a worker of `pool`."""
    return Task(builder, options, Sizes(len(self.text.vocab)), self.folder)


def _config(flags: list[str]) -> Config:
  return Config(**parse(flags, Config))


def _trainer(
  text: Text,
  flags: list[str],
  gru: str = "auto",
  strategy: tf.distribute.Strategy | None = None,
) -> Trainer:
  config = _config(flags)
  return build_trainer(
    config=config,
    vocab_size=len(text.vocab),
    batches=build_batches(text.train_ids, config),
    strategy=strategy or create_strategy(1),
    gru=gru,
  )


Rows = Iterator[tuple[str, Any, str]]  # name, value, unit


def devices(check: Check) -> Rows:
  """Hardware, driver, libraries, environment; a product on each device."""
  for command in ("nvidia-smi -q", "nvidia-smi topo -m"):
    with contextlib.suppress(FileNotFoundError):
      done = subprocess.run(command.split(), capture_output=True, text=True)
      yield command, done.stdout + done.stderr, ""
  yield "kernel", platform.release(), ""
  for name, value in sorted(os.environ.items()):
    if re.match(_VARIABLES, name):
      yield name, value, ""
  choose_device(check.device)
  start = describe_start(0, [])
  yield "commit", start["commit"], ""
  for name, version in {**start["versions"], **start["gpus"]}.items():
    yield name, version, ""
  for device in tf.config.list_logical_devices(kind_of_device()):
    with tf.device(device.name):
      begin = time.perf_counter()
      tf.linalg.matmul(tf.eye(99), tf.eye(99)).numpy()
      yield f"product on {device.name[-5:]}", time.perf_counter() - begin, "s"


def values(check: Check) -> Rows:
  """Loss and gradients of each way to compute a layer, against the CPU's."""
  here = f"{kind_of_device()}:0"
  for layer in ("gru", "lstm"):
    config = _config(check.flags("reference", f"--layer={layer}"))
    windows = build_batches(check.text.train_ids, config).batch(0)
    weights: list[np.ndarray] = []
    expected: list[np.ndarray] = []
    for name, gru, device, xla in (
      ("on the CPU", "fused", "CPU:0", False),
      ("cuDNN", "keras", here, False),
      ("fused", "fused", here, False),
      ("fused, XLA", "fused", here, True),
    ):
      with tf.device(device):
        model = model_of(config, len(check.text.vocab), gru=gru, training=True)
        weights = weights or model.get_weights()
        model.set_weights(weights)
        compute = tf.function(
          functools.partial(_gradients, model), jit_compile=xla, autograph=False
        )
        found = [x.numpy() for x in compute(tf.constant(windows, tf.int64))]
      expected = expected or found
      pairs = zip(found, expected, strict=True)
      worst = max(np.abs(x - y).max() / np.abs(y).max() for x, y in pairs)
      yield f"{layer}, {name}: loss", float(found[0]), "nats"
      yield f"{layer}, {name}: largest relative difference", float(worst), ""


def _gradients(model: Any, windows: tf.Tensor) -> list[tf.Tensor]:
  """Returns the mean loss, and its gradients, of windows `[B, T + 1]`."""
  with tf.GradientTape() as tape:
    nats, _ = model.nats(windows[:, :-1], windows[:, 1:], training=True)
    loss = tf.reduce_mean(nats)
  gradients = tape.gradient(loss, [v.value for v in model.trainable_variables])
  return [loss, *map(tf.convert_to_tensor, gradients)]


def steps(check: Check) -> Rows:
  """Times steps of recipes by cuDNN and by XLA, beside PyTorch's."""
  for recipe in _RECIPES:
    flags, tasks = check.flags(recipe), {}
    for precision in ("float32", "bfloat16"):
      for gru in ("keras", "fused"):
        tasks[f"--gru={gru} --precision={precision}"] = check.task(
          "gpu_check.build_step",
          flags=[*flags, f"--precision={precision}"],
          gru=gru,
        )
    if importlib.util.find_spec("torch"):
      config = _config(flags)
      names = [f.name for f in dataclasses.fields(Sizes)][1:]
      sizes = {name: getattr(config, name) for name in names}
      task = check.task("pytorch.build_step", bfloat16=recipe == "fast")
      tasks["PyTorch"] = dataclasses.replace(
        task, sizes=dataclasses.replace(task.sizes, **sizes)
      )
    yield from _times(check, f"{recipe}: a step", tasks, 1000, "ms")


def build_step(sizes: Sizes, text: Text, flags: list[str], gru: str) -> Run:
  """Steps by flags of `train.py`, for a worker of `pool`."""
  choose_device("auto")
  trainer = _trainer(text, flags, gru)
  return timed(trainer.take_steps)


def _times(
  check: Check, title: str, tasks: dict[str, Task], factor: float, unit: str
) -> Rows:
  """Measures tasks side by side; then the fastest one's name."""
  rounds, seconds = (1, 0.01) if check.toy else (3, 0.5)
  timings = pool.measure(tasks, rounds, seconds)
  for name, timing in timings.items():
    value = timing.error or factor * timing.median
    yield f"{title}, {name}", value, "" if timing.error else unit
  sound = {n: t.median for n, t in timings.items() if not t.error}
  if len(sound) > 1:
    yield f"{title}: fastest", min(sound, key=lambda name: sound[name]), ""


def uses(check: Check) -> Rows:
  """Times evaluation and sampling, and an evaluation in steps of training."""
  for number, device in ((1, "cpu"), (1, "auto"), (64, "auto")):
    task = check.task("ours.build_sampling", num_streams=number, device=device)
    factor, unit = 1e6 / (number * SAMPLE_CHARS), "us a character"
    yield from _times(check, f"{number} texts", {device: task}, factor, unit)
  flags = check.flags("reference")
  tasks = {
    "evaluation": check.task("ours.build_evaluation"),
    "step": check.task("gpu_check.build_step", flags=flags, gru="auto"),
  }
  timings = pool.measure(tasks, 1, 0.01 if check.toy else 0.5)
  evaluation, training = (timings[name] for name in ("evaluation", "step"))
  if not evaluation.error and not training.error:
    yield "characters scored a second", BLOCK_CHARS / evaluation.median, ""
    ratio = evaluation.median / training.median
    yield f"{BLOCK_CHARS} characters scored, in steps of training", ratio, ""


def profile(check: Check) -> Rows:
  """Peak memory of recipes; where the time of a step of `fast` goes."""
  for recipe in _RECIPES:
    trainer = _trainer(check.text, check.flags(recipe))
    trainer.take_steps(1)
    if kind_of_device() == "GPU":
      tf.config.experimental.reset_memory_stats("GPU:0")
      trainer.take_steps(3)
      peak = tf.config.experimental.get_memory_info("GPU:0")["peak"]
      yield f"{recipe}: peak memory", peak / 2**20, "MiB"
  trainer = _trainer(check.text, check.flags("fast"))
  trainer.take_steps(2)
  with tempfile.TemporaryDirectory() as folder:
    with tf.profiler.experimental.Profile(folder):
      trainer.take_steps(10)
    yield from _longest(pathlib.Path(folder), num_steps=10)


def _longest(folder: pathlib.Path, num_steps: int) -> Rows:
  """Yields what took most time on the first GPU, a step."""
  from tensorflow.tsl.profiler.protobuf import xplane_pb2

  space = xplane_pb2.XSpace()
  space.ParseFromString(next(folder.rglob("*.xplane.pb")).read_bytes())
  planes = [plane for plane in space.planes if "GPU:0" in plane.name]
  times: dict[str, list[float]] = {}
  for plane in planes[:1]:
    for line in plane.lines:
      for event in line.events if "Stream" in line.name else ():
        name = plane.event_metadata[event.metadata_id].name[:70]
        times.setdefault(name, []).append(event.duration_ps / 1e6)
  longest = sorted(times, key=lambda name: -sum(times[name]))
  for name in longest[:25]:
    number = len(times[name]) / num_steps
    yield f"{number:g} x {name}", sum(times[name]) / num_steps, "us a step"


def cards(check: Check) -> Rows:
  """Checks two cards, and how much faster a step is on them."""
  if (number := 2 if kind_of_device() == "CPU" else most_gpus()) < 2:
    yield "cards", "one: left out", ""
    return
  windows = 4 if check.toy else 2 * GPU_WINDOWS
  flags = check.flags("fast", f"--batch_size={windows}")
  # Two first: the devices of a process are set up once.
  for count in (2, 1):
    strategy = create_strategy(count)
    trainer = _trainer(check.text, flags, strategy=strategy)
    try:
      Replicas(Cluster(strategy), trainer).check_start()
      yield f"checks of {count} of {number} cards", "passed", ""
    except (InputError, HungError) as error:
      yield f"checks of {count} of {number} cards", str(error), ""
      if isinstance(error, HungError):
        return
    trainer.take_steps(3)
    begin, size = time.perf_counter(), 3 if check.toy else 50
    trainer.take_steps(size)
    seconds = (time.perf_counter() - begin) / size
    yield f"a step of {windows} windows, cards: {count}", 1000 * seconds, "ms"


def resume(check: Check) -> Rows:
  """Losses of a training that was killed, and of one that was not."""
  flags = check.flags("fast", "--eval_chars=2000", "--epochs=9")
  flags += [f"--device={check.device}", f"--corpus={check.folder}/corpus.txt"]
  flags += [f"--max_steps={40 if check.toy else 400}"]
  flags += ["--checkpoint_every_steps=20"]
  for name in ("whole", "killed"):
    run = pathlib.Path(check.folder, name)
    command = [sys.executable, "train.py", *flags, f"--run_dir={run}"]
    if name == "killed":
      process = subprocess.Popen(command, stdout=sys.stderr)
      while process.poll() is None:
        if max(checkpoint_steps(run / "checkpoints"), default=0) > 0:
          process.kill()
        time.sleep(0.01)
      steps_saved = checkpoint_steps(run / "checkpoints")
      yield "killed after step", max(steps_saved, default=0), ""
    code = subprocess.run(command, stdout=sys.stderr).returncode
    yield f"exit code, {name}", code, ""
    losses = [x["loss"] for x in read_records(run / "metrics.jsonl")]
    yield f"last loss, {name}", losses[-1], "nats"


# How many seconds each part may take. A first start on a new kind of card
# compiles for minutes; a sum that hangs is told after three.
_PARTS: dict[str, tuple[Callable[[Check], Rows], int]] = {
  "devices": (devices, 300),
  "values": (values, 120),
  "steps": (steps, 240),
  "uses": (uses, 90),
  "profile": (profile, 90),
  "cards": (cards, 240),
  "resume": (resume, 120),
}


def command_of(name: str, told: str) -> list[str]:
  """Returns the command of a part; `told` are the fields of `Check`."""
  run = f"--run={name}:{told}"
  return [sys.executable, "-m", "benchmarks.gpu_check", run]


def run_part(command: list[str], seconds: float) -> Part:
  """Runs a part: a process that prints rows as lines of JSON."""
  part, start = Part(), time.monotonic()
  environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "0", "NCCL_DEBUG": "INFO"}
  with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as log:
    process = subprocess.Popen(
      command,
      stdout=out,
      stderr=log,
      cwd=_ROOT,
      env=environment,
      start_new_session=True,
    )
    try:
      if code := process.wait(seconds):
        part.problem = f"exit code {code}"
    except subprocess.TimeoutExpired:
      part.problem = f"took more than {seconds:g} s"
    finally:  # with the processes that it has started
      with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
      process.wait()
    for file in (out, log):
      file.seek(0)
    part.log = log.read()
    part.rows = [json.loads(line) for line in out if line.endswith("\n")]
  part.seconds = time.monotonic() - start
  return part


def to_markdown(parts: dict[str, Part]) -> str:
  """Returns the page."""
  pieces = ["# GPU check", machine.in_words(machine.describe())]
  for name, part in parts.items():
    pieces.append(f"## {name}: {part.problem or 'ended'}, {part.seconds:.0f} s")
    rows, blocks = [], []
    for row, value, unit in part.rows:
      if "\n" in str(value):
        blocks.append(f"{row}:\n\n```text\n{value.strip()}\n```")
      else:
        shown = f"{value:.4g}" if isinstance(value, float) else str(value)
        rows.append((row, f"{shown} {unit}".strip()))
    if rows:
      pieces.append(table(("", "found"), rows))
    if part.problem:
      end = part.log[-_LOG_CHARS:].strip()
      blocks.append(f"The end of its log:\n\n```text\n{end}\n```")
    pieces += blocks
  return "\n\n".join(pieces) + "\n"


def _write_text(folder: str, num_lines: int) -> None:
  """Writes a text of random words: the default one may need the network."""
  rng, letters = random.Random(0), string.ascii_letters + "',-.:;?!"
  words = ["".join(rng.choices(letters, k=n % 8 + 2)) for n in range(99)]
  lines = [" ".join(rng.choices(words, k=8)) + "\n" for _ in range(num_lines)]
  path = pathlib.Path(folder, "corpus.txt")
  path.write_text("".join(lines))
  Text(folder).write(str(path))


def main(argv: list[str]) -> int:
  """Runs the parts, and writes the page; returns the exit code."""
  parser = argparse.ArgumentParser("gpu_check", description=__doc__)
  parser.add_argument("--only", default=",".join(_PARTS), help="names of parts")
  parser.add_argument("--device", choices=("gpu", "cpu"), default="gpu")
  parser.add_argument("--toy", action="store_true", help="tiny sizes")
  parser.add_argument("--limit", type=float, help="seconds for each part")
  parser.add_argument(
    "--output", type=pathlib.Path, default="gpu-check", help="without suffix"
  )
  parser.add_argument("--run", help=argparse.SUPPRESS)  # a part, in a process
  args = parser.parse_args(argv[1:])
  if args.run:
    answers = take_stdout()
    name, told = args.run.split(":", 1)
    check = Check(**json.loads(told))
    if name != "devices":  # which tells of the machine before
      choose_device(check.device)
    for row in _PARTS[name][0](check):
      print(json.dumps(row), file=answers, flush=True)
    os._exit(0)  # the interpreter would wait for a sum that hangs
  if unknown := {*args.only.split(",")} - _PARTS.keys():
    parser.error(f"no part is called {min(unknown)}: give {', '.join(_PARTS)}")
  # Ends the process of a part, too, as Ctrl-C does.
  signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
  parts: dict[str, Part] = {}
  with tempfile.TemporaryDirectory() as folder:
    _write_text(folder, num_lines=1_200 if args.toy else 20_000)
    told = json.dumps(
      {"folder": folder, "device": args.device, "toy": args.toy}
    )
    for name in args.only.split(","):
      limit = args.limit or _PARTS[name][1]
      print(f"{name}: at most {limit:g} s", file=sys.stderr)
      parts[name] = run_part(command_of(name, told), limit)
      found = {"machine": machine.describe()}
      found |= {"parts": {n: vars(part) for n, part in parts.items()}}
      for suffix, text in (
        (".json", json.dumps(found, indent=1) + "\n"),
        (".md", to_markdown(parts)),
      ):
        args.output.with_suffix(suffix).write_text(text)
  print(f"wrote {args.output}.md and {args.output}.json", file=sys.stderr)
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv))
