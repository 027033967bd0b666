"""The lines of a run's `metrics.jsonl`, read without TensorFlow."""

from pathlib import Path
from typing import Any, NotRequired, TypedDict

from charlm.system.files import read_json_lines


class Record(TypedDict):
  """A line of `metrics.jsonl`; other metrics and samples are optional."""

  step: int
  split: str  # train, valid or eval
  loss: float  # NaN in the last record of a training that has diverged
  seconds: float  # wall time since step 0, without pauses between starts
  time: NotRequired[float]  # seconds since the Unix epoch
  sample: NotRequired[str]
  characters_per_second: NotRequired[float]


def read_records(path: Path) -> list[Record]:
  """Reads `metrics.jsonl`, if it exists; skips malformed lines.

  Older commits put the valid loss into the `eval` record: it becomes a record
  of its own.
  """
  records: list[Any] = []
  for record in read_json_lines(path):
    if "valid_loss" in record:
      loss = {"split": "valid", "loss": record.pop("valid_loss")}
      common = ("step", "seconds", "time")
      records.append({n: record[n] for n in common if n in record} | loss)
    records.append(record)
  return records
