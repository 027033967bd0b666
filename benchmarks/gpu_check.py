"""Checks charlm on a machine's GPUs: one page to send back.

    .venv/bin/python -m benchmarks.gpu_check

It rewrites `gpu-check.md`, for people, and `gpu-check.json`, for programs,
after each part. A part is a process with a time limit: if it hangs or crashes,
the other parts lose nothing, and its log is kept. Nothing is judged.
"""

import argparse
import contextlib
import functools
import gc
import importlib.util
import itertools
import json
import os
import pathlib
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from charlm.system.process import import_quietly

import_quietly("tensorflow", "keras")
import tensorflow as tf

from benchmarks import machine, ours
from benchmarks.tables import table
from benchmarks.task import CHUNK_CHARS, Run, Sizes, Text, timed
from benchmarks.worker import take_stdout
from charlm.config import Config
from charlm.data.batches import build_batches
from charlm.model.language_model import LanguageModel, model_of
from charlm.runs.metrics import read_records
from charlm.runs.provenance import describe_start
from charlm.runs.run import checkpoint_steps
from charlm.system import devices
from charlm.system.files import write_atomically
from charlm.system.flags import parse
from charlm.training.replicas import GPU_WINDOWS, Replicas
from charlm.training.trainer import Trainer, build_trainer
from charlm.training.workers import Cluster

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_TOY = ("--batch_size=4", "--seq_length=8", "--rnn_units=8")
_RECIPES = ("reference", "fast", "tinyshakespeare")
_VARIABLES = r"CUDA|CUDNN|NCCL|TF_|XLA|NVIDIA|PATH$"
_LOG_CHARS = 2_000  # from a log's end, on the page; the JSON has it whole
_INTERRUPTED = "interrupted"

Rows = Iterator[tuple[str, Any]]  # name with unit, and value


class Check(argparse.Namespace):
  """The options of the program, passed to each part."""

  device: str  # `cpu` runs the check at tiny sizes
  folder: str  # holds the text and the runs

  @property
  def text(self) -> Text:
    """The text to train on."""
    return Text(self.folder)

  def flags(self, recipe: str, *more: str) -> list[str]:
    """Returns the flags of a recipe, without its warm-up."""
    file = f"--flagfile={_ROOT}/recipes/{recipe}.flags"
    toy = _TOY if self.device == "cpu" else ()
    return [file, "--warmup_steps=0", *toy, *more]

  def config(self, recipe: str, *more: str) -> Config:
    """Returns the config of these flags."""
    return Config(**parse(self.flags(recipe, *more), Config))

  def trainer(
    self,
    recipe: str,
    *more: str,
    gru: str = "auto",
    strategy: tf.distribute.Strategy | None = None,
  ) -> Trainer:
    """Builds the trainer of a recipe."""
    config = self.config(recipe, *more)
    return build_trainer(
      config=config,
      vocab_size=len(self.text.vocab),
      batches=build_batches(self.text.train_ids, config),
      strategy=strategy or devices.create_strategy(1),
      gru=gru,
    )

  def seconds(self, run: Run) -> list[float]:
    """Times a unit of work, three times half a second long."""
    run(2)  # compiles
    size = 1 if self.device == "cpu" else max(1, round(0.5 / run(1)))
    return [run(size) / size for _ in range(3)]


def hardware(check: Check) -> Rows:
  """Reports environment, versions, hardware and a product on each device."""
  variables = os.environ.items()
  yield from sorted(x for x in variables if re.search(_VARIABLES, x[0]))
  yield "kernel", platform.release()
  start = describe_start(0, [])
  yield "commit", start["commit"]
  yield from {**start["versions"], **start["gpus"]}.items()
  for command in ("nvidia-smi -q", "nvidia-smi topo -m"):
    # Through a shell, which reports a missing program.
    done = subprocess.run(
      command, shell=True, capture_output=True, text=True, timeout=60
    )
    yield command, done.stdout + done.stderr
  devices.choose_device(check.device)
  for device in tf.config.list_logical_devices(devices.kind_of_device()):
    with tf.device(device.name):
      begin = time.perf_counter()
      tf.linalg.matmul(tf.eye(99), tf.eye(99)).numpy()
      seconds = time.perf_counter() - begin
      yield f"s for the first matrix product on {device.name}", seconds


