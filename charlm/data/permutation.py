"""A keyed permutation that needs no memory: each place is computed alone."""

import math

import numpy as np


def permute(places: np.ndarray, size: int, key: np.ndarray) -> np.ndarray:
  """Returns where a permutation of `range(size)` sends some places.

  A Feistel network (Luby and Rackoff 1988) permutes a grid of rows and columns
  with hardly more than `size` cells; a place that lands at `size` or above is
  permuted again (cycle walking, Black and Rogaway 2002).

  Args:
    places: `[N]` numbers below `size`.
    size: how many places there are.
    key: an even number of words, uint64; eight are enough.
  """
  columns = np.uint64(math.isqrt(size - 1) + 1)
  rows = np.uint64(-(-size // int(columns)))
  places = np.array(places, np.uint64)
  outside = np.ones(len(places), bool)
  # Seldom repeated: the grid has less than one row of cells too many.
  while outside.any():
    row, column = np.divmod(places[outside], columns)
    # Sums modulo rows and columns, not XOR, which needs powers of two.
    for row_key, column_key in key.reshape(-1, 2):
      row = (row + _mix(column ^ row_key) % rows) % rows
      column = (column + _mix(row ^ column_key) % columns) % columns
    places[outside] = row * columns + column
    outside = places >= size
  return places.astype(np.int64)


def _mix(x: np.ndarray) -> np.ndarray:
  """Spreads each bit over all 64 (the finalizer of SplitMix64)."""
  x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
  x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
  return x ^ (x >> np.uint64(31))
