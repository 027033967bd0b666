"""The bound: how fast it could be if the matrix products were all of it."""

import time

import tensorflow as tf

from benchmarks.task import SAMPLE_CHARS, Run, Sizes, Text


def build_products(sizes: Sizes, text: Text) -> Run:
  """Returns the `Run` of a step's products, all at the rate of the fastest."""
  return _at_best_rate(sizes, sizes.flop_per_step)


def build_sampling(sizes: Sizes, text: Text, num_streams: int) -> Run:
  """Returns the `Run` of the products of texts, all at that rate, too."""
  characters = SAMPLE_CHARS * num_streams
  return _at_best_rate(sizes, characters * sizes.flop_per_character)


def _at_best_rate(sizes: Sizes, flop_of_work: int) -> Run:
  """Returns the `Run` of a number of operations, at a product's best rate.

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
      # Each shape does an equal part of the work, small ones by repetition.
      repeats = max(1, times * flop_of_work // flop // len(shapes))
      start = time.perf_counter()
      for _ in range(repeats):
        product = tf.matmul(left, right)
      product[0, 0].numpy()  # a GPU computes while the calls return
      seconds = time.perf_counter() - start
      seconds_per_flop.append(seconds / repeats / flop)
    return times * flop_of_work * min(seconds_per_flop)

  return run
