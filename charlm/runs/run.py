"""A run, opened once: its config, vocabulary and texts, checked by hashes.

Nothing that is read from a run's folder is executed.
"""

import codecs
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
from typing import Literal, TextIO, TypedDict

from charlm.config import Config, without_layer_norm
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

# Incremented only when older folders become unreadable: a new field needs no
# new format, since it reads as its default where it is missing.
_FORMAT = 6
# The hash identifies a text, not the path: files may be moved. But whether a
# part has a file of its own decides the split.
_PATHS = ("corpus", "eval_corpus", "valid_corpus")
_SHA256_OF_TEXTS = ("corpus_sha256", "eval_sha256", "valid_sha256")
_SIZES_OF_PARTS = ("eval_lines", "eval_chars", "valid_lines", "valid_chars")
CHECKPOINT_SUFFIXES = (".index", ".data-00000-of-00001")
_CHECKPOINT = re.compile(r"ckpt-(0|[1-9]\d*)\.(index|data-00000-of-00001)")
_CHUNK = 2**20  # bytes
_MODELS = Path(__file__).parents[2] / "models"  # runs that come with charlm
_CHANGED = "it has changed since the run began"
_REMEDY = "restore it, or give another --run_dir"


class Start(TypedDict):
  """How and where a start ran: a line of `starts.jsonl`."""

  time: str  # in UTC, ISO 8601
  step: int  # that it continued from
  command: list[str]
  commit: str | None  # None: unknown
  versions: dict[str, str]  # by the name of a library, or python
  processor: str
  xla_flags: str | None
  devices: list[str]  # of one worker
  workers: int
  cores: int
  intra_op_threads: int  # 0: TensorFlow decides
  inter_op_threads: int
  # The models of the GPUs, as `gpu`, and versions by the name of a library.
  # Without a GPU it is empty.
  gpus: dict[str, str]


@dataclasses.dataclass(frozen=True)
class Experiment:
  """The identity of a run: a config, and the hashes of texts and vocabulary."""

  config: Config
  corpus_sha256: str  # of the cleaned text, in its encoding
  vocabulary_sha256: str
  eval_sha256: str
  valid_sha256: str  # of the empty text if there is no valid text

  def changes(self, other: "Experiment") -> list[str]:
    """Lists the fields in which a later start's experiment differs."""
    before, fields = self._fields(), other._fields()
    # At a constant learning rate, more epochs only extend the run; any other
    # schedule depends on the number of steps.
    ignored = {n for n in _PATHS if bool(before[n]) == bool(fields[n])}
    ignored.add("recipe")  # its settings are compared one by one
    # A run of an older commit has the name of its layer in lower case.
    if self.config.layer.lower() == other.config.layer.lower():
      ignored.add("layer")
    if all(before[n] == fields[n] for n in _SHA256):
      ignored.update(_SIZES_OF_PARTS)
    if self.config.schedule == "constant":
      ignored |= {"epochs", "max_steps"}
    now = {n: value for n, value in fields.items() if n not in ignored}
    found = differences(before, now)
    # Another number of eval lines, and whatever changes how a text is read,
    # changes hashes, too: they are named only if nothing else differs.
    others = [found[name] for name in found if name not in _SHA256]
    return others or list(found.values())

  @property
  def setting(self) -> tuple[tuple[str, object], ...]:
    """What runs that differ in the seed alone have in common."""
    fields = self._fields()
    # The hashes tell the parts apart.
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
    """Returns the experiment that `to_json` wrote, from its parsed JSON.

    Raises InputError: not what `to_json` writes; the message says why.
    """
    if not isinstance(fields, dict):
      raise InputError("not a JSON object")
    if fields.pop("format", None) != _FORMAT:
      raise InputError(f"written by another version (format is not {_FORMAT})")
    corpus, vocabulary, eval_text, valid_text = (
      _take_sha256(fields, name) for name in _SHA256
    )
    fields = without_layer_norm(fields)
    # A field that an older file lacks has its default.
    if unknown := sorted(fields.keys() - vars(Config()).keys()):
      raise InputError(f"field {unknown[0]} is unknown")
    return cls(
      config=Config(**fields),
      corpus_sha256=corpus,
      vocabulary_sha256=vocabulary,
      eval_sha256=eval_text,
      valid_sha256=valid_text,
    )

  def _fields(self) -> dict[str, object]:
    fields = dataclasses.asdict(self)
    return fields.pop("config") | fields


