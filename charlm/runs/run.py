"""A run's folder: its config, vocabulary and texts, verified by hashes.

Nothing in the folder is ever executed.
"""

import contextlib
import dataclasses
import fcntl
import functools
import json
import os
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal, NotRequired, TextIO, TypedDict

from charlm.config import Config, without_removed
from charlm.data.corpus import Corpus, encode_text
from charlm.data.split import Split
from charlm.data.text import Text, sha256
from charlm.data.vocabulary import vocabulary_to_json
from charlm.errors import InputError, LostRunError
from charlm.system.files import (
  append_lines,
  read_json_lines,
  refuse_pattern,
  write_atomically,
)
from charlm.system.messages import warn

# Incremented only when older folders become unreadable. A new field needs no
# new format: where it is missing, it has its default.
_FORMAT = 6
# A text is identified by its hash, not by its path, since files may be moved.
# But the split depends on whether a part has a file of its own.
_PATHS = ("corpus", "eval_corpus", "valid_corpus")
_SHA256_OF_TEXTS = ("corpus_sha256", "eval_sha256", "valid_sha256")
_SIZES_OF_PARTS = ("eval_lines", "eval_chars", "valid_lines", "valid_chars")
CHECKPOINT_SUFFIXES = (".index", ".data-00000-of-00001")
_CHECKPOINT = re.compile(r"ckpt-(0|[1-9]\d*)\.(index|data-00000-of-00001)")
_CHUNK = 2**20  # characters
_MODELS = Path(__file__).parents[2] / "models"  # runs shipped with charlm
_CHANGED = "it has changed since the run began"
_REMEDY = "restore it, or give another --run_dir"


class Start(TypedDict):
  """How and where a start ran: a line of `starts.jsonl`."""

  time: str  # in UTC, ISO 8601
  step: int  # where it resumed
  command: list[str]
  commit: str | None  # None: unknown
  versions: dict[str, str]  # by library, and of python
  processor: str
  xla_flags: str | None
  devices: list[str]  # of one worker
  workers: int
  cores: int
  intra_op_threads: int  # 0: TensorFlow decides
  inter_op_threads: int
  # The GPU models as `gpu`, and versions by library. Empty without a GPU.
  gpus: dict[str, str]
  # Older commits do not write these two.
  num_weights: NotRequired[int]
  last_step: NotRequired[int]  # where the training will end


