"""Dropout, which any number of replicas applies alike.

Shapes: B rows of a batch, T time steps.
"""

from collections.abc import Sequence
from typing import TypeAlias

import tensorflow as tf

# What is kept of each output that dropout acts on: booleans `[B, T, size]`.
Masks: TypeAlias = Sequence[tf.Tensor]


def draw_masks(
  inputs: tf.Tensor, sizes: Sequence[int], rate: float, seed: tf.Tensor
) -> Masks:
  """Draws what dropout keeps of outputs of some sizes, for ids `[B, T]`.

  The seed, `[2]` integers, determines the masks. Under a strategy they are
  drawn for the global batch, and each replica takes those of its own rows, so
  that any number of replicas trains the same model. Draw them outside of what
  XLA compiles: it may draw other numbers.
  """
  context = tf.distribute.get_replica_context()
  rows, length = tf.shape(inputs)[0], inputs.shape[1] or tf.shape(inputs)[1]
  first = context.replica_id_in_sync_group * rows
  total = rows * context.num_replicas_in_sync
  numbers = [
    uniform_numbers([total, length, size], seed, place)
    for place, size in enumerate(sizes)
  ]
  return [x[first : first + rows] >= rate for x in numbers]


def drop(x: tf.Tensor, mask: tf.Tensor, rate: float) -> tf.Tensor:
  """Applies dropout to outputs."""
  return tf.where(mask, x / (1 - rate), 0.0)


def uniform_numbers(
  shape: Sequence[int | tf.Tensor], seed: tf.Tensor, use: int
) -> tf.Tensor:
  """Draws numbers in [0, 1) that a seed `[2]` and their use determine."""
  # On the host, where its kernel reads the seed: a GPU would have to wait.
  with tf.device("CPU:0"):
    seed = tf.random.experimental.stateless_fold_in(seed, use)
  # By name, since devices have different defaults.
  return tf.random.stateless_uniform(shape, seed, alg="philox")
