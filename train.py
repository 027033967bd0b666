"""Trains a character-level language model; the same command resumes a run."""

import contextlib
import dataclasses
import functools
import sys
from typing import TYPE_CHECKING

import numpy as np

from charlm.config import Config
from charlm.data.corpus import (
  Split,
  count_shared_lines,
  load_corpus,
  split_text,
)
from charlm.data.encoding import Corpus
from charlm.data.text import Ids, sha256
from charlm.data.vocabulary import (
  NUM_SPECIAL,
  extend_vocabulary,
  unknown_characters,
)
from charlm.errors import InputError
from charlm.system.machine import has_bfloat16
from charlm.system.process import (
  flush_or_drop_output,
  import_quietly,
  run_command,
  say,
  warn,
)
from charlm.training.options import StartOptions

if TYPE_CHECKING:  # they import TensorFlow
  from charlm.model.language_model import GRULM
  from charlm.system.cluster import Cluster
  from charlm.training.trainer import Trainer
  from charlm.training.workers import Workers


@dataclasses.dataclass(frozen=True)
class TrainOptions(StartOptions, Config):
  """The flags: what defines the run, then where and how to train."""

  @property
  def config(self) -> Config:
    """What defines the run."""
    names = [field.name for field in dataclasses.fields(Config)]
    return Config(**{name: getattr(self, name) for name in names})


def main(argv: list[str]) -> int:
  """Trains; returns the exit code."""
  return run_command(train, TrainOptions, argv, __doc__)


def train(options: TrainOptions) -> int:
  """Trains as the flags say; returns the exit code.

  Raises:
    InputError: bad input, or a file of ids that changes during training.
    DivergedError: a loss or a gradient is not finite, or the replicas differ.
    LostRunError: the folder was taken away, or a worker was lost.
  """
  config = options.config
  load = functools.partial(
    load_corpus,
    config,
    folder=options.corpus_cache,
    verify=options.verify_corpus,
  )
  # Before the import of TensorFlow, so that a wrong path is reported at once.
  corpus = load(config.corpus)
  split = split_text(corpus.text, config, lambda spec: load(spec).text)
  import_quietly("tensorflow", "keras")
  from charlm.system.choices import kind_of_device, reason_for_one_replica
  from charlm.system.cluster import create_cluster
  from charlm.system.devices import choose_device, make_deterministic
  from charlm.training.workers import Workers, check_equal

  choose_device(options.device)
  if options.deterministic:
    make_deterministic()
  on_cpu = kind_of_device() == "CPU"
  if on_cpu and config.precision == "bfloat16" and not has_bfloat16():
    warn(
      "this processor has no bfloat16 instructions: --precision=float32 may be "
      "faster"
    )
  sizes = config.batch_size, config.rnn_units, config.precision
  default = 1 if reason_for_one_replica(*sizes) else 0  # 0: by the devices
  num_replicas = options.num_replicas or default
  cluster = create_cluster(
    num_replicas, config.batch_size, options.cluster_timeout
  )
  with cluster.watched():
    # Before a folder is made: workers must all train the same model.
    check_equal(cluster, options, corpus.sha256)
    work = _lead if cluster.is_chief else _follow
    exit_code = work(options, corpus, split, Workers(cluster))
  flush_or_drop_output()  # a full disk does not undo what is saved
  return exit_code


def _lead(
  options: TrainOptions, corpus: Corpus, split: Split, workers: "Workers"
) -> int:
  """Trains as the chief, or without others; returns the exit code."""
  from charlm.runs.loading import initial_vocabulary, load_initial
  from charlm.runs.run_dir import RunDir, experiment_of
  from charlm.training.start import start_run

  config = options.config
  with workers.chief_works():
    run = RunDir(options.run_dir)
    initial_vocab = initial_vocabulary(run, config)
    vocab = _extend(initial_vocab, config, corpus)
    initial = load_initial(run, config, len(vocab))
  # The other workers need no access to an initial run.
  workers.cluster.from_chief(vocab)
  trainer = _build_trainer(options, split, vocab, workers.cluster, initial)
  experiment = experiment_of(config, corpus, vocab, split)
  # Locking makes the folder: only now, so that a refused start leaves none.
  with contextlib.ExitStack() as stack:
    with workers.chief_works():
      stack.enter_context(run.locked())
      if run.exists():
        run.check_resume(experiment, trainer.batches.steps_per_epoch)
      else:
        _warn_of_files(config, split, vocab)
        run.create(experiment, vocab, split)
      say(_describe(config, corpus, split, vocab) + "\n")
      new = vocab[len(initial_vocab) :]
      # The vocabulary of an initial run comes first, and stays as it is.
      if initial and len(initial_vocab) > NUM_SPECIAL and new:
        words = " ".join(map(repr, new))
        say(f"new      {words}: not in {config.init_from}\n")
    return start_run(options, run, trainer, split, vocab, workers)


