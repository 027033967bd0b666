"""The run directory: the only module that knows its file names.

config.json vocabulary.json held_out.txt   written once, before step 0
checkpoints/ckpt-<step>.*                  the last few
best/ckpt-<step>.*                         the best by held-out loss
metrics.jsonl                              every number, an object a line
summaries/train|eval                       the same for TensorBoard
starts.jsonl                               how and where each start ran
"""

import contextlib
import fcntl
import json
import os
import pathlib
import re
import shutil
import sys
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from charlm.config import Experiment, InputError
from charlm.files import write_atomically
from charlm.model import GRULM, build_model
from charlm.vocabulary import vocabulary_from_json

# What TensorFlow raises where a checkpoint is cut off, altered or another's.
_DAMAGE = (AssertionError, ValueError, IndexError, tf.errors.OpError)
_CHECKPOINT = re.compile(r"ckpt-(\d+)\.index")


class RunDir:
  """A run's folder, opened for reading or, locked, for training."""

  def __init__(self, path: str | os.PathLike[str]) -> None:
    if not os.fspath(path):
      raise InputError("--run_dir is empty: give a folder")
    self.path = pathlib.Path(path)

  def exists(self) -> bool:
    """Tells whether a run was created here."""
    return (self.path / "config.json").exists()

  def create(
    self, experiment: Experiment, vocab: list[str], held_out: list[str]
  ) -> None:
    """Writes what defines a run.

    Raises:
      InputError: the folder has checkpoints already, or cannot be written.
    """
    if any(_steps(self.path / name) for name in ("checkpoints", "best")):
      raise InputError(
        f"{self.path} has checkpoints but no config.json: restore that file, "
        "or give a new --run_dir"
      )
    files = {
      "vocabulary.json": json.dumps(vocab) + "\n",
      "held_out.txt": "\n".join(held_out),
      # The last one, so that a run that exists is a whole one.
      "config.json": experiment.to_json(),
    }
    for name, text in files.items():
      write_atomically(self.path / name, text.encode())

  @contextlib.contextmanager
  def locked(self) -> Iterator[None]:
    """Makes the folder and keeps other trainers out of it.

    Raises:
      InputError: another trainer is at work there.
      OSError: it cannot be written.
    """
    self.path.mkdir(parents=True, exist_ok=True)
    with (self.path / "lock").open("a+") as lock:
      try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except BlockingIOError as error:
        lock.seek(0)
        raise InputError(
          f"process {lock.read().strip()} trains in {self.path}: wait for it, "
          "or give another --run_dir"
        ) from error
      lock.truncate(0)
      lock.write(f"{os.getpid()}\n")
      lock.flush()
      yield

  def extend(
    self, experiment: Experiment, vocab: list[str], held_out: list[str]
  ) -> None:
    """Checks that a run goes on as it began; notes a larger `epochs`.

    Raises InputError: naming each field that differs.
    """
    mine = self.experiment()
    if differences := mine.differences(experiment):
      raise InputError(
        f"{self.path} holds another run: {', '.join(differences)}; give the "
        "same flags, or a new --run_dir"
      )
    for name, same in (
      ("vocabulary.json", self.vocabulary() == vocab),
      ("held_out.txt", self.held_out() == "\n".join(held_out)),
    ):
      if not same:
        raise InputError(
          f"{self.path / name} was changed since the run began: restore it, or "
          "give a new --run_dir"
        )
    if experiment.config.epochs > mine.config.epochs:
      write_atomically(self.path / "config.json", experiment.to_json().encode())

  def experiment(self) -> Experiment:
    """Reads `config.json`."""
    return self._parse("config.json", Experiment.from_json)

  def vocabulary(self) -> list[str]:
    """Reads `vocabulary.json`."""
    return self._parse("vocabulary.json", vocabulary_from_json)

  def held_out(self) -> str:
    """Reads `held_out.txt`."""
    return self._parse("held_out.txt", str)

  def log_start(self, record: dict[str, Any]) -> None:
    """Appends how and where this start runs to `starts.jsonl`."""
    with (self.path / "starts.jsonl").open("a", encoding="utf-8") as file:
      file.write(json.dumps(record) + "\n")

  def checkpoint(self, which: str) -> tuple[int, str]:
    """Finds a checkpoint: `latest`, `best` or a step.

    Returns its step, and its path as TensorFlow wants it.

    Raises InputError: there is no such checkpoint.
    """
    if not self.exists():
      raise InputError(
        f"{self.path} is not a run directory: train one, "
        f"for example with train.py --run_dir={self.path}"
      )
    folders = {"latest": self.path / "checkpoints", "best": self.path / "best"}
    found = {
      name: (step, folder)
      for known, folder in reversed(folders.items())
      for step in _steps(folder)
      for name in (str(step), known)
    }
    if which not in found:
      raise InputError(
        f"{self.path} has no checkpoint {which}; it has "
        f"{', '.join(sorted(found)) or 'none'}: give another --checkpoint"
      )
    step, folder = found[which]
    return step, str(folder / f"ckpt-{step}")

  def load_model(self, which: str) -> tuple[GRULM, int]:
    """Returns the model of a checkpoint, and its step.

    Raises InputError: no such checkpoint, or not one of this run's model.
    """
    step, path = self.checkpoint(which)
    config = self.experiment().config
    model = build_model(
      len(self.vocabulary()),
      config.embedding_dim,
      config.rnn_units,
      config.num_layers,
    )
    try:
      status = tf.train.Checkpoint(model=model).read(path)
      # The optimizer and the progress are not wanted here, all weights are.
      status.assert_existing_objects_matched().expect_partial()
    except _DAMAGE as error:
      raise InputError(
        f"the checkpoint {path} is damaged or does not fit config.json and "
        "vocabulary.json: give another --checkpoint"
      ) from error
    return model, step

  def _parse(self, name: str, parse: Any) -> Any:
    path = self.path / name
    try:
      return parse(path.read_bytes().decode())
    except ValueError as error:
      raise InputError(
        f"{path}: {error}: restore it, or give another --run_dir"
      ) from error


