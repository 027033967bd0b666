"""A run's folder: the names of its files, its lock, and its checks.

What is read from it is checked by hashes, and nothing of it is executed.

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

import codecs
import contextlib
import fcntl
import functools
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO, TypeVar

from charlm.config import Config
from charlm.data.corpus import Split
from charlm.data.encoding import Corpus, encode_text
from charlm.data.text import Text, sha256
from charlm.data.vocabulary import vocabulary_from_json, vocabulary_to_json
from charlm.errors import InputError, LostRunError
from charlm.experiment import Experiment, Start
from charlm.system.files import (
  append_lines,
  read_json_lines,
  write_atomically,
)

_CHUNK = 2**20  # bytes
_CHECKPOINT = re.compile(r"ckpt-(0|[1-9]\d*)\.(index|data-00000-of-00001)")
_REMEDY = "restore it, or give another --run_dir"

_Parsed = TypeVar("_Parsed")


class RunDir:
  """A run's folder, opened for reading or, locked, for training."""

  def __init__(self, path: str | os.PathLike[str]) -> None:
    """Takes the folder, which need not exist.

    Raises InputError: no name.
    """
    if not os.fspath(path):
      raise InputError("--run_dir is empty: give a folder")
    self.path = Path(path)
    self.latest = self.path / "checkpoints"
    self.best = self.path / "best"
    self.metrics = self.path / "metrics.jsonl"
    self.eval_path = self.path / "eval.txt"
    self.summaries = self.path / "summaries"
    self._config = self.path / "config.json"
    self._vocabulary = self.path / "vocabulary.json"
    self._valid = self.path / "valid.txt"
    self._starts = self.path / "starts.jsonl"
    self._lock = self.path / "lock"
    self._held: TextIO | None = None  # the lock, while it is held

  def exists(self) -> bool:
    """Tells whether a run was created here."""
    return self._config.exists()

  def checkpoint_steps(self) -> set[int]:
    """Returns the steps of the checkpoints that have both of their files."""
    return {*checkpoint_steps(self.latest), *checkpoint_steps(self.best)}

  def create(
    self, experiment: Experiment, vocab: list[str], split: Split
  ) -> None:
    """Writes what defines a run.

    Raises:
      InputError: the folder has checkpoints already.
      OSError: it cannot be written.
    """
    if self.checkpoint_steps():
      raise InputError(
        f"{self.path} has checkpoints but no config.json: restore that file, "
        "or give a new --run_dir"
      )
    # With these texts, scoring needs no corpus, and cannot use a wrong one.
    write_atomically(self._vocabulary, [vocabulary_to_json(vocab).encode()])
    write_atomically(self.eval_path, split.eval.data())
    if len(split.valid):
      write_atomically(self._valid, split.valid.data())
    # The last one, so that a run that exists is a whole one.
    write_atomically(self._config, [experiment.to_json().encode()])

  @contextlib.contextmanager
  def locked(self) -> Iterator[None]:
    """Makes the folder and keeps others from training in it.

    Raises:
      InputError: another process is training there, or files there have a
        run's names but are not a run's.
      OSError: it cannot be written.
    """
    self.path.mkdir(parents=True, exist_ok=True)
    if self.exists():
      self.experiment()  # raises if it is another program's
    else:
      self._refuse_foreign()
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

  def check_resume(self, experiment: Experiment, steps_per_epoch: int) -> None:
    """Checks that a run goes on as it began; saves the config of a longer one.

    Raises InputError: naming each field, or the file, that differs.
    """
    mine = self.experiment()
    if changes := mine.changes(experiment):
      raise InputError(
        f"{self.path} holds another run: {', '.join(changes)}; give the "
        "same flags and the same corpus, or a new --run_dir"
      )
    # Each of them compares its file's hash.
    for read in (self.vocabulary, self.eval_text, self.valid_text):
      read()
    num_steps = mine.config.num_steps(steps_per_epoch)
    if experiment.config.num_steps(steps_per_epoch) > num_steps:
      write_atomically(self._config, [experiment.to_json().encode()])

  def experiment(self) -> Experiment:
    """Reads `config.json`.

    Raises InputError: not a run's folder, or damaged.
    """
    if not self.exists() and not self.checkpoint_steps():
      raise InputError(
        f"{self.path} is not a run's folder: train a run there, "
        f"for example with train.py --run_dir={self.path}"
      )
    return _parse_file(self._config, Experiment.from_json)

  def vocabulary(self) -> list[str]:
    """Reads `vocabulary.json`; raises InputError as `experiment` does."""
    digest = self.experiment().vocabulary_sha256
    return _parse_file(self._vocabulary, vocabulary_from_json, digest)

  def eval_text(self) -> Text:
    """Reads `eval.txt`; raises InputError as `experiment` does."""
    own = self.experiment()
    return _read_text(self.eval_path, own.config.encoding, own.eval_sha256)

  def valid_text(self) -> Text:
    """Reads `valid.txt`; the empty text in a run that has none.

    Raises InputError as `experiment` does.
    """
    mine = self.experiment()
    if mine.valid_sha256 == sha256([]):
      return encode_text([]).text
    return _read_text(self._valid, mine.config.encoding, mine.valid_sha256)

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

  def _refuse_foreign(self) -> None:
    """Refuses to make a run where other files have a run's names.

    A run that was killed before it had a config has left a lock, which holds
    the number of a process or nothing.

    Raises InputError: naming the files.
    """
    lock = self._lock
    if lock.exists() and re.fullmatch(rb"\d*\n?", lock.read_bytes()):
      return
    own = [self._vocabulary, self.eval_path, self._valid, self.metrics]
    own += [self._starts, self.latest, self.best, self.summaries, lock]
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


def _parse_file(
  path: Path, parse: Callable[[object], _Parsed], digest: str | None = None
) -> _Parsed:
  """Reads a file of JSON and returns what `parse` makes of its value.

  Args:
    path: the file.
    parse: raises ValueError for what it cannot read.
    digest: the SHA-256 that the file must have, if it is known.

  Raises InputError: no such file, or one with other content.
  """
  with _named(path):
    data = path.read_bytes()
    parsed = parse(json.loads(data))
    # After the parsing, whose message says more.
    if digest not in (None, sha256([data])):
      raise ValueError("it has changed since the run began")
  return parsed


def _read_text(path: Path, encoding: str, digest: str) -> Text:
  """Reads a text of any size.

  Raises InputError: no such file, or one with another SHA-256.
  """
  with _named(path), path.open("rb") as file:
    chunks = iter(functools.partial(file.read, _CHUNK), b"")
    corpus = encode_text(codecs.iterdecode(chunks, encoding), encoding)
    if corpus.sha256 != digest:
      raise ValueError("it has changed since the run began")
  return corpus.text


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
  """Names the file in errors, and a remedy."""
  try:
    yield
  except FileNotFoundError as error:
    raise InputError(f"{path} is missing: {_REMEDY}") from error
  except ValueError as error:  # of JSON, too
    raise InputError(f"{path}: {error}: {_REMEDY}") from error


def experiment_of(
  config: Config, corpus: Corpus, vocab: list[str], split: Split
) -> Experiment:
  """Returns the identity of a run: a config, and hashes of its texts."""
  vocabulary = [vocabulary_to_json(vocab).encode()]
  parts = (vocabulary, split.eval.data(), split.valid.data())
  return Experiment(config, corpus.sha256, *map(sha256, parts))
