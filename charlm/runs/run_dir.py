"""A run's folder: the names of its files, its lock, and its checks.

A run's folder may come from elsewhere: what is read from it is checked, nothing
of it is executed, and nothing outside of it is read or written.

config.json                                written before step 0, and again when
                                           the run is extended
vocabulary.json eval.txt                   written once, before step 0
valid.txt                                  likewise, if there is a valid text
checkpoints/ckpt-<step>.*                  the latest ones
best/ckpt-<step>.*                         the best by valid, else by eval loss
metrics.jsonl                              the metrics, one JSON object per line
summaries/train|eval                       these numbers for TensorBoard
summaries/outdated                         there while they are outdated
summaries/<name>                           scores of `eval.py --follow`
starts.jsonl                               how and where each start ran
lock                                       held by the process that trains
"""

import contextlib
import fcntl
import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from charlm.config import Config
from charlm.data.corpus import Split
from charlm.data.encoding import Corpus, encode_text
from charlm.data.text import Text, sha256
from charlm.data.vocabulary import vocabulary_from_json, vocabulary_to_json
from charlm.errors import InputError, LostRunError
from charlm.experiment import Experiment, Start
from charlm.options import PATH
from charlm.runs.checked_files import (
  checkpoint_steps,
  parse_file,
  read_text_file,
  refuse_foreign,
  refuse_links,
)
from charlm.system.files import append_lines, write_atomically

_LEFT_OVER = re.compile(  # of a write that was killed
  r"\.((config|vocabulary)\.json|(eval|valid)\.txt|metrics\.jsonl)\.\d+"
)