class Checkpoints:
  """Saves and restores everything that training needs to go on exactly."""

  def __init__(
    self, run: RunDir, max_to_keep: int, **objects: tf.Module
  ) -> None:
    """Takes the objects by their names in a checkpoint, `model` among them."""
    self._run = run
    self._last_step = -1  # of the newest checkpoint that is known to be whole
    self._checkpoint = tf.train.Checkpoint(**objects)
    self._recent = self._manager(run.path / "checkpoints", max_to_keep)
    self._best = self._manager(run.path / "best", 1)

  def restore_latest(self) -> int:
    """Restores the newest whole checkpoint; warns of damaged ones.

    Returns its step, 0 for a new run.

    Raises InputError: no checkpoint is whole, though the run has begun.
    """
    found = [
      (step, manager.directory)
      for manager in (self._best, self._recent)
      for step in _steps(pathlib.Path(manager.directory))
    ]
    for step, folder in sorted(found, reverse=True):
      path = os.path.join(folder, f"ckpt-{step}")
      try:
        self._checkpoint.restore(path).assert_consumed()
        if folder == self._recent.directory:
          self._last_step = step
        return step
      except _DAMAGE:
        print(f"skipped {path}: it is not whole", file=sys.stderr)
    metrics = self._run.path / "metrics.jsonl"
    if found or (metrics.exists() and metrics.stat().st_size):
      raise InputError(
        f"{self._run.path} has begun, but no checkpoint is whole: restore one, "
        "or give a new --run_dir"
      )
    return 0

  def save(self, step: int) -> bool:
    """Saves, unless this step is saved already; tells whether it is."""
    return step == self._last_step or self._save(self._recent, step)

  def save_best(self, step: int) -> bool:
    """Saves as the best one."""
    return self._save(self._best, step)

  def _save(self, manager: tf.train.CheckpointManager, step: int) -> bool:
    try:
      manager.save(checkpoint_number=step)
    except (OSError, tf.errors.OpError) as error:
      reason = f"step {step} is not saved ({type(error).__name__})"
      print(f"{reason}: make room in {manager.directory}", file=sys.stderr)
      return False
    if manager is self._recent:
      self._last_step = step
    return True

  def _manager(
    self, folder: pathlib.Path, max_to_keep: int
  ) -> tf.train.CheckpointManager:
    folder.mkdir(exist_ok=True)
    for left_over in folder.glob("ckpt-*_temp"):  # of a save that was killed
      shutil.rmtree(left_over)
    # The manager believes its state file, which can be missing, garbled or name
    # other folders' files: say afresh what is there.
    state_file = folder / "checkpoint"
    state_file.unlink(missing_ok=True)
    if names := [f'"ckpt-{step}"' for step in _steps(folder)]:
      state = [f"model_checkpoint_path: {names[-1]}\n"]
      state += [f"all_model_checkpoint_paths: {name}\n" for name in names]
      # Without times, which are not needed else, none would ever be deleted.
      state += ["all_model_checkpoint_timestamps: 1\n"] * len(names)
      write_atomically(state_file, "".join(state).encode())
    return tf.train.CheckpointManager(
      self._checkpoint, str(folder), max_to_keep, checkpoint_name="ckpt"
    )