@dataclasses.dataclass(frozen=True)
class Experiment:
  """The identity of a run: a config, and the hashes of texts and vocabulary."""

  config: Config
  corpus_sha256: str  # of the cleaned text as encoded bytes
  vocabulary_sha256: str
  eval_sha256: str
  valid_sha256: str  # of no bytes if there is no valid text

  def changes(self, other: "Experiment") -> list[str]:
    """Lists the fields that a later start has changed."""
    before, fields = self._fields(), other._fields()
    # At a constant learning rate, more epochs only extend the run; any other
    # schedule depends on the number of steps.
    ignored = {n for n in _PATHS if bool(before[n]) == bool(fields[n])}
    ignored.add("recipe")  # its settings are compared one by one
    # Older commits wrote the layer's name in lower case.
    if self.config.layer.lower() == other.config.layer.lower():
      ignored.add("layer")
    if all(before[n] == fields[n] for n in _SHA256):
      ignored.update(_SIZES_OF_PARTS)
    if self.config.schedule == "constant":
      ignored |= {"epochs", "max_steps"}
    now = {n: value for n, value in fields.items() if n not in ignored}
    changed = differences(before, now)
    # Another number of eval lines, or another way to read the text, changes the
    # hashes, too. So hashes are named only if nothing else differs.
    others = [changed[name] for name in changed if name not in _SHA256]
    return others or list(changed.values())

  @property
  def setting(self) -> tuple[tuple[str, object], ...]:
    """All that runs share if they differ only in the seed."""
    fields = self._fields()
    # The hashes identify the parts already.
    for name in ("seed", "recipe", *_SIZES_OF_PARTS):
      del fields[name]
    fields |= {name: bool(fields[name]) for name in _PATHS}
    return tuple(fields.items())

  @classmethod
  def of(
    cls, config: Config, corpus: Corpus, vocab: list[str], split: Split
  ) -> "Experiment":
    """Returns the identity of a run with these texts."""
    return cls(
      config=config,
      corpus_sha256=corpus.sha256,
      vocabulary_sha256=sha256([vocabulary_to_json(vocab).encode()]),
      eval_sha256=split.eval.sha256,
      valid_sha256=split.valid.sha256,
    )

  def to_json(self) -> str:
    """Returns the text of `config.json`."""
    return json.dumps({"format": _FORMAT} | self._fields(), indent=2) + "\n"

  @classmethod
  def from_json(cls, fields: object) -> "Experiment":
    """Rebuilds an experiment from the parsed JSON of `to_json`.

    Raises InputError: `to_json` never writes this; the message says why.
    """
    if not isinstance(fields, dict) or fields.pop("format", None) != _FORMAT:
      raise InputError(f"not a run's, or of another format than {_FORMAT}")
    hashes = {name: fields.pop(name, "") for name in _SHA256}
    fields = without_removed(fields)
    # Fields that an older file lacks have their defaults.
    if unknown := sorted(fields.keys() - vars(Config()).keys()):
      raise InputError(f"field {unknown[0]} is unknown")
    return cls(config=Config(**fields), **hashes)

  def _fields(self) -> dict[str, object]:
    fields = dataclasses.asdict(self)
    return fields.pop("config") | fields


_SHA256 = [field.name for field in dataclasses.fields(Experiment)[1:]]


def differences(
  before: Mapping[str, object], now: Mapping[str, object]
) -> dict[str, str]:
  """Describes, by name, each field of `now` that differs from `before`.

  Fields that are missing before count as None; those missing now are ignored.
  """
  return {
    name: f"{name} ({before.get(name)} before, {value} now)"
    for name, value in now.items()
    if before.get(name) != value
  }


