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


def build_step(sizes: Sizes, text: Text, precision: str) -> Run:
  """Training steps as `train.py` takes them, on its devices."""
  choose_device("auto")
  config = _config(sizes, precision)
  batches = Batches(text.train_ids, config.seq_length, config.batch_size)
  num_replicas = number_of_replicas(config, asked=0, gru="auto")
  strategy = create_strategy(num_replicas, or_fewer=True)
  trainer = build_trainer(
    config=config,
    vocab_size=sizes.vocab_size,
    batches=batches,
    strategy=strategy,
  )
  return timed(lambda n: trainer.train(trainer.step + n))


def build_input(sizes: Sizes, text: Text) -> Run:
  """Batches, gathered as for the training step."""
  batches = Batches(text.train_ids, sizes.seq_length, sizes.batch_size)

  def gather(num_batches: int) -> None:
    for step in range(num_batches):
      batches.batch(step)

  return timed(gather)


def build_sampling(
  sizes: Sizes, text: Text, num_streams: int, device: str = "auto"
) -> Run:
  """Samples of `SAMPLE_CHARS` characters in each of `num_streams` streams."""
  choose_device(device)
  generator = GenerativeModel(_model(sizes), text.vocab)

  def sample(num_texts: int) -> None:
    for seed in range(num_texts):
      generator.sample(
        Request(num_chars=SAMPLE_CHARS, num_samples=num_streams, seed=seed)
      )

  return timed(sample)


def build_evaluation(sizes: Sizes, text: Text) -> Run:
  """Chunks of `CHUNK_CHARS` of the eval text, scored in one pass."""
  choose_device("auto")
  evaluator = Evaluator(_model(sizes))
  ids = text.eval_ids
  return timed(lambda n: evaluator.stream(np.resize(ids, n * CHUNK_CHARS + 1)))


def _config(sizes: Sizes, precision: str = "float32") -> Config:
  return Config(
    seq_length=sizes.seq_length,
    batch_size=sizes.batch_size,
    embedding_dim=sizes.embedding_dim,
    rnn_units=sizes.rnn_units,
    num_layers=sizes.num_layers,
    layer=sizes.layer,
    learning_rate=LEARNING_RATE,
    precision=precision,
  )


def _model(sizes: Sizes) -> LanguageModel:
  keras.utils.set_random_seed(0)
  return model_of(_config(sizes), sizes.vocab_size)
