"""The metrics of a run: `metrics.jsonl`, and TensorBoard's view of it."""

import contextlib
import json
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import api as hparams
from tensorboard.plugins.scalar.summary_v2 import scalar_pb
from tensorboard.plugins.text.summary_v2 import text_pb
from tensorboard.summary.writer.record_writer import RecordWriter

from charlm.runs.records import Record, read_records
from charlm.runs.run import Run
from charlm.system.files import (
  append_lines,
  read_json_lines,
  write_atomically,
)
from charlm.system.messages import warn, warn_unsaved

# What TensorBoard shows. The best loss so far is for its HParams page.
_DRAWN = (
  "loss",
  "best_loss",
  "learning_rate",
  "gradient_norm",
  "characters_per_second",
  "sample",
)
# Wraps the lines of a text at 80 columns: wider ones would need scrolling.
# `textwrap` would change the white space.
_CHUNKS = re.compile(r".{1,80}|^$", re.MULTILINE)
_OURS = ".run"  # ends the names of the event files that training writes


class EventFile:
  """An event file of TensorBoard, opened anew for each write.

  A failed write, say on a full disk, can leave half an event. TensorBoard reads
  nothing after that, so the file must be replaced.
  """

  def __init__(self, folder: Path, suffix: str = "") -> None:
    """Creates the file, whose name ends in the suffix, and its folder.

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
  """Converts a record, which must have a `step`, to a TensorBoard event.

  The wall time is in seconds since the Unix epoch.
  """
  summary = Summary()
  for tag in _DRAWN:
    value = record.get(tag)
    if isinstance(value, str):
      # A code block in Markdown, which shows lines as they are.
      markdown = "".join(f"    {chunk}\n" for chunk in _CHUNKS.findall(value))
      summary.MergeFrom(text_pb(tag, markdown))
    elif isinstance(value, int | float):
      summary.MergeFrom(scalar_pb(tag, value))
  return Event(step=record["step"], wall_time=wall_time, summary=summary)


class Metrics:
  """Writes each record to `metrics.jsonl`, then to TensorBoard's event files.

  A full disk does not stop training: a record that could not be written is
  retried with the next one, or by `write_rest`. Each start replaces the event
  files. If a write to them fails, they get nothing more until the next start.
  """

  def __init__(
    self,
    run: Run,
    step: int,
    settings: Mapping[str, Any],
  ) -> None:
    """Continues from a step: drops the records of later steps.

    TensorBoard's HParams page shows the settings.

    Raises:
      OSError: `metrics.jsonl` cannot be written.
      LostRunError: as `Run.check_owned`.
    """
    run.check_owned()
    self._run, self._path = run, run.metrics_path
    self._settings = dict(settings)
    self._unwritten = b""  # lines that could not be written yet
    # By split; empty after a write has failed.
    self._event_files: dict[str, EventFile] = {}
    text = b""
    if self._path.exists():
      text = self._path.read_bytes()
    elif run.starts():
      warn(f"{self._path} is missing: the metrics up to step {step:,} are lost")
    if len(read_json_lines(self._path)) < len(text.splitlines()):
      # A kill or an incomplete copy can cut it off.
      warn(f"{self._path} has a line that is cut off: it is left out")
    self._records = [
      record for record in read_records(self._path) if record["step"] <= step
    ]
    lines = [json.dumps(record) + "\n" for record in self._records]
    if (kept := "".join(lines).encode()) != text:
      write_atomically(self._path, [kept])
    append_lines(self._path, b"")  # fails now if it cannot be written
    # Estimates the seconds trained before this start, without pauses, from the
    # record with the highest step; later steps count as the mean of those
    # before. The eval record comes last, but can have an earlier step.
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
    """Whether all records are on disk."""
    return not self._unwritten

  @property
  def losses(self) -> dict[int, float]:
    """The losses that choose the best checkpoint, by step.

    They are on the valid text or, without one, on the eval text.
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
    """Writes a record: numbers, and texts such as samples.

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
    """Retries the records that could not be written.

    Raises LostRunError: as `Run.check_owned`.
    """
    try:
      self._run.check_owned()
      # Opened for each record, so that it comes back if it was moved.
      if self._unwritten:
        append_lines(self._path, self._unwritten)
      self._unwritten = b""
    except OSError as error:
      step = self._records[-1]["step"] if self._records else 0
      problem = f"the metrics up to step {step} could not be written"
      warn_unsaved(problem, error, self._run.path)

  @contextlib.contextmanager
  def _drawing(self) -> Iterator[None]:
    """Gives up the event files if a write fails."""
    try:
      yield
    except OSError as error:
      self._event_files = {}
      problem = "TensorBoard shows no more until the next start"
      warn_unsaved(problem, error, self._run.summaries)

  def _make_event_files(self) -> None:
    """Replaces the event files by new ones without records."""
    # `valid` may also hold a curve of `eval.py --follow`: keep that.
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
      # Makes a running TensorBoard forget the old files' events.
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
    # Records of older commits have no time: they are drawn in 1970.
    event = metrics_event(drawn, record.get("time", record["seconds"]))
    self._event_files[record["split"]].write(event)
