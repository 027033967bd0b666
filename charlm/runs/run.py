"""A run, opened once: its config, vocabulary and texts, checked by hashes.

Nothing that is read from a run's folder is executed.
"""

import codecs
import contextlib
import dataclasses
import functools
import json
import os
from collections.abc import Iterator
from pathlib import Path

from charlm.config import Config
from charlm.data.corpus import Split
from charlm.data.text import Text, sha256
from charlm.data.text_to_ids import Corpus, encode_text
from charlm.data.vocabulary import vocabulary_to_json
from charlm.errors import InputError
from charlm.experiment import Experiment
from charlm.runs.run_dir import RunDir, checkpoint_steps
from charlm.system.files import write_atomically

_CHUNK = 2**20  # bytes
_CHANGED = "it has changed since the run began"
_REMEDY = "restore it, or give another --run_dir"


@dataclasses.dataclass(frozen=True)
class Run:
  """What defines a run, as it was when the run was opened."""

  dir: RunDir
  experiment: Experiment
  vocab: list[str]

  @property
  def config(self) -> Config:
    """The flags that define the run."""
    return self.experiment.config

  @property
  def has_valid_text(self) -> bool:
    """Whether a part of the text chooses the best checkpoint."""
    return self.experiment.valid_sha256 != sha256([])

  def eval_text(self) -> Text:
    """Reads `eval.txt`; raises InputError as `open_run` does."""
    digest = self.experiment.eval_sha256
    return _read_text(self.dir.eval_path, self.config.encoding, digest)

  def valid_text(self) -> Text:
    """Reads `valid.txt`; the empty text in a run that has none.

    Raises InputError as `open_run` does.
    """
    if not self.has_valid_text:
      return encode_text([]).text
    digest = self.experiment.valid_sha256
    return _read_text(self.dir.valid_path, self.config.encoding, digest)

  def which_checkpoint(self, name: str) -> str:
    """Returns what `auto` stands for: `best`, if a valid text chose it.

    Other names are returned as they are.
    """
    if name != "auto":
      return name
    has_best = self.has_valid_text and checkpoint_steps(self.dir.best)
    return "best" if has_best else "latest"

  def resume(self, experiment: Experiment, steps_per_epoch: int) -> "Run":
    """Checks that a run goes on as it began; saves the config of a longer one.

    Returns the run that goes on.

    Raises InputError: naming each field, or the file, that differs.
    """
    if changes := self.experiment.changes(experiment):
      raise InputError(
        f"{self.dir.path} holds another run: {', '.join(changes)}; leave out "
        "what differs, restore a text that has changed, or begin another run: "
        "give a new --run_dir"
      )
    # These compare the files' hashes.
    self.eval_text()
    self.valid_text()
    num_steps = self.config.num_steps(steps_per_epoch)
    if experiment.config.num_steps(steps_per_epoch) <= num_steps:
      return self
    write_atomically(self.dir.config_path, [experiment.to_json().encode()])
    return dataclasses.replace(self, experiment=experiment)


def open_run(path: str | os.PathLike[str]) -> Run:
  """Reads what defines the run in a folder.

  Raises InputError: not a run's folder, or a file is missing, damaged, or not
    the one that the run began with.
  """
  run_dir = RunDir(path)
  if not run_dir.exists() and not run_dir.checkpoint_steps():
    raise InputError(
      f"{run_dir.path} is not a run's folder: train a run there, "
      f"for example with train.py --run_dir={run_dir.path}"
    )
  with _named(run_dir.config_path):
    data = run_dir.config_path.read_bytes()
    experiment = Experiment.from_json(json.loads(data))
  with _named(run_dir.vocabulary_path):
    data = run_dir.vocabulary_path.read_bytes()
    if sha256([data]) != experiment.vocabulary_sha256:
      raise ValueError(_CHANGED)
  return Run(run_dir, experiment, json.loads(data))


def create_run(
  run_dir: RunDir, experiment: Experiment, vocab: list[str], split: Split
) -> Run:
  """Writes what defines a run.

  Raises:
    InputError: the folder has checkpoints already, or another run.
    OSError: it cannot be written.
  """
  if run_dir.exists():
    raise InputError(
      f"another run has begun in {run_dir.path}: run the same command again to "
      "resume it, or give another --run_dir"
    )
  if run_dir.checkpoint_steps():
    raise InputError(
      f"{run_dir.path} has checkpoints but no config.json: restore that file, "
      "or give a new --run_dir"
    )
  # With these texts, scoring needs no corpus, and cannot use a wrong one.
  write_atomically(
    run_dir.vocabulary_path, [vocabulary_to_json(vocab).encode()]
  )
  write_atomically(run_dir.eval_path, split.eval.data())
  if len(split.valid):
    write_atomically(run_dir.valid_path, split.valid.data())
  # Last: a run exists once this file is there, and is whole then.
  write_atomically(run_dir.config_path, [experiment.to_json().encode()])
  return Run(run_dir, experiment, vocab)


def experiment_of(
  config: Config, corpus: Corpus, vocab: list[str], split: Split
) -> Experiment:
  """Returns the identity of a run: a config, and hashes of its texts."""
  return Experiment(
    config=config,
    corpus_sha256=corpus.sha256,
    vocabulary_sha256=sha256([vocabulary_to_json(vocab).encode()]),
    eval_sha256=split.eval.sha256,
    valid_sha256=split.valid.sha256,
  )


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
def _named(path: Path) -> Iterator[None]:
  """Names the file in errors, and a remedy."""
  try:
    yield
  except FileNotFoundError as error:
    raise InputError(f"{path} is missing: {_REMEDY}") from error
  except ValueError as error:  # of JSON, too
    raise InputError(f"{path}: {error}: {_REMEDY}") from error