class RunDir:
  """A run's folder, opened for reading or, locked, for training."""

  def __init__(self, path: str | os.PathLike[str]) -> None:
    """Takes the folder, which need not exist.

    Raises InputError: no name, one that is not UTF-8, or a folder that holds
    something else in the place of one of a run's files or folders.
    """
    if not os.fspath(path):
      raise InputError("--run_dir is empty: give a folder")
    if not PATH.holds(os.fspath(path)):
      raise InputError(f"{os.fspath(path)!r} is no path in UTF-8: rename it")
    self.path = Path(path)
    self.latest = self.path / "checkpoints"
    self.best = self.path / "best"
    self.metrics = self.path / "metrics.jsonl"
    self.eval_path = self.path / "eval.txt"
    self.summaries = self.path / "summaries"
    # Exists while the summaries are to be made anew from the metrics.
    self.outdated = self.summaries / "outdated"
    self._config = self.path / "config.json"
    self._vocabulary = self.path / "vocabulary.json"
    self._valid = self.path / "valid.txt"
    self._starts = self.path / "starts.jsonl"
    self._lock = self.path / "lock"
    # Descriptors of the folder and its lock, kept open so that no other file
    # can get their inode numbers.
    self._held: dict[Path, int] = {}
    self._files = [self._config, self._vocabulary, self.eval_path, self._valid]
    self._files += [self.metrics, self._starts]
    within = ("", "train", "eval", "train/plugins", "train/plugins/profile")
    folders = [self.latest, self.best, *(self.summaries / x for x in within)]
    refuse_links([*self._files, self._lock], folders)

  def exists(self) -> bool:
    """Tells whether a run was created here."""
    return self._config.exists()

  def event_files(self, curve: str) -> list[Path]:
    """Lists TensorBoard's files of `train` or `eval`."""
    return list((self.summaries / curve).glob("events.out.*"))

  def outdate_summaries(self) -> None:
    """Notes that TensorBoard's files are to be made anew from the metrics."""
    self.check_owned()
    self.summaries.mkdir(exist_ok=True)
    self.outdated.touch()

  def checkpoint_steps(self) -> set[int]:
    """Returns the steps of the checkpoints that have both of their files."""
    return {*checkpoint_steps(self.latest), *checkpoint_steps(self.best)}

  def has_metrics(self) -> bool:
    """Tells whether the run has metrics."""
    return self.metrics.exists() and self.metrics.stat().st_size > 0

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
    self._write(self._vocabulary, [vocabulary_to_json(vocab).encode()])
    self._write(self.eval_path, split.eval.data())
    if len(split.valid):
      self._write(self._valid, split.valid.data())
    # The last one, so that a run that exists is a whole one.
    self._write(self._config, [experiment.to_json().encode()])

  @contextlib.contextmanager
  def locked(self) -> Iterator[None]:
    """Makes the folder and keeps others from training in it.

    Raises:
      InputError: another process is training there, or files there have a
        run's names but are not a run's.
      LostRunError: as `check_owned`.
      OSError: it cannot be written.
    """
    self.path.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
      if self.exists():
        self.experiment()  # raises if it is another program's
      else:
        own = [*self._files, self.latest, self.best, self.summaries]
        refuse_foreign(self._lock, own)
      folder = os.open(self.path, os.O_RDONLY)
      stack.callback(os.close, folder)
      # Not "w", which would empty the file of whoever holds the lock.
      lock = stack.enter_context(self._lock.open("a+"))
      # The system releases the lock when the process ends, however it ends.
      try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except BlockingIOError as error:
        lock.seek(0)
        raise InputError(
          f"process {lock.read().strip()} is training in {self.path}: wait for "
          "it, or give another --run_dir"
        ) from error
      self._held = {self.path: folder, self._lock: lock.fileno()}
      stack.callback(self._held.clear)
      self.check_owned()
      lock.truncate(0)
      lock.write(f"{os.getpid()}\n")
      lock.flush()
      for path in self.path.iterdir():
        if _LEFT_OVER.fullmatch(path.name):
          path.unlink()
      yield

  def check_owned(self) -> None:
    """Checks that the locked folder is in its place: call it before a write.

    Raises LostRunError: the folder or its lock is not the one that was locked.
    """
    for path, held in self._held.items():
      try:
        same = os.path.samestat(os.stat(path), os.fstat(held))
      except OSError as error:
        # No other error means that it is gone: the write will raise it, too.
        same = not isinstance(error, FileNotFoundError | NotADirectoryError)
      if not same:
        raise LostRunError(
          f"{path} was moved, removed or replaced during this training: to "
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
      # The summaries hold the old config, and TensorBoard shows the first that
      # it finds: they are made anew.
      self.outdate_summaries()
      self._write(self._config, [experiment.to_json().encode()])

  def experiment(self) -> Experiment:
    """Reads `config.json`.

    Raises InputError: not a run's folder, or damaged.
    """
    if not self.exists() and not self.checkpoint_steps():
      raise InputError(
        f"{self.path} is not a run's folder: train a run there, "
        f"for example with train.py --run_dir={self.path}"
      )
    return parse_file(self._config, Experiment.from_json)

  def vocabulary(self) -> list[str]:
    """Reads `vocabulary.json`; raises InputError as `experiment` does."""
    digest = self.experiment().vocabulary_sha256
    return parse_file(self._vocabulary, vocabulary_from_json, digest=digest)

  def eval_text(self) -> Text:
    """Reads `eval.txt`; raises InputError as `experiment` does."""
    own = self.experiment()
    return read_text_file(self.eval_path, own.config.encoding, own.eval_sha256)

  def valid_text(self) -> Text:
    """Reads `valid.txt`; the empty text in a run that has none.

    Raises InputError as `experiment` does.
    """
    mine = self.experiment()
    if mine.valid_sha256 == sha256([]):
      return encode_text([]).text
    return read_text_file(self._valid, mine.config.encoding, mine.valid_sha256)

  def last_start(self) -> Start | None:
    """Reads how and where the last start ran; None if that is unknown."""
    try:
      # It may be damaged: the start then warns of no difference.
      with self._starts.open("rb") as file:
        # At most as much as thousands of starts: a sparse file has any size.
        *_, line = file.read(2**25).splitlines()
      start = json.loads(line)
      return start if isinstance(start["versions"], dict) else None
    except (OSError, ValueError, TypeError, LookupError, RecursionError):
      return None

  def log_start(self, start: Start) -> None:
    """Appends how and where this start runs to `starts.jsonl`."""
    self.check_owned()
    append_lines(self._starts, json.dumps(start).encode() + b"\n")

  def find_checkpoint(self, which: str) -> tuple[int, str]:
    """Finds a checkpoint: `latest` (in `checkpoints/`), `best`, or a step.

    Returns its step, and its path without the suffixes of its files.

    Raises InputError: there is no such checkpoint.
    """
    # A later entry wins: of a step in both folders, the one in `checkpoints/`.
    # The weights are equal: only `Checkpoints.restore_latest`, for a resume,
    # needs the best loss, which the one in `best/` has.
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

  def _write(self, path: Path, chunks: Iterable[bytes]) -> None:
    self.check_owned()
    write_atomically(path, chunks)


def experiment_of(
  config: Config, corpus: Corpus, vocab: list[str], split: Split
) -> Experiment:
  """Returns the identity of a run: a config, and hashes of its texts."""
  vocabulary = [vocabulary_to_json(vocab).encode()]
  parts = (vocabulary, split.eval.data(), split.valid.data())
  return Experiment(config, corpus.sha256, *map(sha256, parts))
