"""The records of a run's metrics, read from `metrics.jsonl`."""

import contextlib
import json
from pathlib import Path
from typing import NotRequired, TypedDict

from charlm.errors import InputError
from charlm.options import is_utf8

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
LARGEST = 2.0**128 - 2.0**104  # of float32, which event files hold
_LARGEST_FILE = 2**31  # bytes: ten million records


class Record(TypedDict):
  """A line of `metrics.jsonl`; it has other metrics, too, and samples."""

  step: int
  split: str
  loss: float
  valid_loss: NotRequired[float]
  seconds: NotRequired[float]


def read_records(path: Path) -> list[Record]:
  """Reads `metrics.jsonl`, if there is one, leaving out malformed lines.

  Each record has a step, a split (`train` or `eval`), a finite loss and, unless
  an earlier version wrote it, finite seconds. Its other metrics are numbers, of
  any size; what else there is, such as samples, may be text.

  Raises InputError: the file is larger than a run makes it.
  """
  if not path.exists():
    return []
  if path.stat().st_size > _LARGEST_FILE:
    raise InputError(f"{path} is larger than a run makes it: restore it")
  records = []
  for line in path.read_bytes().splitlines():
    with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError):
      record = json.loads(line)
      if (
        (type(record["step"]), type(record["loss"])) == (int, float)
        and 0 <= record["step"] < 2**63
        and abs(record["loss"]) <= LARGEST
        and abs(record.get("seconds", 0)) <= LARGEST
        and record["split"] in SPLITS
        and all(
          isinstance(value, int | float if name in TAGS else int | float | str)
          for name, value in record.items()
        )
        and is_utf8(json.dumps(record, ensure_ascii=False))
      ):
        records.append(record)
  return records