_SHA256 = [field.name for field in dataclasses.fields(Experiment)[1:]]


def _take_sha256(fields: dict[str, object], name: str) -> str:
  sha256 = fields.pop(name, None)
  if not isinstance(sha256, str) or len(sha256) != 64:
    raise InputError(f"field {name} is not a string of 64 characters")
  return sha256


def differences(
  one: Mapping[str, object],
  other: Mapping[str, object],
  words: tuple[str, str] = ("before", "now"),
) -> dict[str, str]:
  """Says, by name, how each field of `other` differs, if it does.

  Args:
    one: the fields to compare with; one that is missing reads as None.
    other: the fields that are compared.
    words: what follows the value of `one`, and that of `other`.
  """
  found = {}
  for name, value in other.items():
    if (before := one.get(name)) != value:
      found[name] = f"{name} ({before} {words[0]}, {value} {words[1]})"
  return found


class Run:
  """A run: its folder and lock, what identifies it, and its vocabulary."""

  def __init__(
    self,
    path: str | os.PathLike[str],
    experiment: Experiment,
    vocab: list[str],
  ) -> None:
    """Takes the folder, which a new run has yet to make.

    Raises InputError: no name, or one that TensorFlow takes for a pattern.
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
    """Reads `valid.txt`; the empty text in a run that has none.

    Raises InputError as `open_run` does.
    """
    if not self.has_valid_text:
      return encode_text([]).text
    digest = self.experiment.valid_sha256
    return _read_text(self.valid_path, self.config.encoding, digest)

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
    if not run_exists(self.path):
      self._refuse_other_files()
    # Not "w", which would empty the file of whoever holds the lock.
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
      if os.path.samestat(os.stat(self._lock_path), held):
        return
    raise LostRunError(
      f"{self.path} was moved, removed or replaced during this training: to "
      "resume, give the run's folder in its new place as --run_dir"
    )

  def create(self, split: Split) -> None:
    """Writes what defines the run.

    Raises:
      InputError: the folder has checkpoints already, or another run.
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
    # With these texts, scoring needs no corpus, and cannot use a wrong one.
    write_atomically(
      self.vocabulary_path, [vocabulary_to_json(self.vocab).encode()]
    )
    write_atomically(self.eval_path, split.eval.data())
    if len(split.valid):
      write_atomically(self.valid_path, split.valid.data())
    # Last: a run exists once this file is there, and is whole then.
    self._write_config()

  def resume(self, experiment: Experiment, steps_per_epoch: int) -> None:
    """Checks that the run goes on as it began; a longer one is saved as such.

    Raises InputError: naming each field, or the file, that differs.
    """
    if changes := self.experiment.changes(experiment):
      for name, flag in zip(_SHA256_OF_TEXTS, _PATHS, strict=True):
        now = getattr(experiment.config, flag)
        if now and changes[0].startswith(name):
          before = getattr(self.config, flag)
          differs = f"it is {before}, not {now}"
          if before == now:
            was, digest = (
              getattr(x, name) for x in (self.experiment, experiment)
            )
            differs = f"its SHA-256 was {was[:8]}, and is {digest[:8]} now"
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
    # These compare the files' hashes.
    self.eval_text()
    self.valid_text()
    num_steps = self.config.num_steps(steps_per_epoch)
    if experiment.config.num_steps(steps_per_epoch) > num_steps:
      self.experiment = experiment
      self._write_config()

  def starts(self) -> list[Start]:
    """Reads how and where each start ran, leaving out malformed lines."""
    starts: list[Start] = read_json_lines(self._starts_path)
    return starts

  def log_start(self, start: Start) -> None:
    """Appends how and where this start runs to `starts.jsonl`."""
    append_lines(self._starts_path, json.dumps(start).encode() + b"\n")

  def _write_config(self) -> None:
    write_atomically(self.config_path, [self.experiment.to_json().encode()])

  def _refuse_other_files(self) -> None:
    """Refuses to make a run where other files have a run's names.

    If there is a lock, the other files are those of a start that was killed
    before it wrote `config.json`.

    Raises InputError: naming the files.
    """
    if self._lock_path.exists():
      return
    own = [
      self.vocabulary_path,
      self.eval_path,
      self.valid_path,
      self.metrics_path,
    ]
    own += [self._starts_path, self.latest, self.best, self.summaries]
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
    if any(self.path.iterdir()):
      warn(f"{self.path} has other files: the run's are put beside them")