def values(check: Check) -> Rows:
  """Compares loss and gradients of each implementation with the CPU's."""
  here = f"{devices.kind_of_device()}:0"
  for layer in ("gru", "lstm"):
    config = check.config("reference", f"--layer={layer}")
    windows = build_batches(check.text.train_ids, config).batch(0)
    weights: list[np.ndarray] = []
    expected: list[np.ndarray] = []
    for name, gru, device, xla in (
      ("on the CPU", "fused", "CPU:0", False),
      ("--gru=keras", "keras", here, False),
      ("--gru=fused", "fused", here, False),
      ("--gru=fused, XLA", "fused", here, True),
    ):
      with tf.device(device):
        model = model_of(config, len(check.text.vocab), gru=gru, training=True)
        weights = weights or model.get_weights()
        model.set_weights(weights)
        compute = tf.function(
          functools.partial(_gradients, model), jit_compile=xla, autograph=False
        )
        actual = [x.numpy() for x in compute(tf.constant(windows, tf.int64))]
      expected = expected or actual
      pairs = zip(actual, expected, strict=True)
      # Python's `max` would overlook a NaN.
      worst = np.max([np.abs(x - y).max() / np.abs(y).max() for x, y in pairs])
      yield f"{layer}, {name}: loss in nats", float(actual[0])
      yield f"{layer}, {name}: largest relative difference", float(worst)


def _gradients(model: LanguageModel, windows: tf.Tensor) -> list[tf.Tensor]:
  """Returns the loss of windows `[B, T + 1]`, then its gradients."""
  with tf.GradientTape() as tape:
    nats, _ = model.nats(windows[:, :-1], windows[:, 1:], training=True)
    loss = tf.reduce_mean(nats)
  gradients = tape.gradient(loss, [v.value for v in model.trainable_variables])
  return [loss, *map(tf.convert_to_tensor, gradients)]


def steps(check: Check, recipe: str) -> Rows:
  """Measures time and peak memory of a recipe's steps, by cuDNN and by XLA."""
  for precision, gru in itertools.product(
    ("float32", "bfloat16"), ("keras", "fused")
  ):
    name = f"--gru={gru} --precision={precision}"
    gc.collect()  # frees the previous trainer's weights
    try:
      trainer = check.trainer(recipe, f"--precision={precision}", gru=gru)
      if devices.kind_of_device() == "GPU":
        tf.config.experimental.reset_memory_stats("GPU:0")
      seconds = check.seconds(timed(trainer.take_steps))
      yield f"ms a step, {name}", [1000 * x for x in seconds]
      if devices.kind_of_device() == "GPU":
        peak = tf.config.experimental.get_memory_info("GPU:0")["peak"]
        yield f"MiB that TensorFlow allocated, {name}", peak / 2**20
      del trainer
    except Exception as error:  # still measures the others
      yield name, str(error)[-_LOG_CHARS:]


def pytorch(check: Check) -> Rows:
  """Times PyTorch's steps at the same sizes, with Adam."""
  if not importlib.util.find_spec("torch"):
    yield "PyTorch", "not installed"
    return
  import torch

  from benchmarks import pytorch as contestant

  yield "PyTorch", f"{torch.__version__}, CUDA {torch.version.cuda}"
  for recipe in _RECIPES:
    config = check.config(recipe)
    sizes = Sizes(
      vocab_size=len(check.text.vocab),
      batch_size=config.batch_size,
      seq_length=config.seq_length,
      embedding_dim=config.embedding_dim,
      rnn_units=config.rnn_units,
      num_layers=config.num_layers,
      layer=config.layer,
    )
    bfloat16 = config.precision == "bfloat16"
    run = contestant.build_step(sizes, check.text, bfloat16)
    seconds = [1000 * x for x in check.seconds(run)]
    yield f"ms a step, sizes and precision of {recipe}", seconds


