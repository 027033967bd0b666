"""Random numbers that depend on nothing but seed, sample and position.

Threefry (Salmon et al. 2011). TensorFlow's own stateless generators give other
numbers under XLA, and one row's would depend on how many rows there are.
"""

import tensorflow as tf


def sample_keys(seed: tf.Tensor, samples: tf.Tensor) -> tf.Tensor:
  """Returns two words for each sample's random numbers, uint32 `[2, B]`.

  Args:
    seed: two words, uint32 `[2]`.
    samples: the number of each row's sample, `[B]`.
  """
  samples = tf.cast(samples, tf.uint32)
  return tf.stack(_threefry(seed[0], seed[1], samples, tf.zeros_like(samples)))


def uniform_numbers(
  keys: tf.Tensor, position: tf.Tensor, size: int
) -> tf.Tensor:
  """Returns numbers in [0, 1) `[B, size]`, a function of all arguments.

  Args:
    keys: `sample_keys`.
    position: of the characters in their samples, a scalar or `[B]`.
    size: how many numbers a character takes.
  """
  lanes = tf.cast(tf.range(size), tf.uint32)[tf.newaxis]
  position = tf.cast(tf.reshape(position, [-1, 1]), tf.uint32)
  key0, key1 = tf.unstack(keys[:, :, tf.newaxis])
  bits, _ = _threefry(key0, key1, position + tf.zeros_like(lanes), lanes)
  # 24 bits: as many as a float32 holds.
  bits = tf.cast(
    tf.bitwise.right_shift(bits, tf.constant(8, tf.uint32)), tf.int32
  )
  return tf.cast(bits, tf.float32) * 2.0**-24


def _threefry(
  key0: tf.Tensor, key1: tf.Tensor, x0: tf.Tensor, x1: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
  """Returns two words of Threefry-2x32 with 20 rounds, all uint32."""
  parity = tf.constant(0x1BD11BDA, tf.uint32)
  key2 = tf.bitwise.bitwise_xor(tf.bitwise.bitwise_xor(key0, key1), parity)
  keys = (key0, key1, key2)
  x0, x1 = x0 + key0, x1 + key1
  for i in range(5):
    for rotation in ((13, 15, 26, 6), (17, 29, 16, 24))[i % 2]:
      x0 = x0 + x1
      left = tf.bitwise.left_shift(x1, tf.constant(rotation, tf.uint32))
      right = tf.bitwise.right_shift(x1, tf.constant(32 - rotation, tf.uint32))
      x1 = tf.bitwise.bitwise_xor(x0, tf.bitwise.bitwise_or(left, right))
    x0 = x0 + keys[(i + 1) % 3]
    x1 = x1 + keys[(i + 2) % 3] + tf.constant(i + 1, tf.uint32)
  return x0, x1
