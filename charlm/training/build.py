"""Builds a trainer of a model."""

import keras
import tensorflow as tf

from charlm.config import Config
from charlm.data.batches import Batches, build_batches
from charlm.data.corpus import Split
from charlm.errors import InputError
from charlm.model.language_model import GRULM, model_of, num_weights
from charlm.system.cluster import Cluster
from charlm.system.machine import memory_bytes
from charlm.training.optimizer import build_optimizer
from charlm.training.options import TrainOptions
from charlm.training.trainer import Trainer


def build_worker_trainer(
  options: TrainOptions,
  split: Split,
  vocab: list[str],
  cluster: Cluster,
  initial: GRULM | None = None,
) -> Trainer:
  """Returns the trainer of a worker, which reads only its own rows.

  Raises InputError: as `build_trainer` and `build_batches`.
  """
  config = options.config
  size = config.batch_size // cluster.num_workers
  rows = range(cluster.index * size, (cluster.index + 1) * size)
  ids, table = split.train.ids, split.train.table(vocab)
  batches = build_batches(ids, config, rows, table)
  how = cluster.strategy, options.gru, initial
  return build_trainer(config, len(vocab), batches, *how)


def build_trainer(
  config: Config,
  vocab_size: int,
  batches: Batches,
  strategy: tf.distribute.Strategy,
  gru: str = "auto",
  initial: GRULM | None = None,
) -> Trainer:
  """Returns a trainer of a model.

  If there is an `initial` model, of the same sizes but perhaps with a shorter
  vocabulary, the new model takes its weights; the seed determines the others.

  Raises InputError: a model that the machine's memory cannot hold, a warm-up
    that takes the whole run, or a `gru` that lacks what the config asks for.
  """
  # The weights, their gradient, and Adam's two moments.
  needed = 4 * 4 * num_weights(config, vocab_size)
  if needed > memory_bytes():
    raise InputError(
      f"the model and its optimizer need {needed / 2**30:,.0f} GiB, more than "
      "the machine's memory: lower --rnn_units, --embedding_dim or --num_layers"
    )
  # Before the model is made: the seed determines its initial weights.
  keras.utils.set_random_seed(config.seed)
  with strategy.scope():
    model = model_of(config, vocab_size, gru, training=True)
    if initial:
      weights = model.get_weights()
      for old, new in zip(initial.get_weights(), weights, strict=True):
        # The rows or columns of new characters stay as they are.
        new[tuple(slice(size) for size in old.shape)] = old
      model.set_weights(weights)
    num_steps = config.num_steps(batches.steps_per_epoch)
    optimizer = build_optimizer(config, num_steps)
  return Trainer(model, optimizer, batches, strategy, config)
