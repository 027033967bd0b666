"""How many rows to compute together, so that each text is as if drawn alone.

Matrix products round differently for more than 32 rows and, at sizes such as
448 units, for some smaller numbers of rows; that can flip a near-tie. These
numbers depend on the sizes, the processor, and the number of its cores. A
single row is multiplied in blocks or as a pair; only on some processors do
blocks give the bits that it has among more rows.
"""

import numpy as np
import tensorflow as tf

from charlm.model.gru import block_length, multiply_rows
from charlm.model.language_model import GRULM

_PAIR, _MAX_ROWS = 2, 32


class Rows:
  """Chooses numbers of rows, of which it has tested the products."""

  def __init__(self, model: GRULM, at_most: int) -> None:
    """Takes the most rows that memory allows, which is raised to 2 at least."""
    self._units = model.rnn_units
    self.at_most = min(_MAX_ROWS, max(_PAIR, at_most))
    # Those that multiply a state `[B, H]`.
    cells = [gru.cell for gru in model.grus]
    self._kernels = [cell.recurrent_kernel for cell in cells]
    self._kernels += [cell.kernel for cell in cells[1:]] + [model.dense.kernel]
    # For the others, a single row is multiplied as a pair of equal rows.
    self._in_blocks = [k for k in self._kernels if block_length(*k.shape)]
    self._agreeing = {_PAIR: True} | ({} if self._in_blocks else {1: True})

  def side_by_side(self, num_samples: int) -> int:
    """Returns how many of some samples to draw side by side."""
    size = min(num_samples, self.at_most)
    # A single one can always be drawn: `computed` says how.
    while not all(map(self.agree, {size, num_samples % size or size} - {1})):
      size //= 2
    return size

  def computed(self, num_samples: int) -> int:
    """Returns how many rows to compute for samples that are side by side.

    For a single one there are two, the second for nothing, if `agree` has shown
    that one row does not agree; until then, there is one.
    """
    return num_samples if self._agreeing.get(num_samples, True) else _PAIR

  def agree(self, num_rows: int) -> bool:
    """Tells whether so many rows round as pairs do, in all of their products.

    The test takes random states, since it hardly depends on their values.
    """
    if num_rows not in self._agreeing:
      shape = num_rows + num_rows % _PAIR, self._units
      states = tf.random.stateless_uniform(shape, [0, 0], -1, 1)
      pairs = tf.split(states, shape[0] // _PAIR)
      kernels = self._kernels if num_rows > 1 else self._in_blocks

      def products(rows: tf.Tensor) -> list[tf.Tensor]:
        """Returns the products of rows `[B, H]` with each kernel."""
        return [multiply_rows(rows, kernel) for kernel in kernels]

      # Concrete functions: TensorFlow warns of many traces of one function.
      compiled = tf.function(products, jit_compile=True, autograph=False)
      trace = compiled.get_concrete_function
      together = trace(states[:num_rows])(states[:num_rows])
      apart = zip(*map(trace(pairs[0]), pairs), strict=True)
      self._agreeing[num_rows] = all(
        np.array_equal(np.concatenate(parts)[:num_rows], whole)
        for parts, whole in zip(apart, together, strict=True)
      )
    return self._agreeing[num_rows]
