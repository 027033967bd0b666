"""Writes the metrics of a run, as lines of JSON and as summaries."""

import contextlib
import json
import re
import time
from collections.abc import Mapping

import tensorflow as tf
from tensorboard.plugins.hparams import api as hparams

from charlm.runs.records import SPLITS, TAGS, Record, read_records
from charlm.runs.run_dir import RunDir
from charlm.system.files import append_lines, write_atomically
from charlm.system.process import warn_unsaved

# Each line of a text in pieces of 80 columns: a wider one would have to be
# scrolled. `textwrap` would change the white space of a raw text.
_PIECES = re.compile(r".{1,80}|^$", re.MULTILINE)
# For a full disk, and for a file at the system's size limit.
_NO_SPACE = (tf.errors.ResourceExhaustedError, tf.errors.OutOfRangeError)


class Metrics:
  """Writes each record to `metrics.jsonl`, then to TensorBoard.

  A disk that is full is no reason to stop: what could not be written is tried
  again with the next record.
  """

  def __init__(self, run: RunDir, step: int) -> None:
    """Prepares the file and the summaries to go on from a step.

    Records of later steps are dropped.

    Raises OSError: `metrics.jsonl` cannot be written, or `summaries` cannot (of
      a full disk it only warns).
    """
    self._run, self._path = run, run.metrics
    self._hparams = vars(run.experiment().config)
    self._unwritten = b""  # what the file lacks
    self._writers: dict[str, tf.summary.SummaryWriter] = {}
    records = [r for r in read_records(self._path) if r["step"] <= step]
    text = self._path.read_bytes() if run.has_metrics() else b""
    # The seconds of training before this start, without the pauses: those of
    # the last record and, for each step after it, the mean of the steps before.
    first: Record = {"step": 0, "split": "train", "loss": 0, "seconds": 0}
    *_, last = first, *records
    before = last["seconds"] * step / max(1, last["step"])
    self._began = time.monotonic() - before
    # The evaluation of the step that it is opened at, if there was one.
    at_step = [r for r in records if (r["step"], r["split"]) == (step, "eval")]
    self.evaluation = at_step[-1] if at_step else None
    kept = "".join(json.dumps(record) + "\n" for record in records).encode()
    events = [run.event_files(split) for split in SPLITS]
    whole = not run.outdated.exists() and all(events)
    if whole and text:
      # A kill after the write of the file leaves it newer than the summaries.
      times = [path.stat().st_mtime_ns for files in events for path in files]
      whole = max(times) >= self._path.stat().st_mtime_ns
    try:
      self._open_summaries(records if kept != text or not whole else None)
    except _NO_SPACE as error:
      self._give_up_for_now("the summaries", error)
    except tf.errors.OpError as error:
      raise OSError(f"{run.summaries} cannot be written") from error
    if kept != text:
      # metrics.jsonl is rewritten last: a kill before that leaves in it the
      # lines to be dropped, so that the next start rewrites both.
      write_atomically(self._path, [kept])
    append_lines(self._path, b"")  # fails now if it cannot be written

  @property
  def whole(self) -> bool:
    """Whether everything is written, as far as is known."""
    # A failure leaves no writers.
    return bool(self._writers)

  def write(self, step: int, split: str, values: Mapping[str, object]) -> None:
    """Writes numbers, and texts such as samples, of `train` or `eval`.

    It adds `seconds`: the wall time since step 0, without pauses between
    starts.

    Raises LostRunError: as `RunDir.check_owned`.
    """
    record = {"step": step, "split": split, **values}
    record["seconds"] = round(time.monotonic() - self._began, 3)
    self._unwritten += json.dumps(record).encode() + b"\n"
    try:
      self._run.check_owned()
      # First the file, from which the summaries can be made anew. It is opened
      # for each record, and so created again if it was moved.
      append_lines(self._path, self._unwritten)
      self._unwritten = b""
      if self._writers:
        _summarize(self._writers[split], record)
      else:
        self._open_summaries(read_records(self._path))
    except (OSError, tf.errors.OpError) as error:
      self._give_up_for_now(f"the metrics of step {step}", error)

  def close(self) -> None:
    """Closes the summaries."""
    try:
      for writer in self._writers.values():
        writer.close()
    except tf.errors.OpError as error:
      self._give_up_for_now("the last metrics", error)

  def _give_up_for_now(self, what: str, error: Exception) -> None:
    self._writers = {}
    # The next start makes them anew if this one cannot.
    with contextlib.suppress(OSError):
      self._run.outdate_summaries()
    warn_unsaved(f"{what} could not be written", error, self._run.path)

  def _open_summaries(self, records: list[Record] | None) -> None:
    """Opens the event files; given records, makes them anew."""
    if records is not None:
      self._run.outdate_summaries()
      for path in [x for split in SPLITS for x in self._run.event_files(split)]:
        path.unlink()
    folder, create = self._run.summaries, tf.summary.create_file_writer
    writers = {split: create(f"{folder}/{split}") for split in SPLITS}
    with writers["eval"].as_default():
      # No trial id: runs with equal settings would share one.
      hparams.hparams(self._hparams, trial_id="")
    for record in records or ():
      _summarize(writers[record["split"]], record)
    self._run.outdated.unlink(missing_ok=True)
    self._writers = writers


class Curve:
  """Another curve of scores in TensorBoard, beside the run's own."""

  def __init__(self, run: RunDir, name: str) -> None:
    """Takes the name of a folder in `summaries` that training does not use.

    Raises OSError: it cannot be written.
    """
    self._folder = run.summaries / name
    try:
      self._writer = tf.summary.create_file_writer(str(self._folder))
    except tf.errors.OpError as error:
      raise OSError(f"{self._folder} cannot be written") from error

  def write(self, step: int, score: Mapping[str, object]) -> None:
    """Adds what `Score.to_dict` returned for a step.

    Raises OSError: it cannot be written.
    """
    values = {name: score[name] for name in TAGS if name in score}
    values |= {"step": step, "loss": score["log_perplexity"]}
    try:
      _summarize(self._writer, values)
    except tf.errors.OpError as error:
      raise OSError(f"{self._folder} cannot be written") from error


def _summarize(
  writer: tf.summary.SummaryWriter, record: Mapping[str, object]
) -> None:
  # Step and split are passed apart, and TensorBoard has clocks of its own.
  left_out = {"step", "split", "seconds"}
  values = {n: value for n, value in record.items() if n not in left_out}
  with writer.as_default(record["step"]):
    for name, value in values.items():
      tag = TAGS.get(name, name)
      if isinstance(value, str):
        # Markdown that shows lines as they are, if they are not too wide.
        block = "".join(f"    {piece}\n" for piece in _PIECES.findall(value))
        tf.summary.text(tag, block)
      elif isinstance(value, int | float):
        # As float64, since a loss can be too large for the float32 of a chart.
        tf.summary.scalar(tag, tf.constant(value, tf.float64))
    writer.flush()  # for whoever watches, and to learn of a full disk
