"""The bound: how fast a step could be if its matrix products were all of it."""

import time

import tensorflow as tf

from benchmarks.task import Run, Sizes, Text


def build_products(sizes: Sizes, text: Text) -> Run:
  """Returns what times a step's products at the best rate of any of them.

  The rate is the best, in float32 on all cores, among a step's larger products:
  the recurrent one, which the loop over time repeats, that of the recurrent
  kernel's gradient over all steps, and the dense layer's.
  """
  b, n, h = sizes.batch_size, sizes.characters_per_step, sizes.rnn_units
  shapes = [(3 * h, h, b), (h, n, 3 * h), (n, h, sizes.vocab_size)]
  factors = [
    (tf.random.normal([rows, inner]), tf.random.normal([inner, columns]))
    for rows, inner, columns in shapes
  ]

  def run(times: int) -> float:
    seconds_per_flop = []
    for (rows, inner, columns), (left, right) in zip(
      shapes, factors, strict=True
    ):
      flop = 2 * rows * inner * columns
      # As many of the small ones as take about as long as a step's products.
      repeats = max(1, times * sizes.flop_per_step // flop // len(shapes))
      start = time.perf_counter()
      for _ in range(repeats):
        tf.matmul(left, right)
      seconds = time.perf_counter() - start
      seconds_per_flop.append(seconds / repeats / flop)
    return times * sizes.flop_per_step * min(seconds_per_flop)

  return run
