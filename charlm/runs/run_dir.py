"""A run's folder: the names of its files, its checkpoints, and its lock.

config.json                                written before step 0, and again when
                                           the run is extended
vocabulary.json eval.txt                   written once, before step 0
valid.txt                                  likewise, if there is a valid text
checkpoints/ckpt-<step>.*                  the latest ones
best/ckpt-<step>.*                         the best by valid, else by eval loss
metrics.jsonl                              the metrics, one JSON object per line
summaries/train|eval                       these numbers for TensorBoard, made
                                           anew from them at each start
summaries/<name>                           scores of `eval.py --follow`
starts.jsonl                               how and where each start ran
lock                                       held by the process that trains
"""

import contextlib
import fcntl
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from charlm.errors import InputError, LostRunError
from charlm.experiment import Start
from charlm.system.files import append_lines, read_json_lines, refuse_pattern

_CHECKPOINT = re.compile(r"ckpt-(0|[1-9]\d*)\.(index|data-00000-of-00001)")


class RunDir:
  """A run's folder, which is read or, locked, trained in."""

  def __init__(self, path: str | os.PathLike[str]) -> None:
    """Takes the folder, which need not exist.

    Raises InputError: no name, or one that TensorFlow takes for a pattern.
    """
    if not os.fspath(path):
      raise InputError("--run_dir is empty: give a folder")
    refuse_pattern(path)
    self.path = Path(os.path.expanduser(path))
    self.latest = self.path / "checkpoints"
    self.best = self.path / "best"
    self.metrics = self.path / "metrics.jsonl"
    self.config_path = self.path / "config.json"
    self.vocabulary_path = self.path / "vocabulary.json"
    self.eval_path = self.path / "eval.txt"
    self.valid_path = self.path / "valid.txt"
    self.summaries = self.path / "summaries"
    self._starts = self.path / "starts.jsonl"
    self._lock = self.path / "lock"
    self._held: TextIO | None = None  # the lock, while it is held

  def exists(self) -> bool:
    """Tells whether a run was created here."""
    return self.config_path.exists()

  def checkpoint_steps(self) -> set[int]:
    """Returns the steps of the checkpoints that have both of their files."""
    return {*checkpoint_steps(self.latest), *checkpoint_steps(self.best)}

  @contextlib.contextmanager
  def locked(self) -> Iterator[None]:
    """Makes the folder and keeps others from training in it.

    Raises:
      InputError: another process is training there, or there is no run but
        files with the names of a run's.
      OSError: it cannot be written.
    """
    self.path.mkdir(parents=True, exist_ok=True)
    if not self.exists():
      self._refuse_other_files()
    # Not "w", which would empty the file of whoever holds the lock.
    with self._lock.open("a+") as lock:
      # The system releases the lock when the process ends, however it ends.
      try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except BlockingIOError as error:
        lock.seek(0)
        raise InputError(
          f"process {lock.read().strip()} is training in {self.path}: wait for "
          "it, or give another --run_dir"
        ) from error
      lock.truncate(0)
      lock.write(f"{os.getpid()}\n")
      lock.flush()
      self._held = lock
      try:
        yield
      finally:
        self._held = None

  def check_owned(self) -> None:
    """Checks that the lock, if held, is in its place: call it before a write.

    Raises:
      LostRunError: the folder was taken away, or another run began in it.
      OSError: the folder cannot be looked at.
    """
    if self._held is None:
      return
    with contextlib.suppress(FileNotFoundError):
      # As long as it is open, no other file gets its inode's number.
      held = os.fstat(self._held.fileno())
      if os.path.samestat(os.stat(self._lock), held):
        return
    raise LostRunError(
      f"{self.path} was moved, removed or replaced during this training: to "
      "resume, give the run's folder in its new place as --run_dir"
    )

  def starts(self) -> list[Start]:
    """Reads how and where each start ran, leaving out malformed lines."""
    starts: list[Start] = read_json_lines(self._starts)
    return starts

  def log_start(self, start: Start) -> None:
    """Appends how and where this start runs to `starts.jsonl`."""
    append_lines(self._starts, json.dumps(start).encode() + b"\n")

  def find_checkpoint(self, which: str) -> tuple[int, str]:
    """Finds a checkpoint: `latest` (in `checkpoints/`), `best`, or a step.

    Returns its step, and its path without the suffixes of its files.

    Raises InputError: there is no such checkpoint.
    """
    # A later entry wins: of a step in both folders, the one in `checkpoints/`.
    # The weights are equal.
    found = {
      name: (step, folder)
      for word, folder in (("best", self.best), ("latest", self.latest))
      for step in checkpoint_steps(folder)
      for name in (str(step), word)
    }
    if which not in found:
      raise InputError(
        f"{self.path} has no checkpoint {which}; it has "
        f"{', '.join(sorted(found)) or 'none'}: give another checkpoint or run"
      )
    step, folder = found[which]
    return step, str(folder / f"ckpt-{step}")

  def _refuse_other_files(self) -> None:
    """Refuses to make a run where other files have a run's names.

    If there is a lock, the other files are those of a start that was killed
    before it wrote `config.json`.

    Raises InputError: naming the files.
    """
    if self._lock.exists():
      return
    own = [self.vocabulary_path, self.eval_path, self.valid_path, self.metrics]
    own += [self._starts, self.latest, self.best, self.summaries]
    # An empty folder is no file of somebody's: it may have been made, or
    # mounted, for this run.
    there = [
      path.name
      for path in own
      if (any(path.iterdir()) if path.is_dir() else path.exists())
    ]
    if there:
      raise InputError(
        f"{self.path} is not a run's folder, but holds {', '.join(there)}, "
        "which a run would replace: give another --run_dir"
      )


def checkpoint_steps(folder: Path, whole: bool = True) -> list[int]:
  """Lists the steps of a folder's checkpoints in order.

  Those with a missing file are listed unless they must be whole.
  """
  # Not `glob`, which takes a folder that cannot be read for an empty one.
  try:
    matches = map(_CHECKPOINT.fullmatch, os.listdir(folder))
  except FileNotFoundError:
    return []
  steps = [int(match[1]) for match in matches if match]
  return sorted({s for s in steps if steps.count(s) == 2 or not whole})
