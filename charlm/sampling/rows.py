"""How many texts to draw side by side, so that each is as if drawn alone.

Matrix products round differently, which can flip a near-tie, for one row, for
more than 32 and, at sizes such as 448 units, for some numbers of rows between.
Which numbers depends on the sizes, the processor, and the number of its cores.
"""

import numpy as np
import tensorflow as tf

from charlm.model.gru import multiply_rows
from charlm.model.language_model import GRULM
from charlm.system.signals import interrupts_held_back

MIN_ROWS, MAX_ROWS = 2, 32


class Rows:
  """Chooses numbers of rows, of which it has tested the products."""

  def __init__(self, model: GRULM, at_most: int) -> None:
    """Takes the most rows, for memory; `MIN_ROWS` and `MAX_ROWS` hold, too."""
    self._model = model
    self.at_most = min(MAX_ROWS, max(MIN_ROWS, at_most))
    self._agreeing = {1: True, MIN_ROWS: True}  # a single text has MIN_ROWS

  def side_by_side(self, num_samples: int) -> int:
    """Returns how many of some samples to draw side by side."""
    size = min(num_samples, self.at_most)
    while not (self._agree(size) and self._agree(num_samples % size or size)):
      size //= 2
    return size

  def _agree(self, num_rows: int) -> bool:
    """Tells whether so many rows have the bits that they have in pairs.

    It is tested with random states, since it hardly depends on the numbers.
    """
    if num_rows not in self._agreeing:
      shape = num_rows + num_rows % MIN_ROWS, self._model.rnn_units
      states = np.random.default_rng(0).uniform(-1, 1, shape)
      states = tf.constant(states, tf.float32)
      pairs = tf.split(states, shape[0] // MIN_ROWS)
      # By concrete functions: of many traces of one function TensorFlow warns.
      compiled = tf.function(self._products, jit_compile=True, autograph=False)
      trace = compiled.get_concrete_function
      with interrupts_held_back():
        together = trace(states[:num_rows])(states[:num_rows])
        apart = zip(*map(trace(pairs[0]), pairs), strict=True)
      self._agreeing[num_rows] = all(
        np.array_equal(np.concatenate(parts)[:num_rows], whole)
        for parts, whole in zip(apart, together, strict=True)
      )
    return self._agreeing[num_rows]

  def _products(self, states: tf.Tensor) -> list[tf.Tensor]:
    """Returns the products of states `[B, H]` that a character takes."""
    cells = [gru.cell for gru in self._model.grus]
    kernels = [cell.recurrent_kernel for cell in cells]
    kernels += [cell.kernel for cell in cells[1:]] + [self._model.dense.kernel]
    return [multiply_rows(states, kernel) for kernel in kernels]
