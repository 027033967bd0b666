"""A start on the chief: makes or checks the run's folder, then trains."""

import contextlib

import numpy as np

from charlm.config import Config
from charlm.data.corpus import Split, count_shared_lines
from charlm.data.encoding import Corpus
from charlm.data.text import sha256
from charlm.data.vocabulary import (
  NUM_SPECIAL,
  extend_vocabulary,
  unknown_characters,
)
from charlm.errors import InputError
from charlm.runs.loading import initial_vocabulary, load_initial
from charlm.runs.run_dir import RunDir, experiment_of
from charlm.system.process import say, warn
from charlm.training.build import build_worker_trainer
from charlm.training.options import TrainOptions
from charlm.training.start import start_run
from charlm.training.workers import Workers


def lead(
  options: TrainOptions, corpus: Corpus, split: Split, workers: Workers
) -> int:
  """Trains as the chief, or without others; returns the exit code.

  Raises:
    InputError: bad input, changed ids of the corpus, or replicas whose sums are
      wrong.
    DivergedError: a loss or a gradient is not finite, or the replicas differ.
    LostRunError: the folder was taken away, or a worker was lost.
  """
  config = options.config
  with workers.chief_works():
    run = RunDir(options.run_dir)
    initial_vocab = initial_vocabulary(run, config)
    frequent = corpus.frequent(config.min_count)
    vocab = extend_vocabulary(initial_vocab, frequent)
    if len(vocab) == NUM_SPECIAL:
      raise InputError(
        f"min_count is {config.min_count}, more than any character's "
        "count: lower --min_count"
      )
    initial = load_initial(run, config, len(vocab))
  # The other workers need no access to an initial run.
  workers.cluster.from_chief(vocab)
  trainer = build_worker_trainer(
    options, split, vocab, workers.cluster, initial
  )
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
      new = unknown_characters(vocab, initial_vocab)
      # A file of weights has no vocabulary to compare with.
      if initial and len(initial_vocab) > NUM_SPECIAL and new:
        say(f"new      {new}: not in {config.init_from}\n")
    return start_run(options, run, trainer, split, vocab, workers)


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
  words = f"; rare, read as [UNK]: {len(rare):,} (occur {sum(rare):,} times)"
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
      warn(f"characters of {files} that are read as [UNK]: {unknown}")