def evaluation(check: Check) -> Rows:
  """Times an evaluation, in milliseconds and in training steps."""
  sizes = Sizes(len(check.text.vocab))
  scored = check.seconds(ours.build_evaluation(sizes, check.text))
  yield f"ms for {CHUNK_CHARS} characters scored", [1000 * x for x in scored]
  step = check.seconds(timed(check.trainer("reference").take_steps))
  yield "their time, in training steps", min(scored) / min(step)


def profile(check: Check) -> Rows:
  """Lists the kernels that take the most time in a step of `fast`."""
  from tensorflow.tsl.profiler.protobuf import xplane_pb2

  trainer, num_steps = check.trainer("fast"), 10
  trainer.take_steps(2)
  with tempfile.TemporaryDirectory() as folder:
    begin = time.perf_counter()
    with tf.profiler.experimental.Profile(folder):
      trainer.take_steps(num_steps)
      seconds = time.perf_counter() - begin
    file = next(pathlib.Path(folder).rglob("*.xplane.pb"))
    space = xplane_pb2.XSpace.FromString(file.read_bytes())
  times: dict[str, list[float]] = {}
  for plane in space.planes:
    for line in plane.lines if "GPU:0" in plane.name else ():
      for event in line.events if "Stream" in line.name else ():
        name = plane.event_metadata[event.metadata_id].name
        times.setdefault(name, []).append(event.duration_ps / 1e6 / num_steps)
  yield "us a step", 1e6 * seconds / num_steps
  yield "us a step, all kernels", sum(map(sum, times.values()))
  for name in sorted(times, key=lambda name: -sum(times[name]))[:25]:
    number = len(times[name]) / num_steps
    yield f"us a step, {number:g} x {name}", sum(times[name])


def cards(check: Check) -> Rows:
  """Checks two cards, and times a step on two and on one card."""
  if devices.kind_of_device() == "GPU" and devices.most_gpus() < 2:
    yield "cards", "one: left out"
    return
  windows = 4 if check.device == "cpu" else 2 * GPU_WINDOWS
  # Two cards first: a process configures its devices once.
  for number in (2, 1):
    strategy = devices.create_strategy(number)
    flag = f"--batch_size={windows}"
    trainer = check.trainer("fast", flag, strategy=strategy)
    seconds = check.seconds(timed(trainer.take_steps))
    Replicas(Cluster(strategy), trainer).check_weights()
    yield f"equal weights, cards: {number}", "passed"
    name = f"ms a step of {windows} windows, cards: {number}"
    yield name, [1000 * x for x in seconds]


def resume(check: Check) -> Rows:
  """Compares the losses of a killed and of an uninterrupted training."""
  flags = check.flags("fast", "--eval_chars=2000", "--epochs=99")
  flags += [f"--device={check.device}", f"--corpus={_ROOT}/docs/*.md"]
  flags += [f"--max_steps={40 if check.device == 'cpu' else 400}"]
  flags += ["--checkpoint_every_steps=20", "--deterministic"]
  losses = []
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
      yield "killed after step", max(steps_saved, default=0)
      yield "exit code of the kill", process.returncode
    code = subprocess.run(command, stdout=sys.stderr).returncode
    yield f"exit code, {name}", code
    losses.append(read_records(run / "metrics.jsonl")[-1]["loss"])
  yield "last losses in nats", losses
  yield "their difference", losses[1] - losses[0]


# The time limit of each part in seconds. On a new kind of card, the first start
# compiles for minutes.
_PARTS: dict[str, tuple[Callable[[Check], Rows], int]] = {
  "hardware": (hardware, 300),
  "values": (values, 120),
  **{x: (functools.partial(steps, recipe=x), 180) for x in _RECIPES},
  "pytorch": (pytorch, 90),
  "evaluation": (evaluation, 60),
  "profile": (profile, 60),
  "cards": (cards, 240),
  "resume": (resume, 120),
}


