"""The metrics of a run: `metrics.jsonl`, and what TensorBoard draws of it."""

import contextlib
import json
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import api as hparams
from tensorboard.plugins.scalar.summary_v2 import scalar_pb
from tensorboard.plugins.text.summary_v2 import text_pb
from tensorboard.summary.writer.record_writer import RecordWriter

from charlm.runs.run import Run
from charlm.system.files import (
  append_lines,
  read_json_lines,
  write_atomically,
)
from charlm.system.messages import warn, warn_unsaved

# What is drawn of a record. The best loss so far is for the page HParams.
_DRAWN = (
  "loss",
  "best_loss",
  "learning_rate",
  "gradient_norm",
  "characters_per_second",
  "sample",
)
# Each line of a text in pieces of 80 columns: a wider one would have to be
# scrolled. `textwrap` would change the white space of a raw text.
_PIECES = re.compile(r".{1,80}|^$", re.MULTILINE)
# How the names of the event files of a training end.
_OURS = ".run"
_MAX_NUMBER = float(np.finfo(np.float32).max)  # TensorBoard draws float32


class EventFile:
  """A file of a folder that TensorBoard shows as curves, opened for a write.

  A write that fails, as on a full disk, can leave a part of an event, after
  which TensorBoard reads nothing: the file must then be made anew.
  """

  def __init__(self, folder: Path, suffix: str = "") -> None:
    """Makes the file, whose name ends in a suffix, and the folder.

    Raises OSError, as `write` does: they cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # TensorBoard reads a folder's files in the order of their names.
    self._path = folder / f"events.out.tfevents.{time.time_ns()}{suffix}"
    self.write(Event(wall_time=time.time(), file_version="brain.Event:2"))

  def write(self, event: Event) -> None:
    """Appends an event."""
    with self._path.open("ab") as file:
      RecordWriter(file).write(event.SerializeToString())


def metrics_event(record: Mapping[str, object], wall_time: float) -> Event:
  """Returns what is drawn of a record of metrics, which has a `step`.

  The wall time is in seconds since the epoch.
  """
  summary = Summary()
  for tag in _DRAWN:
    value = record.get(tag)
    if isinstance(value, str):
      # Markdown that shows lines as they are, if they are not too wide.
      block = "".join(f"    {piece}\n" for piece in _PIECES.findall(value))
      summary.MergeFrom(text_pb(tag, block))
    elif isinstance(value, int | float) and abs(value) <= _MAX_NUMBER:
      summary.MergeFrom(scalar_pb(tag, value))
  return Event(step=record["step"], wall_time=wall_time, summary=summary)


class Record(TypedDict):
  """A line of `metrics.jsonl`; it has other metrics, too, and samples."""

  step: int
  split: str  # train, valid or eval
  loss: float
  seconds: float  # wall time since step 0, without pauses between starts
  time: NotRequired[float]  # seconds since the epoch


def read_records(path: Path) -> list[Record]:
  """Reads `metrics.jsonl`, if there is one, leaving out malformed lines.

  An `eval` record of an older commit has the loss of the valid text, too, which
  becomes a record of its own.
  """
  records: list[Any] = []
  for record in read_json_lines(path):
    if "valid_loss" in record:
      loss = {"split": "valid", "loss": record.pop("valid_loss")}
      common = Record.__annotations__.keys() & record.keys()
      records.append({name: record[name] for name in common} | loss)
    records.append(record)
  return records


class Metrics:
  """Writes each record to `metrics.jsonl`, then to TensorBoard's event files.

  A disk that is full is no reason to stop: a record that could not be written
  is tried again with the next one, or by `write_rest`. The event files are made
  anew at each start; once a write fails, nothing is drawn until the next start.
  """

  def __init__(
    self,
    run: Run,
    step: int,
    settings: Mapping[str, Any],
  ) -> None:
    """Goes on from a step: records of later steps are dropped.

    TensorBoard's page HParams shows the settings.

    Raises:
      OSError: `metrics.jsonl` cannot be written.
      LostRunError: as `Run.check_owned`.
    """
    run.check_owned()
    self._run, self._path = run, run.metrics_path
    self._settings = dict(settings)
    self._unwritten = b""  # what the file lacks
    self._event_files: dict[str, EventFile] = {}  # by split; empty if given up
    text = b""
    if self._path.exists():
      text = self._path.read_bytes()
    elif run.starts():
      warn(f"{self._path} is missing: the metrics up to step {step:,} are lost")
    if len(read_json_lines(self._path)) < len(text.splitlines()):
      # By a kill, or in a copy.
      warn(f"{self._path} has a line that is cut off: it is left out")
    self._records = [
      record for record in read_records(self._path) if record["step"] <= step
    ]
    lines = [json.dumps(record) + "\n" for record in self._records]
    if (kept := "".join(lines).encode()) != text:
      write_atomically(self._path, [kept])
    append_lines(self._path, b"")  # fails now if it cannot be written
    # The seconds trained before this start, without pauses, estimated from the
    # highest step: steps after it count as the mean of the steps before. The
    # record of the eval text comes last, and can be of an earlier step.
    first: Record = {"step": 0, "split": "train", "loss": 0, "seconds": 0}
    last = max([first, *self._records], key=lambda r: (r["step"], r["seconds"]))
    before = last["seconds"] * step / max(1, last["step"])
    self._began = time.monotonic() - before
    with self._drawing():
      self._make_event_files()
      for record in self._records:
        self._draw(record)

  @property
  def whole(self) -> bool:
    """Whether all records are written."""
    return not self._unwritten

  @property
  def losses(self) -> dict[int, float]:
    """The losses that choose the best checkpoint, by step.

    They are of the valid text or, without one, of the eval text.
    """
    return self.losses_of(self._run.choosing_part)

  def losses_of(self, split: str) -> dict[int, float]:
    """Returns the losses of a split by step, in order."""
    return {
      record["step"]: record["loss"]
      for record in self._records
      if record["split"] == split
    }

  def write(self, step: int, split: str, values: Mapping[str, object]) -> None:
    """Writes numbers, and texts such as samples, of a split.

    Raises LostRunError: as `Run.check_owned`.
    """
    clocks = {
      "seconds": round(time.monotonic() - self._began, 3),
      "time": round(time.time(), 3),
    }
    line = json.dumps({"step": step, "split": split, **values, **clocks})
    self._records.append(json.loads(line))
    self._unwritten += line.encode() + b"\n"
    self.write_rest()
    if self._event_files:
      with self._drawing():
        self._draw(self._records[-1])

  def write_rest(self) -> None:
    """Writes the records that are not written yet, as after a full disk.

    Raises LostRunError: as `Run.check_owned`.
    """
    try:
      self._run.check_owned()
      # The file is opened for each record, and so made again if it was moved.
      if self._unwritten:
        append_lines(self._path, self._unwritten)
      self._unwritten = b""
    except OSError as error:
      step = self._records[-1]["step"] if self._records else 0
      what = f"the metrics up to step {step} could not be written"
      warn_unsaved(what, error, self._run.path)

  @contextlib.contextmanager
  def _drawing(self) -> Iterator[None]:
    """Gives up the event files if a write fails."""
    try:
      yield
    except OSError as error:
      self._event_files = {}
      what = "TensorBoard shows no more until the next start"
      warn_unsaved(what, error, self._run.summaries)

  def _make_event_files(self) -> None:
    """Makes the event files anew, without records."""
    # `valid` may also hold a curve that somebody drew by `eval.py --follow`.
    for pattern in (
      "train/events.*",
      "eval/events.*",
      f"valid/events.*{_OURS}",
    ):
      for path in self._run.summaries.glob(pattern):
        path.unlink()
    splits = dict.fromkeys(["train", self._run.choosing_part, "eval"])
    self._event_files = {
      split: EventFile(self._run.summaries / split, _OURS) for split in splits
    }
    for file in self._event_files.values():
      # A TensorBoard that has read the files before forgets what was in them.
      file.write(Event(session_log=SessionLog(status=SessionLog.START)))
    # No trial id: runs with equal settings would share one.
    shown = hparams.hparams_pb(self._settings, trial_id="")
    file = self._event_files[self._run.choosing_part]
    file.write(Event(summary=shown))

  def _draw(self, record: Record) -> None:
    drawn = dict(record)
    if record["split"] == self._run.choosing_part:
      losses = self.losses.items()
      so_far = [loss for step, loss in losses if step <= record["step"]]
      drawn["best_loss"] = min(so_far)
    # A record of an older commit has no time: it is drawn in 1970.
    event = metrics_event(drawn, record.get("time", record["seconds"]))
    self._event_files[record["split"]].write(event)
