"""What is computed of a run for the report."""

import dataclasses
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from charlm.data.text import Text
from charlm.errors import InputError
from charlm.evaluation.evaluator import Evaluator, score_text
from charlm.evaluation.score import Score, refuse_short
from charlm.model.language_model import GRULM
from charlm.runs.loading import load_model
from charlm.runs.records import Record, read_records
from charlm.runs.run_dir import RunDir
from charlm.sampling.generator import GenerativeModel
from charlm.sampling.options import Request
from charlm.sampling.sample import Sample

WINDOW = 256
_NUM_EXPECTED = 5
_NUM_SAMPLES = 2
_MAX_SHOWN = 10_000  # characters whose expectations are shown
_SAMPLE_CHARS = 400
_PIECE = 500  # characters in one call of the model


class Expected(NamedTuple):
  """What a model expected at each of the first characters that are scored."""

  ids: np.ndarray  # [N, _NUM_EXPECTED], the most likely first
  probs: np.ndarray  # of these


@dataclasses.dataclass(frozen=True)
class Result:
  """What the report says of a run."""

  name: str
  step: int
  num_weights: int
  characters_per_step: int
  records: list[Record]  # of `metrics.jsonl`
  encoding: str  # of the run's texts
  text: str  # the scored one, its first character included
  eval_sha256: str  # of the text in its encoding
  scores: dict[str, Score]  # by protocol, with the nats of each character
  vocab: list[str]
  expected: Expected
  samples: list[Sample]  # drawn after a newline


def score_run(run: RunDir, checkpoint: str) -> Result:
  """Scores a run's eval text by all protocols, and draws samples.

  Raises InputError, with the folder's name: no run, no such checkpoint, too
    short a text, or a model that has diverged.
  """
  try:
    return _result(run, checkpoint)
  except InputError as error:
    named = str(error).startswith(str(run.path))
    raise InputError(f"{'' if named else f'{run.path}: '}{error}") from error


def _result(run: RunDir, checkpoint: str) -> Result:
  model, step = load_model(run, checkpoint)
  vocab, text = run.vocabulary(), run.eval_text()
  experiment = run.experiment()
  config = experiment.config
  refuse_short(text, run.eval_path)
  request = Request(num_chars=_SAMPLE_CHARS, num_samples=_NUM_SAMPLES)
  return Result(
    name=str(run.path),
    step=step,
    num_weights=model.count_params(),
    characters_per_step=config.batch_size * config.seq_length,
    records=read_records(run.metrics),
    encoding=config.encoding,
    text=str(text),
    eval_sha256=experiment.eval_sha256,
    scores=_scores(model, vocab, text),
    vocab=vocab,
    expected=_expected(model, text.part(0, _MAX_SHOWN + 1).ids_in(vocab)),
    samples=GenerativeModel(model, vocab).sample(request),
  )


def _scores(model: GRULM, vocab: list[str], text: Text) -> dict[str, Score]:
  evaluator = Evaluator(model, keep_nats=True)
  protocols = {"stream": "stream", f"windows of {WINDOW}": "windows"}
  if "\n" in vocab:
    protocols["lines"] = "lines"
  return {
    name: score_text(evaluator, vocab, text, protocol, WINDOW, WINDOW)[0]
    for name, protocol in protocols.items()
  }


def _expected(model: GRULM, ids: np.ndarray) -> Expected:
  """Returns what was expected at each of ids `[N + 1]` but the first."""
  # In a graph, since each character would be dozens of calls of TensorFlow.
  read = tf.function(model, autograph=False)
  states, best, probs = model.initial_states(1), [], []
  for start in range(0, len(ids) - 1, _PIECE):
    piece = ids[np.newaxis, start : min(start + _PIECE, len(ids) - 1)]
    log_probs, states = read(piece.astype(np.int32), states, return_state=True)
    log_probs = log_probs[0].numpy()
    most = np.argsort(-log_probs, axis=1, kind="stable")[:, :_NUM_EXPECTED]
    best.append(most)
    probs.append(np.exp(np.take_along_axis(log_probs, most, axis=1)))
  return Expected(np.concatenate(best), np.concatenate(probs))
