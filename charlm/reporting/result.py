"""What a report says of a run: its scores by all protocols."""

import dataclasses
from typing import Any

from charlm.data.text import Ids
from charlm.evaluation.evaluator import Evaluator
from charlm.evaluation.score import Score, refuse_short, scored_bytes
from charlm.runs.loading import load_model
from charlm.runs.metrics import read_records
from charlm.runs.run_dir import RunDir

WINDOW = 256


@dataclasses.dataclass(frozen=True)
class Result:
  """What the page says of a run."""

  name: str
  step: int
  num_weights: int
  records: list[dict[str, Any]]  # of `metrics.jsonl`
  text: str  # the scored one, its first character included
  scores: dict[str, Score]  # by protocol, with the nats of each character


def score_run(run: RunDir, checkpoint: str) -> Result:
  """Scores a run's eval text by all protocols.

  Raises InputError: no run, no such checkpoint, or too short a text.
  """
  model, step = load_model(run, checkpoint)
  vocab, text = run.vocabulary(), run.eval_text()
  ids, evaluator = Ids(text, vocab), Evaluator(model, keep_nats=True)
  refuse_short(ids, run.eval_path)
  scores = {
    "stream": evaluator.stream(ids),
    f"windows of {WINDOW}": evaluator.windows(ids, WINDOW, WINDOW),
  }
  if "\n" in vocab:
    scores["lines"] = evaluator.lines(ids, vocab.index("\n"))
  for name, score in scores.items():
    num_bytes = scored_bytes(text, name == "lines")
    scores[name] = dataclasses.replace(score, num_bytes=num_bytes)
  records = read_records(run.metrics)
  return Result(
    str(run.path), step, model.count_params(), records, str(text), scores
  )
