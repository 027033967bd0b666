"""charlm's contestants."""

import keras
import numpy as np

from benchmarks.task import (
  CHUNK_CHARS,
  LEARNING_RATE,
  SAMPLE_CHARS,
  Run,
  Sizes,
  Text,
  timed,
)
from charlm.config import Config
from charlm.data.batches import Batches
from charlm.evaluation.evaluator import Evaluator
from charlm.model.language_model import LanguageModel, model_of
from charlm.sampling.generator import GenerativeModel
from charlm.sampling.request import Request
from charlm.system.devices import choose_device, create_strategy
from charlm.training.replicas import number_of_replicas
from charlm.training.trainer import build_trainer


def build_step(sizes: Sizes, text: Text) -> Run:
  """Training steps as `train.py` takes them, on its devices."""
  choose_device("auto")
  config = _config(sizes)
  batches = Batches(text.train_ids, config.seq_length, config.batch_size)
  num_replicas = number_of_replicas(config, asked=0, gru="auto")
  trainer = build_trainer(
    config=config,
    vocab_size=len(text.vocab),
    batches=batches,
    strategy=create_strategy(num_replicas, or_fewer=True),
  )
  return timed(lambda n: trainer.train(trainer.step + n))


def build_sampling(sizes: Sizes, text: Text) -> Run:
  """Samples of `SAMPLE_CHARS` characters in each of `batch_size` texts."""
  choose_device("auto")
  generator = GenerativeModel(_model(sizes, text), text.vocab)

  def sample(num_samples: int) -> None:
    for seed in range(num_samples):
      generator.sample(
        Request(num_chars=SAMPLE_CHARS, num_samples=sizes.batch_size, seed=seed)
      )

  return timed(sample)


def build_evaluation(sizes: Sizes, text: Text) -> Run:
  """Chunks of `CHUNK_CHARS` of the eval text, scored in one pass."""
  choose_device("auto")
  evaluator = Evaluator(_model(sizes, text))
  ids = text.eval_ids
  return timed(lambda n: evaluator.stream(np.resize(ids, n * CHUNK_CHARS + 1)))


def _config(sizes: Sizes) -> Config:
  return Config(
    seq_length=sizes.seq_length,
    batch_size=sizes.batch_size,
    embedding_dim=sizes.embedding_dim,
    rnn_units=sizes.rnn_units,
    num_layers=sizes.num_layers,
    layer=sizes.layer,
    learning_rate=LEARNING_RATE,
    precision=sizes.precision,
  )


def _model(sizes: Sizes, text: Text) -> LanguageModel:
  keras.utils.set_random_seed(0)
  return model_of(_config(sizes), len(text.vocab))
