"""The Python API of a trained model.

model = charlm.load("runs/mine")
model.score(["To be, or not to be"])
print(model.generate("ROMEO ", temperature=0.8)[0].text)
"""

import os
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf

from charlm.config import Config
from charlm.data.cleaning import read_string
from charlm.data.corpus import encode_text
from charlm.data.text import Text
from charlm.data.vocabulary import encode
from charlm.errors import InputError
from charlm.evaluation.evaluator import Evaluator, score_text
from charlm.evaluation.score import Score, refuse_diverged, refuse_short
from charlm.model.language_model import LanguageModel
from charlm.model.layers import RecurrentLayer
from charlm.runs.run import open_run
from charlm.runs.trained_model import load_model, say_which
from charlm.sampling.generator import GenerativeModel, Sample
from charlm.sampling.request import Request, fill_request
from charlm.system.devices import choose_device


class LoadedModel:
  """The model of a checkpoint, its vocabulary, and its run's config.

  A byte-level model (`config.unit`) reads the UTF-8 bytes of a text. It draws
  one character from U+0000 to U+00FF for each byte.
  """

  def __init__(
    self, model: LanguageModel, step: int, vocabulary: list[str], config: Config
  ) -> None:
    self.model, self.step = model, step
    self.vocabulary, self.config = vocabulary, config
    # Built once, since each compiles its own functions.
    self._evaluator = Evaluator(model)
    self._generator = GenerativeModel(model, vocabulary)
    # Eager TensorFlow would make dozens of calls for each character.
    self._predict = tf.function(
      model, [tf.TensorSpec([1, None], tf.int32)], autograph=False
    )

  def score(self, texts: Sequence[str | Text]) -> list[Score]:
    """Scores each text by itself, as `eval.py --text` scores a file.

    Strings are cleaned as the run's corpus was. Parts that `load_texts`
    returned are scored as they are. The first character is not scored.

    Raises:
      InputError: a text is not UTF-8, or has fewer than two characters after
        cleaning, or the model has diverged.
      TypeError: neither a string nor a part that `load_texts` returned.
    """
    # A string is a sequence, too: each of its characters would count as a text.
    if isinstance(texts, str):
      raise TypeError("texts is a string: give a list of strings")
    return [self._score(text) for text in texts]

  def generate(
    self,
    prefix: str = "",
    *,
    num_chars: int = 1000,
    num_samples: int = 1,
    seed: int = 0,
    stop: str = "",
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
  ) -> list[Sample]:
    """Draws texts as `sample.py` does; the arguments are its flags.

    A sample does not contain the prefix; without one, it starts a line.

    Raises InputError: a value is not allowed, or the model has diverged.
    """
    request = self._request(
      prefix=prefix,
      stop=stop,
      num_chars=num_chars,
      num_samples=num_samples,
      seed=seed,
      temperature=temperature,
      top_k=top_k,
      top_p=top_p,
    )
    return self._generator.sample(request)

  def stream(
    self,
    prefix: str = "",
    *,
    num_chars: int = 1000,
    seed: int = 0,
    stop: str = "",
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
  ) -> Iterator[Sample]:
    """Yields the first text of `generate` in chunks, as it is drawn.

    Raises InputError: a value is not allowed, or the model has diverged.
    """
    request = self._request(
      prefix=prefix,
      stop=stop,
      num_chars=num_chars,
      seed=seed,
      temperature=temperature,
      top_k=top_k,
      top_p=top_p,
    )
    return self._generator.stream(request)

  def next(self, prefix: str = "") -> np.ndarray:
    """Returns the probabilities `[V]` of the character after a prefix.

    They are in the order of `vocabulary`, `[UNK]` and padding included. Without
    a prefix, they are for the first character of a line.

    Raises InputError: the prefix is not a string or not UTF-8, or the model has
      diverged.
    """
    ids = encode(self._request(prefix=prefix).prefix or "\n", self.vocabulary)
    log_probs = self._predict(ids[np.newaxis].astype(np.int32))[0, -1].numpy()
    refuse_diverged(log_probs.sum())
    return np.exp(log_probs)

  def ids(self, text: str) -> np.ndarray:
    """Returns the ids `[N]` of a text: its characters' places in `vocabulary`.

    The text is not cleaned.
    """
    prefix = self._request(prefix=text).prefix
    return encode(prefix, self.vocabulary).astype(np.int32)

  def hidden(self, text: str) -> np.ndarray:
    """Returns the last layer's output after each character, `[N, H]`.

    Raises InputError: an empty text, or one that is not UTF-8.
    """
    if not text:
      raise InputError("text is empty: give a character or more")
    outputs, _ = self.model.outputs(self.ids(text)[np.newaxis])
    return np.asarray(outputs[0])

  @property
  def embeddings(self) -> np.ndarray:
    """The characters' embeddings `[V, D]`, in the order of `vocabulary`."""
    return np.asarray(self.model.embedding.embeddings)

  def __repr__(self) -> str:
    return (
      f"LoadedModel({self.model.count_params():,} weights, "
      f"{len(self.vocabulary)} entries, step {self.step:,})"
    )

  def _request(self, **values: object) -> Request:
    """Returns a request with these values; other fields have defaults."""
    return fill_request(Request(), values, self.config)

  def _score(self, text: str | Text) -> Score:
    name = "the text"
    if not isinstance(text, Text):
      name = repr(text)
      chunks = read_string(self.config, text)
      text = encode_text(chunks, self.config.encoding).text
    refuse_short(text, name)
    score, _ = score_text(self._evaluator, self.vocabulary, text)
    return score


def load(
  run_dir: str | os.PathLike[str],
  checkpoint: str | int = "auto",
  device: str = "auto",
  layer: type[RecurrentLayer] | None = None,
) -> LoadedModel:
  """Loads the model of a run. Only reads its folder, even during training.

  Args:
    run_dir: folder of the run.
    checkpoint: `latest`, `best`, or a step; `auto` is the best one if the run
      has a valid text, else the latest.
    device: `cpu`, `gpu`, or `auto`: a GPU if there is one. For a few texts at a
      time, `cpu` may be faster. Later calls cannot change it.
    layer: the class of the run's layer, if it is not one of charlm's.

  Raises:
    InputError: no run, or its files have changed; no such checkpoint, or it is
      damaged; or no such device.
    OSError: the system cannot read a file, for example without permission.
  """
  # First, since loading weights starts TensorFlow with all devices.
  choose_device(device)
  run = open_run(run_dir)
  model, step = load_model(run, str(checkpoint), layer)
  say_which(run, str(checkpoint), step)
  return LoadedModel(model, step, run.vocab, run.config)