class Metrics:
  """Writes each number to `metrics.jsonl` and to TensorBoard's summaries."""

  def __init__(self, run: RunDir, step: int) -> None:
    """Opens both at a step, cutting off what a lost continuation wrote."""
    self._path = run.path / "metrics.jsonl"
    self._summaries = run.path / "summaries"
    lines = self._path.read_bytes().splitlines() if self._path.exists() else []
    records = [
      r for line in lines if (r := _record(line)) and r["step"] <= step
    ]
    kept = "".join(json.dumps(record) + "\n" for record in records).encode()
    rewrite = kept != b"".join(line + b"\n" for line in lines)
    if rewrite:
      write_atomically(self._path, kept)
      shutil.rmtree(self._summaries, ignore_errors=True)
    self._writers = {
      split: tf.summary.create_file_writer(str(self._summaries / split))
      for split in ("train", "eval")
    }
    if rewrite:
      for record in records:
        self._summarize(record)
    self._file = self._path.open("a", encoding="utf-8")

  def write(self, step: int, split: str, values: dict[str, Any]) -> None:
    """Writes numbers, and texts such as samples, of `train` or `eval`."""
    record = {"step": step, "split": split, **values}
    # First the file from which the summaries can be rebuilt.
    self._file.write(json.dumps(record) + "\n")
    self._file.flush()
    self._summarize(record)

  def close(self) -> None:
    """Closes the files."""
    self._file.close()
    for writer in self._writers.values():
      writer.close()

  def _summarize(self, record: dict[str, Any]) -> None:
    values = dict(record)
    step, writer = values.pop("step"), self._writers[values.pop("split")]
    with writer.as_default(step):
      for name, value in values.items():
        if isinstance(value, str):
          # Indented, so that TensorBoard's Markdown keeps the lines.
          tf.summary.text(name, "    " + value.replace("\n", "\n    "))
        else:
          tf.summary.scalar(name, value)
      writer.flush()


def _record(line: bytes) -> dict[str, Any] | None:
  """Returns a line of `metrics.jsonl`; None for one that was cut off."""
  try:
    record = json.loads(line)
    if type(record["step"]) is int and record["split"] in ("train", "eval"):
      return record
  except (ValueError, TypeError, KeyError):
    pass
  return None


def _steps(folder: pathlib.Path) -> list[int]:
  """Lists the steps of a folder's complete checkpoints in order."""
  names = {path.name for path in folder.glob("ckpt-*")}
  steps = [int(m[1]) for name in names if (m := _CHECKPOINT.fullmatch(name))]
  return sorted(s for s in steps if f"ckpt-{s}.data-00000-of-00001" in names)