def _follow(
  options: TrainOptions, corpus: Corpus, split: Split, workers: "Workers"
) -> int:
  """Trains beside the chief, and writes nothing; returns its exit code."""
  from charlm.training.follower import Follower

  cluster = workers.cluster
  say(
    f"worker   index {cluster.index}, of {cluster.num_workers} workers; the "
    f"chief is {cluster.name(0)}\n"
  )
  workers.wait_for_chief()  # it looks for an initial vocabulary
  vocab = cluster.from_chief(None)
  trainer = _build_trainer(options, split, vocab, cluster)
  workers.wait_for_chief()  # it makes or checks the run's folder
  return Follower(options, trainer, workers).run()


def _build_trainer(
  options: TrainOptions,
  split: Split,
  vocab: list[str],
  cluster: "Cluster",
  initial: "GRULM | None" = None,
) -> "Trainer":
  from charlm.data.batches import build_batches
  from charlm.training.build import build_trainer

  config = options.config
  # Each worker reads and computes only its own rows.
  rows = cluster.rows(config.batch_size)
  batches = build_batches(Ids(split.train, vocab), config, rows)
  return build_trainer(
    config, len(vocab), batches, cluster.strategy, options.gru, initial
  )


def _extend(initial: list[str], config: Config, corpus: Corpus) -> list[str]:
  """Returns the vocabulary: an initial one, and what a corpus adds to it."""
  vocab = extend_vocabulary(initial, corpus.frequent(config.min_count))
  if len(vocab) == NUM_SPECIAL:
    raise InputError(
      f"min_count is {config.min_count}, more often than any character occurs: "
      "lower --min_count"
    )
  return vocab


def _describe(
  config: Config, corpus: Corpus, split: Split, vocab: list[str]
) -> str:
  """Describes the corpus, its parts, and the vocabulary."""
  lines = [
    f"corpus   {config.corpus}: {len(corpus.text):,} characters, "
    f"{corpus.num_bytes:,} bytes, SHA-256 {corpus.sha256}"
  ]
  for name, part in vars(split).items():
    line = f"{name:<8} {len(part):,} characters"
    # The SHA-256 of a huge train text would delay each start.
    if part is not split.train or isinstance(part.ids, np.ndarray):
      line += f", {part.num_bytes():,} bytes, SHA-256 {sha256(part.data())}"
    lines += [line] if len(part) else []
  counts = dict(zip(corpus.text.characters, corpus.counts, strict=True))
  rare = [counts[char] for char in counts.keys() - set(vocab)]
  words = (
    f"; {len(rare):,} rare characters ({sum(rare):,} occurrences) are read as "
    "[UNK]"
  )
  lines.append(f"vocab    {len(vocab):,} entries{words if rare else ''}")
  return "\n".join(lines)


def _warn_of_files(config: Config, split: Split, vocab: list[str]) -> None:
  """Warns of what is odd in files of valid and eval texts."""
  for name, part in (("valid", split.valid), ("eval", split.eval)):
    files = getattr(config, f"{name}_corpus")
    if files and (number := count_shared_lines(split.train, part)):
      warn(
        f"{number:,} distinct lines of {files} are in the train text, too: the "
        "score may be too good"
      )
    if files and (unknown := unknown_characters(part.characters, vocab)):
      words = " ".join(map(repr, unknown[:20]))
      warn(
        f"{len(unknown):,} distinct characters of {files} are read as [UNK], "
        f"first {words}"
      )


if __name__ == "__main__":
  sys.exit(main(sys.argv))
