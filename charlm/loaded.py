"""A trained model for other programs: what `charlm.load` returns.

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

  A byte-level model (`config.unit`) reads the UTF-8 bytes of a text, and draws
  a character from U+0000 to U+00FF for each byte.
  """

  def __init__(
    self, model: LanguageModel, step: int, vocabulary: list[str], config: Config
  ) -> None:
    self.model, self.step = model, step
    self.vocabulary, self.config = vocabulary, config
    # Made once, since each compiles functions of its own.
    self._evaluator = Evaluator(model)
    self._generator = GenerativeModel(model, vocabulary)
    # A graph: else each character of a prefix is dozens of calls of TensorFlow.
    self._predict = tf.function(
      model, [tf.TensorSpec([1, None], tf.int32)], autograph=False
    )

  def score(self, texts: Sequence[str | Text]) -> list[Score]:
    """Scores each text alone, as `eval.py --text` scores it in a file.

    A string is cleaned as the run's corpus was. A part that `load_texts`
    returned is scored as it is. All characters but the first are scored.

    Raises:
      InputError: a text is not UTF-8, or has fewer than two characters once it
        is cleaned, or the model has diverged.
      TypeError: neither a string nor a part that `load_texts` returned.
    """
    # A string is a sequence, too: each character would be taken for a text.
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
    min_p: float = 0.0,
  ) -> list[Sample]:
    """Draws texts as `sample.py` does; the arguments are its flags.

    The prefix is not part of a sample; without one a sample starts a line.

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
      min_p=min_p,
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
    min_p: float = 0.0,
  ) -> Iterator[Sample]:
    """Yields the first text of `generate` in pieces, as it is drawn.

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
      min_p=min_p,
    )
    return self._generator.stream(request)

  def next(self, prefix: str = "") -> np.ndarray:
    """Returns the probabilities `[V]` of the character after a prefix.

    They are in the order of `vocabulary`, `[UNK]` and padding included. Without
    a prefix the character is the first of a line.

    Raises InputError: the prefix is not a string of UTF-8, or the model has
      diverged.
    """
    ids = encode(self._request(prefix=prefix).prefix or "\n", self.vocabulary)
    log_probs = self._predict(ids[np.newaxis].astype(np.int32))[0, -1].numpy()
    refuse_diverged(log_probs.sum())
    return np.exp(log_probs)

  def ids(self, text: str) -> np.ndarray:
    """Returns the ids `[N]` of a text as it is: places in `vocabulary`."""
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
    """Returns a request whose fields have these values, the others defaults."""
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
  """Loads the model of a run. Its folder is only read, even during training.

  Args:
    run_dir: folder of the run.
    checkpoint: `latest`, `best`, or a step; `auto` is the best one if the run
      has a valid text, else the latest.
    device: what computes: `cpu`, `gpu`, or `auto`, a GPU if there is one; for
      a few texts at a time, `cpu` may be faster. Later calls cannot change it.
    layer: the class of the run's layer, where it is not charlm's.

  Raises:
    InputError: no run, one whose files were changed, no such checkpoint or a
      damaged one, or no such device.
    OSError: the system cannot read a file, as for lack of permission.
  """
  # First: to load weights starts TensorFlow with all devices.
  choose_device(device)
  run = open_run(run_dir)
  model, step = load_model(run, str(checkpoint), layer)
  say_which(run, str(checkpoint), step)
  return LoadedModel(model, step, run.vocab, run.config)
