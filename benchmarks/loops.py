"""A step's matrix products where charlm has them, with nothing between them.

No change to the rest of a step (look-up, gates, layout, casts, loss, optimizer)
can make it faster than this.
"""

import functools
from collections.abc import Callable

import tensorflow as tf

from benchmarks.task import Run, Sizes, Text, timed
from charlm.model.gru_gradient import chunk_length
from charlm.system.devices import choose_device, create_strategy


def build_step(sizes: Sizes, text: Text, precision: str) -> Run:
  """Returns the `Run` of the products of a step, of a model of one layer.

  Shapes, operations, loops, and devices are charlm's, at sizes for which
  `train.py` takes a replica for each core. The factors are random.
  """
  choose_device("auto")
  strategy = create_strategy(0, sizes.batch_size)
  rows = sizes.batch_size // strategy.num_replicas_in_sync
  products = _Products(sizes, rows, tf.as_dtype(precision))
  step = tf.function(lambda: strategy.run(products.compute))

  def run(times: int) -> None:
    for _ in range(times):
      result = step()
    strategy.experimental_local_results(result)[0].numpy()

  return timed(run)


class _Products:
  """The products of one replica, which has B windows.

  In the loops a factor changes with each time step or chunk: TensorFlow would
  move a product that stays the same out of its loop.
  """

  def __init__(self, sizes: Sizes, rows: int, dtype: tf.DType) -> None:
    b, t, h = rows, sizes.seq_length, sizes.rnn_units
    v, depth = sizes.vocab_size, sizes.embedding_dim
    self._units, self._num_steps, self._num_windows = h, t, b
    self._size = min(chunk_length(b, h), t)
    # Of the loops, in the precision that was asked for.
    shapes = [(3 * h, h), (h, 3 * h), (h, b), (self._size, 3 * h, b)]
    shapes += [(2, 4 * h, self._size * b), (h, self._size * b)]
    shapes += [(self._size * b, v)]
    self._of_loops = [tf.cast(_random(shape), dtype) for shape in shapes]
    # Of the dense layer, then of the table of input projections.
    shapes = [(b * t, h), (h, v), (b * t, v)]
    shapes += [(v, depth), (depth, 3 * h), (v, 3 * h)]
    self._of_layers = [_random(shape) for shape in shapes]

  def compute(self) -> tf.Tensor:
    """Computes all of them; returns a sum that needs each."""
    recurrent, transposed, state, d_steps, d_gates, states, one_hot = (
      self._of_loops
    )
    h = self._units

    def chunk(
      size: int,
      i: int | tf.Tensor,
      state: tf.Tensor,
      d_kernels: tf.Tensor,
      d_recurrents: tf.Tensor,
    ) -> tuple[object, ...]:
      (state,) = _loop(
        size, lambda j, _: (j + 1, transposed @ d_steps[j]), state
      )
      columns = size * self._num_windows
      gates = d_gates[i % 2][:, :columns]
      d_kernel = gates[: 3 * h] @ one_hot[:columns]
      before = states[:, :columns]
      d_recurrent = tf.matmul(before, gates[-3 * h :], transpose_b=True)
      d_kernels += tf.cast(d_kernel, d_kernels.dtype)
      d_recurrents += tf.cast(d_recurrent, d_recurrents.dtype)
      return i + 1, state, d_kernels, d_recurrents

    found = _loop(
      self._num_steps, lambda i, s: (i + 1, (recurrent @ s)[:h]), state
    )
    num_chunks, rest = divmod(self._num_steps, self._size)
    d_state, d_kernels, d_recurrents = _loop(
      num_chunks,
      functools.partial(chunk, self._size),
      state,
      tf.zeros([3 * h, one_hot.shape[1]]),
      tf.zeros([h, 3 * h]),
    )
    if rest:
      _, d_state, d_kernels, d_recurrents = chunk(
        size=rest,
        i=0,
        state=d_state,
        d_kernels=d_kernels,
        d_recurrents=d_recurrents,
      )
    found += [d_state, d_kernels, d_recurrents]
    outputs, dense, d_logits, embedding, kernel, d_table = self._of_layers
    for inputs, weights, gradient in (
      (outputs, dense, d_logits),
      (embedding, kernel, d_table),
    ):
      found.append(inputs @ weights)
      found.append(tf.matmul(gradient, weights, transpose_b=True))
      found.append(tf.matmul(inputs, gradient, transpose_a=True))
    return tf.add_n([tf.cast(x[0, 0], tf.float32) for x in found])


def _loop(
  times: int, step: Callable[..., object], *start: tf.Tensor
) -> list[tf.Tensor]:
  """Runs a step with its number and what the step before returned."""
  _, *end = tf.while_loop(
    lambda i, *_: i < times, step, (0, *start), parallel_iterations=1
  )
  return end


def _random(shape: tuple[int, ...]) -> tf.Tensor:
  """Returns numbers that are so small that no product of many overflows."""
  return tf.random.normal(shape, stddev=0.04)
