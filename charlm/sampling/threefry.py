"""Random numbers that depend on nothing but seed, sample and position.

Threefry (Salmon et al. 2011). TensorFlow's own stateless generators give other
numbers under XLA, and one row's would depend on how many rows there are.

Shapes: B rows, each with a sample of its own, S positions in the samples.
"""

from typing import TypeAlias

import numpy as np
import tensorflow as tf

# uint32 in TensorFlow or NumPy. Only operators that both have are used, so that
# NumPy can make the keys: a loop of small operations is slow in TensorFlow
# outside a graph. Shifts are written as products and quotients.
_Words: TypeAlias = "tf.Tensor | np.ndarray"
Pair: TypeAlias = tuple[_Words, _Words]


def sample_keys(seed: _Words, samples: _Words) -> Pair:
  """Returns two words `[B]` for each sample's random numbers.

  Args:
    seed: two words, `[2]`.
    samples: the number of each row's sample, `[B]`.
  """
  return _threefry(seed[0], seed[1], samples, 0 * samples)


def uniform_numbers(keys: Pair, positions: tf.Tensor, size: int) -> tf.Tensor:
  """Returns numbers in [0, 1) `[S, B, size]`, a function of all arguments.

  Under XLA, call this in a compiled function of its own that has no reduction.
  Where the same function seeks a maximum, its compilation may never end: if the
  loop that seeks it runs a multiple of 8 times, LLVM takes Threefry's XORs for
  a checksum, and follows both operands of each, through all XORs before it.

  Args:
    keys: `sample_keys`, `[B]` each.
    positions: of the characters in their samples, `[S, B]` or `[S, 1]`.
    size: how many numbers a character takes.
  """
  lanes = tf.cast(tf.range(size), tf.uint32)
  positions = tf.cast(positions, tf.uint32)[:, :, tf.newaxis]
  key0, key1 = (key[:, tf.newaxis] for key in keys)
  bits, _ = _threefry(key0, key1, positions + tf.zeros_like(lanes), lanes)
  # 24 bits: as many as a float32 holds.
  return tf.cast(tf.cast(bits // 2**8, tf.int32), tf.float32) * 2.0**-24


def _threefry(key0: _Words, key1: _Words, x0: _Words, x1: _Words) -> Pair:
  """Returns two words of Threefry-2x32 with 20 rounds."""
  keys = (key0, key1, key0 ^ key1 ^ 0x1BD11BDA)
  x0, x1 = x0 + key0, x1 + key1
  for i in range(5):
    for rotation in ((13, 15, 26, 6), (17, 29, 16, 24))[i % 2]:
      x0 = x0 + x1
      x1 = x0 ^ (x1 * 2**rotation | x1 // 2 ** (32 - rotation))
    x0, x1 = x0 + keys[(i + 1) % 3], x1 + keys[(i + 2) % 3] + (i + 1)
  return x0, x1
