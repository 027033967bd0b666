"""Trains a character-level language model; the same command resumes a run."""

import dataclasses
import sys

from charlm.config import Config
from charlm.data.corpus import load_text, split_text
from charlm.data.vocabulary import NUM_SPECIAL, build_vocabulary, encode
from charlm.system.machine import has_bfloat16
from charlm.system.process import import_quietly, run_command, warn
from charlm.training.options import StartOptions


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
    InputError: bad input; no step was taken.
  """
  config = options.config
  text = load_text(config.corpus, config.lowercase, config.raw)
  split = split_text(text, config)
  import_quietly("tensorflow", "keras")
  from charlm.data.batches import build_batches
  from charlm.runs.loading import initial_vocabulary, load_initial
  from charlm.runs.run_dir import RunDir, experiment_of
  from charlm.system.devices import create_strategy, make_deterministic
  from charlm.training.session import HeldOutTexts
  from charlm.training.start import start_run
  from charlm.training.trainer import build_trainer

  if options.deterministic:
    make_deterministic()
  if config.precision == "bfloat16" and not has_bfloat16():
    warn(
      "this processor has no bfloat16 instructions: --precision=float32 may be "
      "faster"
    )
  strategy = create_strategy(options.num_replicas, config.batch_size)
  run = RunDir(options.run_dir)
  initial_vocab = initial_vocabulary(run, config)
  vocab = build_vocabulary(text.split("\n"), initial_vocab)
  initial = load_initial(run, config, len(vocab))
  train_ids, valid_ids, eval_ids = (
    encode(part, vocab) for part in dataclasses.astuple(split)
  )
  batches = build_batches(train_ids, config)
  trainer = build_trainer(
    config, len(vocab), batches, strategy, options.gru, initial
  )
  experiment = experiment_of(config, text, vocab, split)
  with run.locked():
    if run.exists():
      run.check_resume(experiment)
    else:
      run.create(experiment, vocab, split)
    print(
      f"corpus   {config.corpus}: {len(train_ids):,} train characters, "
      f"{len(valid_ids):,} valid, {len(eval_ids):,} eval, "
      f"vocabulary of {len(vocab)}"
    )
    new = vocab[len(initial_vocab) :]
    if initial and len(initial_vocab) > NUM_SPECIAL and new:
      print(f"new      {' '.join(map(repr, new))}: not in {config.init_from}")
    texts = HeldOutTexts(vocab, eval_ids, valid_ids)
    return start_run(options, config.epochs, run, trainer, texts)


if __name__ == "__main__":
  sys.exit(main(sys.argv))
