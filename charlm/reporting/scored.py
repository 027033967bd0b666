"""Scores a run by its checkpoint, and shows what the model expects."""

import numpy as np
import tensorflow as tf

from charlm.data.text import Text, readable
from charlm.evaluation.evaluator import Evaluator, score_text
from charlm.model.language_model import LanguageModel
from charlm.model.layers import RecurrentLayer
from charlm.reporting.types import Expectations, Scored
from charlm.runs.checkpoints import which_checkpoint
from charlm.runs.run import Run
from charlm.runs.trained_model import load_model
from charlm.sampling.generator import GenerativeModel
from charlm.sampling.request import Request

_NUM_EXPECTED = 5
MAX_SHOWN = 10_000  # characters in the heat map
_SAMPLES = Request(num_chars=400, num_samples=2, temperature=0.7)
_CHUNK = 500  # characters in one call of the model


def score_run(
  run: Run,
  *,
  name: str,
  checkpoint: str,
  shown: Text | None,
  layer: type[RecurrentLayer] | None = None,
) -> tuple[Scored, Expectations | None]:
  """Scores a run's texts, draws samples, and predicts a text.

  Args:
    run: the run.
    name: its name in the report.
    checkpoint: `auto`, `best`, `latest`, or a step.
    shown: the text of the heat map; None leaves the run out of it.
    layer: a layer class that is not charlm's, for the runs that use it.

  Raises InputError: no such checkpoint, a text is too short, or the model has
    diverged.
  """
  checkpoint = which_checkpoint(run, checkpoint)
  own = layer and layer.__name__.lower() == run.config.layer.lower()
  model, step = load_model(run, checkpoint, layer if own else None)
  evaluator, vocab, valid = Evaluator(model), run.vocab, run.valid_text()
  scored: Scored = {
    "name": name,
    "step": step,
    "checkpoint": checkpoint,
    "eval_score": score_text(evaluator, vocab, run.eval_text())[0].to_dict(),
    "valid_score": (
      score_text(evaluator, vocab, valid)[0].to_dict() if len(valid) else None
    ),
    "samples": [
      readable(sample.text, run.config.encoding)
      for sample in GenerativeModel(model, vocab).sample(_SAMPLES)
    ],
  }
  if shown is None:
    return scored, None
  return scored, _expectations(name, model=model, vocab=vocab, text=shown)


def _expectations(
  name: str, *, model: LanguageModel, vocab: list[str], text: Text
) -> Expectations:
  """Returns a run's predictions for the beginning of a text."""
  # Eager TensorFlow would make dozens of calls for each character.
  read = tf.function(model, autograph=False)
  ids = text.part(0, MAX_SHOWN).ids_in(vocab)
  result = Expectations(run=name, nats=[], expected=[], probabilities=[])
  states = model.initial_states(1)
  for start in range(0, len(ids) - 1, _CHUNK):
    chunk = ids[start : start + _CHUNK + 1]
    log_probs, states = read(
      chunk[np.newaxis, :-1].astype(np.int32), states, return_state=True
    )
    rows = log_probs[0].numpy().astype(np.float64)
    for row, target in zip(rows, chunk[1:], strict=True):
      best = np.argsort(-row, kind="stable")[:_NUM_EXPECTED]
      result["nats"].append(round(-float(row[target]), 3))
      result["expected"].append([vocab[i] for i in best])
      result["probabilities"].append(np.exp(row[best]).round(4).tolist())
  return result