def run_part(command: list[str], seconds: float) -> dict[str, Any]:
  """Runs a process that prints rows as lines of JSON; returns its results."""
  problem, start = "", time.monotonic()
  environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "0", "NCCL_DEBUG": "INFO"}
  with (
    tempfile.TemporaryFile("w+", errors="replace") as out,
    tempfile.TemporaryFile("w+", errors="replace") as log,
  ):
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
        problem = f"exit code {code}"
    except subprocess.TimeoutExpired:
      problem = f"took more than {seconds:g} s"
    except KeyboardInterrupt:
      problem = _INTERRUPTED
    finally:  # also ends the part's child processes
      with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
      process.wait()
    out.seek(0)
    log.seek(0)
    return {
      "problem": problem,
      "seconds": time.monotonic() - start,
      "rows": [json.loads(line) for line in out if line.endswith("\n")],
      "log": log.read(),
    }


def to_markdown(parts: dict[str, dict[str, Any]]) -> str:
  """Formats the page."""
  sections = ["# GPU check", machine.in_words(machine.describe())]
  for name, part in parts.items():
    ended = part["problem"] or "ended"
    sections.append(f"## {name}: {ended}, {part['seconds']:.0f} s")
    rows, blocks = [], []
    for row, value in part["rows"]:
      if "\n" in str(value):
        blocks.append((row, value))
      else:
        items = value if isinstance(value, list) else [value]
        shown = [f"{x:.4g}" if isinstance(x, float) else str(x) for x in items]
        rows.append((row[:100], ", ".join(shown)))
    if rows:
      sections.append(table(("", "found"), rows))
    if part["problem"]:
      blocks.append(("The end of its log", part["log"][-_LOG_CHARS:]))
    sections += [f"{row}:\n\n```text\n{x.strip()}\n```" for row, x in blocks]
  return "\n\n".join(sections) + "\n"


def main(argv: list[str]) -> int:
  """Runs the parts, and writes the page; returns the exit code."""
  parser = argparse.ArgumentParser("gpu_check", description=__doc__)
  parser.add_argument("--only", default=",".join(_PARTS), help="names of parts")
  parser.add_argument("--device", choices=("gpu", "cpu"), default="gpu")
  parser.add_argument("--limit", type=float, help="seconds for each part")
  for name in ("part", "folder"):  # set for the process of a part
    parser.add_argument(f"--{name}", help=argparse.SUPPRESS)
  check = parser.parse_args(argv[1:], Check())
  if check.part:
    answers = take_stdout()
    if check.part != "hardware":  # chooses later, to report the machine first
      devices.choose_device(check.device)
    for row in _PARTS[check.part][0](check):
      print(json.dumps(row), file=answers, flush=True)
    return 0
  if unknown := {*check.only.split(",")} - _PARTS.keys():
    parser.error(f"no part is called {min(unknown)}: give {', '.join(_PARTS)}")
  # These signals end the process of a part, too, as Ctrl-C does.
  for number in (signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, lambda number, _: sys.exit(128 + number))
  json_path, page_path = map(pathlib.Path, ("gpu-check.json", "gpu-check.md"))
  parts: dict[str, dict[str, Any]] = {}
  if check.only != parser.get_default("only") and json_path.exists():
    parts = json.loads(json_path.read_text())["parts"]  # keeps the others
  with tempfile.TemporaryDirectory() as folder:
    Text(folder).write(f"{_ROOT}/docs/*.md")
    for name in check.only.split(","):
      limit = check.limit or _PARTS[name][1]
      print(f"{name}: at most {limit:g} s", file=sys.stderr)
      flags = [*argv[1:], f"--part={name}", f"--folder={folder}"]
      command = [sys.executable, "-m", "benchmarks.gpu_check", *flags]
      parts[name] = run_part(command, limit)
      results = {"machine": machine.describe(), "parts": parts}
      write_atomically(json_path, [json.dumps(results, indent=1).encode()])
      write_atomically(page_path, [to_markdown(parts).encode()])
      if parts[name]["problem"] == _INTERRUPTED:
        return 128 + signal.SIGINT
  print(f"wrote {page_path} and {json_path}", file=sys.stderr)
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv))
