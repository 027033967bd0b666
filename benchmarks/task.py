"""Sizes, texts, tasks and timing, shared by the driver and its workers."""

import dataclasses
import json
import pathlib
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from charlm.config import Config
from charlm.data.corpus import load_corpus
from charlm.data.split import split_text
from charlm.data.vocabulary import SPECIAL, encode, extend_vocab

LEARNING_RATE = 0.00125
SAMPLE_CHARS = 1000  # characters per sample, in each stream
CHUNK_CHARS = 4096  # characters scored per unit of work

# Does this many units of work; returns the seconds.
Run = Callable[[int], float]


@dataclasses.dataclass(frozen=True)
class Sizes:
  """Sizes of a model and of its batches."""

  vocab_size: int
  batch_size: int = 64
  seq_length: int = 100
  embedding_dim: int = 256
  rnn_units: int = 512
  num_layers: int = 1
  layer: str = "gru"  # or lstm

  @property
  def characters_per_step(self) -> int:
    """B * T."""
    return self.batch_size * self.seq_length


class Text:
  """The corpus, as files in a folder that the workers read."""

  def __init__(self, folder: str) -> None:
    self.folder = folder

  def write(self, corpus: str) -> None:
    """Writes the parts of a corpus, named as for `--corpus`."""
    loaded = load_corpus(Config(), corpus)
    split = split_text(loaded.text, Config())
    self._write("train.txt", str(split.train))
    self._write("eval.txt", str(split.eval))
    vocab = extend_vocab(SPECIAL, loaded.text.characters)
    self._write("vocabulary.json", json.dumps(vocab))

  @property
  def train(self) -> str:
    """The text to train on."""
    return self._read("train.txt")

  @property
  def vocab(self) -> list[str]:
    """The vocabulary, `[UNK]` and padding first."""
    return json.loads(self._read("vocabulary.json"))

  @property
  def train_ids(self) -> np.ndarray:
    """The text to train on as ids `[N]`."""
    return encode(self.train, self.vocab)

  @property
  def eval_ids(self) -> np.ndarray:
    """The eval text as ids `[N]`."""
    return encode(self._read("eval.txt"), self.vocab)

  def _write(self, name: str, text: str) -> None:
    pathlib.Path(self.folder, name).write_bytes(text.encode())

  def _read(self, name: str) -> str:
    return pathlib.Path(self.folder, name).read_bytes().decode()


@dataclasses.dataclass(frozen=True)
class Task:
  """The work of a worker."""

  builder: str  # module and function that build a `Run` from sizes and text
  options: dict[str, Any]  # further arguments of that function
  sizes: Sizes
  folder: str  # holds the text

  def to_json(self) -> str:
    """Serialises the task for a worker's command line."""
    return json.dumps(dataclasses.asdict(self))

  @classmethod
  def from_json(cls, line: str) -> "Task":
    """Parses the output of `to_json`."""
    fields = json.loads(line)
    return cls(**fields | {"sizes": Sizes(**fields["sizes"])})


def timed(work: Callable[[int], object]) -> Run:
  """Returns a `Run` that measures the wall time of `work`."""

  def run(times: int) -> float:
    start = time.perf_counter()
    work(times)
    return time.perf_counter() - start

  return run
