"""The records of a run's metrics, read from `metrics.jsonl`."""

import contextlib
import json
from pathlib import Path
from typing import NotRequired, TypedDict

SPLITS = ("train", "eval")
# The metrics that are numbers, and their charts in TensorBoard, which groups
# charts by what comes before the slash, in the order of the names, and opens
# only the first two groups.
TAGS = {
  "loss": "1 loss/loss",
  "valid_loss": "1 loss/loss of the valid text",
  "bits_per_character": "1 loss/loss in bits",
  "bits_per_byte": "1 loss/loss in bits per byte",
  "perplexity": "1 loss/perplexity",
  "learning_rate": "2 learning rate/learning rate",
  "gradient_norm": "3 gradient/norm before clipping",
  "characters_per_second": "4 speed/characters per second",
}


class Record(TypedDict):
  """A line of `metrics.jsonl`; it has other metrics, too, and samples."""

  step: int
  split: str
  loss: float
  valid_loss: NotRequired[float]
  seconds: float


def read_records(path: Path) -> list[Record]:
  """Reads `metrics.jsonl`, if there is one, leaving out malformed lines.

  Besides what `Record` names, a record has other metrics, which are numbers,
  and samples.
  """
  records: list[Record] = []
  if path.exists():
    for line in path.read_bytes().splitlines():
      with contextlib.suppress(ValueError):  # cut off by a kill
        records.append(json.loads(line))
  return records
