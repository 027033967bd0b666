"""Sizes, texts and timing, shared by the contestants."""

import dataclasses
import time
from collections.abc import Callable

import numpy as np

from charlm.config import Config
from charlm.data.corpus import load_corpus
from charlm.data.split import split_text
from charlm.data.vocabulary import SPECIAL, encode, extend_vocab

LEARNING_RATE = 0.00125
SAMPLE_CHARS = 1000  # characters per sample, in each text
CHUNK_CHARS = 4096  # characters scored per unit of work

# Does this many units of work; returns the seconds.
Run = Callable[[int], float]


@dataclasses.dataclass(frozen=True)
class Sizes:
  """Sizes of a model and of its batches."""

  batch_size: int = 64  # windows of a step, or texts that are sampled at once
  seq_length: int = 100
  embedding_dim: int = 256
  rnn_units: int = 512
  num_layers: int = 1
  layer: str = "gru"  # or lstm
  precision: str = "float32"  # or bfloat16


@dataclasses.dataclass(frozen=True)
class Text:
  """A corpus, split as `train.py` does by default."""

  train: str
  eval: str
  vocab: list[str]  # `[UNK]` and padding first

  @classmethod
  def load(cls, corpus: str) -> "Text":
    """Loads a corpus, named as for `--corpus`."""
    loaded = load_corpus(Config(), corpus)
    split = split_text(loaded.text, Config())
    vocab = extend_vocab(SPECIAL, loaded.text.characters)
    return cls(str(split.train), str(split.eval), vocab)

  @property
  def train_ids(self) -> np.ndarray:
    """The text to train on as ids `[N]`."""
    return encode(self.train, self.vocab)

  @property
  def eval_ids(self) -> np.ndarray:
    """The eval text as ids `[N]`."""
    return encode(self.eval, self.vocab)


def timed(work: Callable[[int], object]) -> Run:
  """Returns a `Run` that measures the wall time of `work`."""

  def run(times: int) -> float:
    start = time.perf_counter()
    work(times)
    return time.perf_counter() - start

  return run


def markdown(rows: list[list[str]]) -> str:
  """Returns a Markdown table of a header and rows, the first column wide."""
  header, *others = rows
  lines = [header, ["---", *["---:"] * (len(header) - 1)], *others]
  return "\n".join(f"| {' | '.join(line)} |" for line in lines)
