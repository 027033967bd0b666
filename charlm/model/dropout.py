"""Dropout, with the same masks for any number of replicas.

Shapes: B rows of a batch, T time steps.
"""

from collections.abc import Sequence
from typing import TypeAlias

import tensorflow as tf

# A mask for each output that dropout acts on: booleans `[B, T, size]`, where
# True keeps the value.
Masks: TypeAlias = Sequence[tf.Tensor]


def draw_masks(
  inputs: tf.Tensor, sizes: Sequence[int], rate: float, seed: tf.Tensor
) -> Masks:
  """Draws a mask for each of the sizes, for ids `[B, T]`.

  The seed, `[2]` integers, determines the masks. Each replica draws the masks
  of the global batch and takes its own rows, so that any number of replicas
  trains the same model. Call this outside of functions that XLA compiles: XLA
  may draw other numbers.
  """
  context = tf.distribute.get_replica_context()
  rows, length = tf.shape(inputs)[0], inputs.shape[1] or tf.shape(inputs)[1]
  first = context.replica_id_in_sync_group * rows
  total = rows * context.num_replicas_in_sync
  uniform = [
    uniform_numbers([total, length, size], seed, use)
    for use, size in enumerate(sizes)
  ]
  return [x[first : first + rows] >= rate for x in uniform]


def drop(x: tf.Tensor, mask: tf.Tensor, rate: float) -> tf.Tensor:
  """Zeroes what the mask does not keep, and scales up the rest."""
  return tf.where(mask, x / (1 - rate), 0.0)


def uniform_numbers(
  shape: Sequence[int | tf.Tensor], seed: tf.Tensor, use: int
) -> tf.Tensor:
  """Draws numbers in [0, 1), determined by a seed `[2]` and by their use."""
  # On the host, whose kernel reads the seed: a GPU would make the host wait.
  with tf.device("CPU:0"):
    seed = tf.random.experimental.stateless_fold_in(seed, use)
  # Named, since devices have different default algorithms.
  return tf.random.stateless_uniform(shape, seed, alg="philox")
