"""Counts what a training step does on null cards: count.py CARDS FLAGS.

FLAGS are those of train.py. Prints the host's time per step, the lowest of ten
calls, and the number of operations per step.
"""

import ctypes
import sys
import time

import numpy as np
import tensorflow as tf

from charlm.data.batches import build_batches
from charlm.model.layers import import_layer
from charlm.system.devices import choose_device, create_strategy
from charlm.system.flags import parse
from charlm.training.options import TrainOptions
from charlm.training.trainer import build_trainer

_KINDS = (
  *("launches", "copies", "copies to the host", "waits", "products"),
  *("calls of cuDNN", "sums", "graphs"),
)
_STEPS, _CALLS, _VOCAB_SIZE = 50, 10, 68


def main(number: int, flags: list[str]) -> None:
  """Prints the time and operations of a step on `number` cards."""
  specs = [flag for flag in flags if ".py:" in flag]
  layer = import_layer("".join(specs).removeprefix("--layer="))
  flags = [flag for flag in flags if flag not in specs]
  flags += [f"--layer={layer.__name__}"] if layer else []
  options = TrainOptions(**parse(flags, TrainOptions))
  choose_device("gpu")
  strategy = create_strategy(number)
  config = options.config
  rng = np.random.default_rng(0)
  batches = build_batches(rng.integers(2, _VOCAB_SIZE, 10**6, np.uint8), config)
  trainer = build_trainer(
    config, _VOCAB_SIZE, batches, strategy, gru=options.gru, layer=layer
  )
  windows = np.stack([batches.batch(i) for i in range(_STEPS)])
  states = trainer.train_state.states.read_value()
  counts = (ctypes.c_long * len(_KINDS)).in_dll(
    ctypes.CDLL("libcuda.so.1"), "null_counts"
  )
  seconds, before = [], np.zeros(len(_KINDS))
  for _ in range(1 + _CALLS):
    before = np.array(counts)
    start = time.perf_counter()
    trainer._compiled(windows, states, tf.constant(0))[0].numpy()
    seconds.append(time.perf_counter() - start)
  done = (np.array(counts) - before) / _STEPS
  print(f"{1000 * min(seconds[1:]) / _STEPS:.2f} ms", end="")
  for kind, count in zip(_KINDS, done, strict=True):
    print(f", {count:.4g} {kind}", end="")
  print()


if __name__ == "__main__":
  main(int(sys.argv[1]), sys.argv[2:])