class Run:
  """A run: its folder, its lock, its experiment, and its vocabulary."""

  def __init__(
    self,
    path: str | os.PathLike[str],
    experiment: Experiment,
    vocab: list[str],
  ) -> None:
    """Takes the folder, which need not exist yet.

    Raises InputError: no name, or one that TensorFlow reads as a pattern.
    """
    self.path = run_folder(path)
    self.experiment, self.vocab = experiment, vocab
    self.latest = self.path / "checkpoints"
    self.best = self.path / "best"
    self.metrics_path = self.path / "metrics.jsonl"
    self.config_path = self.path / "config.json"
    self.vocabulary_path = self.path / "vocabulary.json"
    self.eval_path = self.path / "eval.txt"
    self.valid_path = self.path / "valid.txt"
    self.summaries = self.path / "summaries"
    self._starts_path = self.path / "starts.jsonl"
    self._lock_path = self.path / "lock"
    self._held: TextIO | None = None  # the lock, while it is held

  @property
  def config(self) -> Config:
    """The flags that define the run."""
    return self.experiment.config

  @property
  def has_valid_text(self) -> bool:
    """Whether a part of the text chooses the best checkpoint."""
    return self.experiment.valid_sha256 != sha256([])

  @property
  def choosing_part(self) -> Literal["valid", "eval"]:
    """The part of the text that chooses the best checkpoint."""
    return "valid" if self.has_valid_text else "eval"

  def eval_text(self) -> Text:
    """Reads `eval.txt`; raises InputError as `open_run` does."""
    digest = self.experiment.eval_sha256
    return _read_text(self.eval_path, self.config.encoding, digest)

  def valid_text(self) -> Text:
    """Reads `valid.txt`; returns an empty text if the run has none.

    Raises InputError as `open_run` does.
    """
    if not self.has_valid_text:
      return encode_text([]).text
    digest = self.experiment.valid_sha256
    return _read_text(self.valid_path, self.config.encoding, digest)

  def checkpoint_steps(self) -> set[int]:
    """Returns the steps of all checkpoints that have both of their files."""
    return {*checkpoint_steps(self.latest), *checkpoint_steps(self.best)}

  @contextlib.contextmanager
  def locked(self) -> Iterator[None]:
    """Creates the folder and locks it against other training processes.

    Raises:
      InputError: another process is training there, or the folder has files
        but no run.
      OSError: the folder cannot be written.
    """
    self.path.mkdir(parents=True, exist_ok=True)
    # A start that was killed before it wrote `config.json` leaves its lock.
    begun = run_exists(self.path) or self._lock_path.exists()
    if not begun and (other := next(self.path.iterdir(), None)):
      raise InputError(
        f"{self.path} holds no run, but other files, such as {other.name}: "
        "give a new folder as --run_dir"
      )
    # Not "w", which would empty the file while another process holds the lock.
    with self._lock_path.open("a+") as lock:
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
    """Checks that a lock we hold is still in place: call it before a write.

    Raises:
      LostRunError: the folder was moved or removed, or has another run now.
      OSError: the folder cannot be accessed.
    """
    if self._held is None:
      return
    with contextlib.suppress(FileNotFoundError):
      # While the file is open, no other file can get its inode number.
      held = os.fstat(self._held.fileno())
      if os.path.samestat(os.stat(self._lock_path), held):
        return
    raise LostRunError(
      f"{self.path} was moved, removed or replaced during this training: to "
      "resume, give the run's folder in its new place as --run_dir"
    )

  def create(self, split: Split) -> None:
    """Writes the files that define the run: vocabulary, texts and config.

    Raises:
      InputError: the folder already has checkpoints or another run.
      OSError: it cannot be written.
    """
    if run_exists(self.path):
      raise InputError(
        f"another run has begun in {self.path}: run the same command again to "
        "resume it, or give another --run_dir"
      )
    if self.checkpoint_steps():
      raise InputError(
        f"{self.path} has checkpoints but no config.json: restore that file, "
        "or give a new --run_dir"
      )
    # With its own texts, scoring needs no corpus, so it cannot use a wrong one.
    write_atomically(
      self.vocabulary_path, [vocabulary_to_json(self.vocab).encode()]
    )
    write_atomically(self.eval_path, split.eval.data())
    if len(split.valid):
      write_atomically(self.valid_path, split.valid.data())
    # Last, since this file makes the folder a run: then all others are there.
    self._write_config()

  def resume(self, experiment: Experiment, steps_per_epoch: int) -> None:
    """Checks that nothing has changed; saves the new length if it is longer.

    Raises InputError: the message names the fields or the file that differ.
    """
    if changes := self.experiment.changes(experiment):
      for name, flag in zip(_SHA256_OF_TEXTS, _PATHS, strict=True):
        now = getattr(experiment.config, flag)
        if now and changes[0].startswith(name):
          before = getattr(self.config, flag)
          differs = "it has changed"
          if before != now:
            differs = f"it is {before}, not {now}"
          kind = f"{flag.removesuffix('corpus').replace('_', ' ')}text"
          raise InputError(
            f"this {kind} is not the {kind} of the run in {self.path} "
            f"({differs}): give that {kind}, or begin a new run, train.py "
            f"{shlex.join([f'--{flag}={now}'])} --run_dir=another/folder"
          )
      raise InputError(
        f"{self.path} holds another run: {', '.join(changes)}; leave out "
        "what differs, or begin another run: give a new --run_dir"
      )
    # Reading verifies the files' hashes.
    self.eval_text()
    self.valid_text()
    num_steps = self.config.num_steps(steps_per_epoch)
    if experiment.config.num_steps(steps_per_epoch) > num_steps:
      self.experiment = experiment
      self._write_config()

  def starts(self) -> list[Start]:
    """Reads `starts.jsonl`; skips malformed lines."""
    starts: list[Start] = read_json_lines(self._starts_path)
    return starts

  def log_start(self, start: Start) -> None:
    """Appends this start to `starts.jsonl`."""
    append_lines(self._starts_path, json.dumps(start).encode() + b"\n")

  def _write_config(self) -> None:
    write_atomically(self.config_path, [self.experiment.to_json().encode()])


