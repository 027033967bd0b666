"""Texts and batches as TensorFlow tensors and datasets."""

import itertools
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from charlm.data.batches import Batches
from charlm.data.vocabulary import encode, id_of_code_point


def line_to_tensor(
  line: str | list[str] | tf.Tensor, vocab: list[str]
) -> tf.Tensor | tf.RaggedTensor:
  """Converts UTF-8 characters to int64 ids.

  Args:
    line: a string, or a list or tensor of strings.
    vocab: the vocabulary.

  Returns:
    `[N]` for a string, otherwise a ragged row per string. Unknown characters
    become id 0.
  """
  # The last entry stands for all code points above those of the vocabulary.
  table = tf.constant(id_of_code_point(vocab))
  code_points = tf.strings.unicode_decode(line, "UTF-8")
  return tf.gather(table, tf.minimum(code_points, len(table) - 1))


def text_from_ids(
  ids: tf.Tensor | tf.RaggedTensor, vocab: list[str]
) -> tf.Tensor:
  """Joins the characters of ids `[..., N]` into string tensors `[...]`.

  Drops padding; unknown characters become `[UNK]`.
  """
  ids = tf.cast(ids, tf.int64)
  return tf.strings.reduce_join(tf.gather(vocab, ids), axis=-1)


def create_batch_dataset(
  lines: list[str],
  vocab: list[str],
  seq_length: int = 100,
  batch_size: int = 64,
  seed: int = 0,
) -> tf.data.Dataset:
  """Returns the trainer's batches as a dataset for `model.fit`.

  Returns:
    One epoch of (inputs, targets), int64 `[batch_size, seq_length]` each; each
    iteration is shuffled like the next epoch.

  Raises InputError: the text does not fill one batch.
  """
  ids = encode("\n".join(lines), vocab).astype(np.int64)
  batches = Batches(
    ids=ids, seq_length=seq_length, batch_size=batch_size, seed=seed
  )
  # Shared by the generators: `fit` starts a new one for each epoch.
  first_steps = itertools.count(step=batches.steps_per_epoch)

  def epoch() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields the batches of the next epoch."""
    first = next(first_steps)
    for step in range(first, first + batches.steps_per_epoch):
      windows = batches.batch(step)
      yield windows[:, :-1], windows[:, 1:]

  spec = tf.TensorSpec([batch_size, seq_length], tf.int64)
  dataset = tf.data.Dataset.from_generator(epoch, output_signature=(spec, spec))
  # Without it, `fit` does not know the length of the first epoch.
  cardinality = tf.data.experimental.assert_cardinality(batches.steps_per_epoch)
  return dataset.apply(cardinality).prefetch(tf.data.AUTOTUNE)
