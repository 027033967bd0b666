"""What is computed of a run for the report."""

import dataclasses

import numpy as np
import tensorflow as tf

from charlm.config import Config
from charlm.data.text import Text, readable
from charlm.evaluation.evaluator import Evaluator, score_text
from charlm.evaluation.score import Score
from charlm.model.language_model import LanguageModel
from charlm.model.layers import RecurrentLayer
from charlm.reporting.types import Expectations, Part, Point, Run
from charlm.runs.checkpoints import which_checkpoint
from charlm.runs.metrics import Record, read_records
from charlm.runs.run import Experiment
from charlm.runs.run import Run as OpenedRun
from charlm.runs.trained_model import load_model
from charlm.sampling.generator import GenerativeModel
from charlm.sampling.request import Request

_NUM_EXPECTED = 5
MAX_SHOWN = 10_000  # characters whose expectations are shown
SAMPLES = Request(num_chars=400, num_samples=2, temperature=0.7)
_PIECE = 500  # characters in one call of the model
# The fields of an experiment, as far as they count, and their values.
Setting = tuple[tuple[str, object], ...]


@dataclasses.dataclass(frozen=True)
class Result:
  """What the report says of a run, and what it compares."""

  run: Run  # compared with no other one
  text: str  # the scored one, its first character included
  eval_sha256: str  # of the text in its encoding
  valid_sha256: str
  setting: Setting  # equal for runs that differ in the seed alone
  scores: dict[Part, Score]  # by the protocol `stream`; `valid` if it has one
  vocab: list[str]
  expectations: (
    Expectations | None
  )  # of the text shown; None: it reads otherwise


def score_run(
  run: OpenedRun,
  *,
  name: str,
  checkpoint: str,
  shown: Text | None,
  layer: type[RecurrentLayer] | None = None,
) -> Result:
  """Scores a run's texts, and draws samples.

  The report calls the run by the name, and shows what the run expects of a
  text, if there is one. The layer's class, which is not charlm's, is for runs
  that have it.

  Raises InputError: no run, no such checkpoint, too short a text, or a model
    that has diverged.
  """
  checkpoint = which_checkpoint(run, checkpoint)
  own = layer and layer.__name__.lower() == run.config.layer.lower()
  model, step = load_model(run, checkpoint, layer if own else None)
  vocab, config, text = run.vocab, run.config, run.eval_text()
  evaluator = Evaluator(model)
  records = read_records(run.metrics_path)
  scores: dict[Part, Score] = {"eval": score_text(evaluator, vocab, text)[0]}
  if len(valid := run.valid_text()):
    scores["valid"] = score_text(evaluator, vocab, valid)[0]
  samples = GenerativeModel(model, vocab).sample(SAMPLES)
  expectations = None
  if shown is not None:
    expectations = _expectations(name, model=model, vocab=vocab, text=shown)
  return Result(
    run={
      "name": name,
      "recipe": config.recipe,
      "seed": config.seed,
      "step": step,
      "checkpoint": checkpoint,
      "num_weights": model.count_params(),
      "eval_score": scores["eval"].to_dict(),
      "valid_score": scores["valid"].to_dict() if "valid" in scores else None,
      "curves": _curves(records, config),
      "samples": [readable(each.text, config.encoding) for each in samples],
    },
    text=str(text),
    eval_sha256=run.experiment.eval_sha256,
    valid_sha256=run.experiment.valid_sha256,
    setting=setting_of(run.experiment, step, checkpoint, records),
    scores=scores,
    vocab=vocab,
    expectations=expectations,
  )


def setting_of(
  experiment: Experiment, step: int, checkpoint: str, records: list[Record]
) -> Setting:
  """Returns what is equal for runs that differ in the seed alone."""
  # A run that was stopped is no other seed of one that is done. The best step
  # may be another one for each seed, so it says nothing of that.
  if checkpoint == "best":
    step = max((record["step"] for record in records), default=step)
  return *experiment.setting, ("steps", step)


def _curves(records: list[Record], config: Config) -> dict[str, list[Point]]:
  """Returns the points of each split's curve, from the records of a run.

  `seconds` are wall time since step 0, without pauses between starts.
  """
  points: dict[str, list[Point]] = {"train": [], "valid": [], "eval": []}
  for record in records:
    point: Point = {
      "step": record["step"],
      "characters": record["step"] * config.batch_size * config.seq_length,
      "seconds": record.get("seconds"),
      "loss": record["loss"],
    }
    points[record["split"]].append(point)
  return points


def _expectations(
  name: str, *, model: LanguageModel, vocab: list[str], text: Text
) -> Expectations:
  """Returns what a run expects of the beginning of a text."""
  # In a graph, since each character would be dozens of calls of TensorFlow.
  read = tf.function(model, autograph=False)
  ids = text.part(0, MAX_SHOWN).ids_in(vocab)
  found = Expectations(run=name, nats=[], expected=[], probabilities=[])
  states = model.initial_states(1)
  for start in range(0, len(ids) - 1, _PIECE):
    piece = ids[start : start + _PIECE + 1]
    log_probs, states = read(
      piece[np.newaxis, :-1].astype(np.int32), states, return_state=True
    )
    rows = log_probs[0].numpy().astype(np.float64)
    for row, right in zip(rows, piece[1:], strict=True):
      best = np.argsort(-row, kind="stable")[:_NUM_EXPECTED]
      found["nats"].append(round(-float(row[right]), 3))
      found["expected"].append([vocab[i] for i in best])
      found["probabilities"].append(np.exp(row[best]).round(4).tolist())
  return found
