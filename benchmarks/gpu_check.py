"""Checks charlm on a machine's GPU: one line for each check.

    .venv/bin/python -m benchmarks.gpu_check

Prints the devices that are seen, how much loss and gradients differ from a
CPU's, and the time of a step beside Keras' `fit` and PyTorch. If a check fails,
its line says so, and the others follow. Nothing is judged.
"""

import argparse
import functools
import importlib.util
import os
import pathlib
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator

import numpy as np

from charlm.system.process import fail, import_quietly

import_quietly("tensorflow", "keras")
import tensorflow as tf

from benchmarks import bench, machine
from benchmarks.task import Sizes, Text
from charlm.config import Config
from charlm.data.batches import Batches
from charlm.errors import InputError
from charlm.model.language_model import LanguageModel, model_of
from charlm.system.devices import choose_device, kind_of_device

_CORPUS = str(pathlib.Path(__file__).resolve().parents[1] / "docs" / "*.md")
_QUERY = "name,driver_version,compute_cap,memory.total"
# Of the recipes `reference`, `fast` and `tinyshakespeare`.
_SIZES = (
  Sizes(),
  Sizes(embedding_dim=128, rnn_units=432, precision="bfloat16"),
  Sizes(
    batch_size=32, embedding_dim=64, rnn_units=270, num_layers=2, layer="lstm"
  ),
)
_TINY = (Sizes(batch_size=4, seq_length=8, rnn_units=8),)

Lines = Iterator[str]


def devices_seen() -> Lines:
  """Names the machine, the driver's cards, and TensorFlow's."""
  yield machine.in_words()
  done = subprocess.run(  # through a shell, which reports a missing program
    f"nvidia-smi --query-gpu={_QUERY} --format=csv,noheader",
    shell=True,
    capture_output=True,
    text=True,
    timeout=60,
  )
  for line in (done.stdout + done.stderr).splitlines():
    yield f"nvidia-smi: {line}"
  for device in tf.config.list_physical_devices(kind_of_device()):
    details = tf.config.experimental.get_device_details(device)
    yield f"TensorFlow: {device.name}, {details}"


def equal_to_a_cpu(text: Text, layer: str) -> Lines:
  """Compares loss and gradients of each implementation with the CPU's."""
  config = Config(layer=layer, rnn_units=256, batch_size=8)
  batches = Batches(text.train_ids, config.seq_length, config.batch_size)
  windows = tf.constant(batches.batch(0), tf.int64)
  here = f"{kind_of_device()}:0"
  weights: list[np.ndarray] = []
  expected: list[np.ndarray] = []
  for name, gru, device, xla in (
    ("CPU", "fused", "CPU:0", False),
    ("--gru=keras", "keras", here, False),
    ("--gru=fused", "fused", here, False),
    ("--gru=fused, XLA", "fused", here, True),
  ):
    with tf.device(device):
      model = model_of(config, len(text.vocab), gru=gru, training=True)
      weights = weights or model.get_weights()
      model.set_weights(weights)
      compute = tf.function(
        functools.partial(_gradients, model), jit_compile=xla, autograph=False
      )
      actual = [x.numpy() for x in compute(windows)]
    expected = expected or actual
    pairs = zip(actual, expected, strict=True)
    # Python's `max` would overlook a NaN.
    worst = np.max([np.abs(x - y).max() / np.abs(y).max() for x, y in pairs])
    yield (
      f"{layer}, {name}: loss {float(actual[0]):.6f}, largest relative "
      f"difference of loss and gradients {float(worst):.1e}"
    )


def _gradients(model: LanguageModel, windows: tf.Tensor) -> list[tf.Tensor]:
  """Returns the loss of windows `[B, T + 1]`, then its gradients."""
  with tf.GradientTape() as tape:
    nats, _ = model.nats(windows[:, :-1], windows[:, 1:], training=True)
    loss = tf.reduce_mean(nats)
  gradients = tape.gradient(loss, [v.value for v in model.trainable_variables])
  return [loss, *map(tf.convert_to_tensor, gradients)]


def times_of_a_step(sizes: Sizes) -> Lines:
  """Times a step beside Keras' `fit` and PyTorch, each in its own process."""
  names = [bench.CHARLM, bench.FIT]
  if importlib.util.find_spec("torch"):
    names.append("PyTorch")
  workers = bench.measure(
    {name: (bench.STEP[name], sizes) for name in names},
    _CORPUS,
    num_rounds=3,
    seconds_per_turn=0.5,
  )
  times = (
    f"{name} failed"
    if worker.failed
    else f"{name} {1000 * statistics.median(worker.seconds):.2f}"
    for name, worker in workers.items()
  )
  size = f"{sizes.num_layers} x {sizes.rnn_units}, {sizes.batch_size} windows"
  yield f"ms a step, {sizes.layer}, {size}: {', '.join(times)}"


def main(argv: list[str]) -> int:
  """Runs the checks; returns the exit code."""
  parser = argparse.ArgumentParser("gpu_check", description=__doc__)
  parser.add_argument(
    "--tiny", action="store_true", help="tiny sizes, and also without a GPU"
  )
  tiny = parser.parse_args(argv[1:]).tiny
  os.environ["TF_FORCE_GPU_ALLOW_GROWTH"] = "true"  # others use the GPU, too
  try:
    choose_device("auto" if tiny else "gpu")
  except InputError as error:
    return fail("gpu_check", error)
  text = Text.load(_CORPUS)
  checks: list[Callable[[], Lines]] = [devices_seen]
  for layer in ("gru", "lstm"):
    checks.append(functools.partial(equal_to_a_cpu, text, layer))
  for sizes in _TINY if tiny else _SIZES:
    checks.append(functools.partial(times_of_a_step, sizes))
  for check in checks:
    try:
      for line in check():
        print(line, flush=True)
    except Exception as error:  # the other checks still run
      print(f"failed: {str(error)[-200:]}", flush=True)
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv))
