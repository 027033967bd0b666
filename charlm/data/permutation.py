"""A keyed permutation that needs no memory: each place is computed alone."""

import numpy as np

_ROUNDS = 8


def permute(places: np.ndarray, size: int, key: np.ndarray) -> np.ndarray:
  """Returns where a permutation of `range(size)` sends some places.

  A Feistel network (Luby and Rackoff 1988) permutes the numbers of an even
  number of bits, and what it sends beyond `size` is sent on until it is below
  (cycle walking, Black and Rogaway 2002): on average less than four times.

  Args:
    places: `[N]` numbers below `size`.
    size: how many places there are, at most 2**62.
    key: eight words, uint64.
  """
  half = max(1, -(-(size - 1).bit_length() // 2))
  places = np.array(places, np.uint64)
  outside = np.ones(len(places), bool)
  while outside.any():
    places[outside] = _network(places[outside], np.uint64(half), key)
    outside = places >= size
  return places.astype(np.int64)


def _network(x: np.ndarray, half: np.uint64, key: np.ndarray) -> np.ndarray:
  """Permutes numbers of `2 * half` bits."""
  mask = (np.uint64(1) << half) - np.uint64(1)
  left, right = x >> half, x & mask
  for word in key[:_ROUNDS]:
    left, right = right, left ^ (_mix(right ^ word) & mask)
  return (left << half) | right


def _mix(x: np.ndarray) -> np.ndarray:
  """Spreads each bit over all 64 (the finalizer of SplitMix64)."""
  x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
  x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
  return x ^ (x >> np.uint64(31))