def run_folder(path: str | os.PathLike[str]) -> Path:
  """Returns the folder that `--run_dir` names.

  Raises InputError: no name, or one that TensorFlow takes for a pattern.
  """
  if not os.fspath(path):
    raise InputError("--run_dir is empty: give a folder")
  refuse_pattern(path)
  return Path(os.path.expanduser(path))


def is_model(path: Path) -> bool:
  """Tells whether a path is the name of a run in `models/`, and no folder."""
  return not path.exists() and run_exists(_MODELS / path)


def run_exists(path: Path) -> bool:
  """Tells whether a run was created in a folder."""
  return (path / "config.json").exists()


def open_run(path: str | os.PathLike[str]) -> Run:
  """Reads what defines the run in a folder, or the one that has this name.

  `english` is the name of a run that comes with charlm; a folder of this name
  comes before it.

  Raises InputError: not a run's folder, or a file is missing, damaged, or not
    the one that the run began with.
  """
  folder = run_folder(path)
  if is_model(folder):
    folder = _MODELS / folder
  folders = (folder / "checkpoints", folder / "best")
  if not run_exists(folder) and not any(map(checkpoint_steps, folders)):
    raise InputError(
      f"there is no run in {folder}: train one, for example with train.py "
      "--run_dir=runs/shakespeare, or give --run_dir=english"
    )
  with _named(folder / "config.json") as file:
    experiment = Experiment.from_json(json.loads(file.read_bytes()))
  with _named(folder / "vocabulary.json") as file:
    data = file.read_bytes()
    if sha256([data]) != experiment.vocabulary_sha256:
      raise ValueError(_CHANGED)
  return Run(folder, experiment, json.loads(data))


def open_newest_run(path: str) -> Run:
  """Opens a run or, of a folder of runs, the one saved last, and says which.

  Raises InputError: as `open_run`.
  """
  folder = run_folder(path)
  if not run_exists(folder):
    # Not all depths: the path may be a wrong one, such as /.
    saved = [
      *folder.glob("*/*/ckpt-*.index"),
      *folder.glob("*/*/*/ckpt-*.index"),
    ]
    if saved:
      newest = max(saved, key=lambda each: each.stat().st_mtime)
      folder = newest.parents[1]
      warn(f"takes the run that was saved last: --run_dir={folder}")
  return open_run(folder)


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


def _read_text(path: Path, encoding: str, digest: str) -> Text:
  """Reads a text of any size.

  Raises InputError: no such file, or one with another SHA-256.
  """
  with _named(path), path.open("rb") as file:
    chunks = iter(functools.partial(file.read, _CHUNK), b"")
    corpus = encode_text(codecs.iterdecode(chunks, encoding), encoding)
    if corpus.sha256 != digest:
      raise ValueError(_CHANGED)
  return corpus.text


@contextlib.contextmanager
def _named(path: Path) -> Iterator[Path]:
  """Names the file in errors, and a remedy."""
  try:
    yield path
  except FileNotFoundError as error:
    raise InputError(f"{path} is missing: {_REMEDY}") from error
  except ValueError as error:  # of JSON, too
    raise InputError(f"{path}: {error}: {_REMEDY}") from error