def run_folder(path: str | os.PathLike[str]) -> Path:
  """Returns the folder that `--run_dir` names.

  Raises InputError: no name, or one that TensorFlow reads as a pattern.
  """
  if not os.fspath(path):
    raise InputError("--run_dir is empty: give a folder")
  refuse_pattern(path)
  return Path(os.path.expanduser(path))


def is_model(path: Path) -> bool:
  """Returns whether a path names a run in `models/` and does not exist."""
  return not path.exists() and (_MODELS / path).is_dir()


def run_exists(path: Path) -> bool:
  """Returns whether a folder has a run."""
  return (path / "config.json").exists()


def open_run(path: str | os.PathLike[str]) -> Run:
  """Opens the run in a folder, or a run that is shipped with charlm by name.

  `english` is such a name; a folder with the same name takes precedence.

  Raises InputError: not a run's folder, or a file is missing, damaged, or
    changed since the run began.
  """
  folder = run_folder(path)
  if is_model(folder):
    folder = _MODELS / folder
  if not run_exists(folder):
    raise InputError(
      f"there is no run in {folder}, which has no config.json: train one, for "
      "example with train.py --run_dir=runs/shakespeare, or give "
      "--run_dir=english"
    )
  with _named(folder / "config.json") as file:
    experiment = Experiment.from_json(json.loads(file.read_bytes()))
  with _named(folder / "vocabulary.json") as file:
    data = file.read_bytes()
    if sha256([data]) != experiment.vocabulary_sha256:
      raise ValueError(_CHANGED)
  return Run(folder, experiment, json.loads(data))


def open_newest_run(path: str) -> Run:
  """Opens a run or, in a folder of runs, the one saved last; warns which.

  Raises InputError: as `open_run`.
  """
  folder = run_folder(path)
  if not run_exists(folder):
    # Not at all depths: the path may be a mistake, such as /.
    saved = [
      *folder.glob("*/*/ckpt-*.index"),
      *folder.glob("*/*/*/ckpt-*.index"),
    ]
    if saved:
      newest = max(saved, key=lambda index: index.stat().st_mtime)
      folder = newest.parents[1]
      warn(f"takes the run that was saved last: --run_dir={folder}")
  return open_run(folder)


def checkpoint_steps(folder: Path, whole: bool = True) -> list[int]:
  """Lists the steps of a folder's checkpoints in order.

  If `whole` is false, includes checkpoints that lack one of their files.
  """
  # Not `glob`, which treats an unreadable folder as empty.
  try:
    matches = map(_CHECKPOINT.fullmatch, os.listdir(folder))
  except FileNotFoundError:
    return []
  steps = [int(match[1]) for match in matches if match]
  return sorted({s for s in steps if steps.count(s) == 2 or not whole})


def _read_text(path: Path, encoding: str, digest: str) -> Text:
  """Reads a text of any size in chunks.

  Raises InputError: the file is missing, or has another SHA-256.
  """
  with _named(path), path.open(encoding=encoding, newline="") as file:
    chunks = iter(functools.partial(file.read, _CHUNK), "")
    corpus = encode_text(chunks, encoding)
    if corpus.sha256 != digest:
      raise ValueError(_CHANGED)
  return corpus.text


@contextlib.contextmanager
def _named(path: Path) -> Iterator[Path]:
  """Adds the file's name and a remedy to errors of the body."""
  try:
    yield path
  except FileNotFoundError as error:
    raise InputError(f"{path} is missing: {_REMEDY}") from error
  except ValueError as error:  # includes JSON's errors
    raise InputError(f"{path}: {error}: {_REMEDY}") from error
