"""Computes what the report needs of one run."""

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
MAX_SHOWN = 10_000  # characters in the heat map
SAMPLES = Request(num_chars=400, num_samples=2, temperature=0.7)
_CHUNK = 500  # characters in one call of the model
# The fields of an experiment that matter for a comparison, and their values.
Setting = tuple[tuple[str, object], ...]


@dataclasses.dataclass(frozen=True)
class Result:
  """One run in the report, and the data that compare it with others."""

  run: Run  # as the report shows it
  text: str  # the eval text, including its first character
  eval_sha256: str  # of the text as encoded bytes
  valid_sha256: str
  setting: Setting  # the same for runs that differ only in the seed
  scores: dict[Part, Score]  # with protocol `stream`; `valid` if it has one
  vocab: list[str]
  # For the text of the heat map; None if the run reads texts differently.
  expectations: Expectations | None


def score_run(
  run: OpenedRun,
  *,
  name: str,
  checkpoint: str,
  shown: Text | None,
  layer: type[RecurrentLayer] | None = None,
) -> Result:
  """Scores a run's texts, and draws samples.

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
      "samples": [readable(x.text, config.encoding) for x in samples],
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
  """Returns all that runs share if they differ only in the seed."""
  # A run that stopped early does not count as another seed of a finished one.
  # The best step varies with the seed, so take the last step instead.
  if checkpoint == "best":
    step = max((record["step"] for record in records), default=step)
  return *experiment.setting, ("steps", step)


def _curves(records: list[Record], config: Config) -> dict[str, list[Point]]:
  """Converts a run's records to curves, one for each split."""
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
