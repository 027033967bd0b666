"""Trains a character-level language model; run again, it goes on."""

import dataclasses
import sys
from typing import Any

from absl import flags

from charlm.command import import_quietly, run_command, warn
from charlm.config import Config, InputError
from charlm.corpus import load_text, split_text
from charlm.machine import has_bfloat16
from charlm.vocabulary import NUM_SPECIAL, build_vocabulary, encode


def define_flags() -> flags.FlagValues:
  """Returns the flags: each field of Config, then where and how to train."""
  values = flags.FlagValues()
  define = {
    str: flags.DEFINE_string,
    bool: flags.DEFINE_bool,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
  }
  for field in dataclasses.fields(Config):
    define[field.type](
      field.name,
      field.default,
      field.metadata["help"],
      flag_values=values,
      module_name=field.metadata["group"],
    )
  run = {"flag_values": values, "module_name": "The run"}
  flags.DEFINE_string("run_dir", "runs/shakespeare", "folder of the run", **run)
  for name, default, least, text in (
    ("num_replicas", 0, 0, "GPUs or CPU devices; 0: all GPUs, else all cores"),
    ("eval_every_steps", 0, 0, "steps between evaluations; 0: an epoch"),
    ("checkpoint_every_steps", 0, 0, "steps between saves; 0: a quarter epoch"),
    ("summary_every_steps", 0, 0, "steps a reported mean spans; 0: 1/80 epoch"),
    ("max_to_keep", 3, 1, "how many of the latest checkpoints to keep"),
  ):
    flags.DEFINE_integer(name, default, text, lower_bound=least, **run)
  flags.DEFINE_enum(
    "gru",
    "auto",
    ["auto", "fused", "keras"],
    "the layer; auto is keras (cuDNN) on a GPU, else fused",
    **run,
  )
  flags.DEFINE_list(
    "profile_steps",
    [],
    "first,last: steps whose profile TensorBoard shows",
    **run,
  )
  flags.DEFINE_bool(
    "deterministic",
    False,
    "on GPUs, repeat results bit by bit, more slowly; CPUs do so always",
    **run,
  )
  flags.DEFINE_bool("help", False, "show this help", **run)
  return values


def config_of(args: Any) -> Config:
  """Returns the config that parsed flags describe."""
  names = [field.name for field in dataclasses.fields(Config)]
  return Config(**{name: getattr(args, name) for name in names})


def main(argv: list[str]) -> int:
  """Trains; returns the exit code."""
  return run_command(train, define_flags(), argv, __doc__)


def train(args: Any) -> int:
  """Trains by parsed flags; returns the exit code.

  Raises:
    InputError: bad input; no run was begun or changed then.
  """
  config = config_of(args)
  profile_steps = _steps(args.profile_steps)
  text = load_text(config.corpus, config.lowercase, config.raw)
  split = split_text(text, config)
  import_quietly("tensorflow", "keras")
  from charlm.dataset import build_batches
  from charlm.devices import create_strategy, make_deterministic
  from charlm.run_dir import RunDir, experiment_of
  from charlm.session import Session
  from charlm.training import build_trainer

  if args.deterministic:
    make_deterministic()
  if config.precision == "bfloat16" and not has_bfloat16():
    warn(
      "this processor has no instructions for bfloat16, which float32 may then "
      "outrun: see --precision"
    )
  strategy = create_strategy(args.num_replicas, config.batch_size)
  run = RunDir(args.run_dir)
  known = run.initial_vocabulary(config)
  vocab = build_vocabulary(text.split("\n"), known)
  initial = run.load_initial(config, len(vocab))
  train_ids, valid_ids, held_out_ids = (
    encode(part, vocab) for part in dataclasses.astuple(split)
  )
  batches = build_batches(train_ids, config)
  trainer = build_trainer(
    config, len(vocab), batches, strategy, args.gru, initial
  )
  experiment = experiment_of(config, text, vocab, split)
  with run.locked():
    if run.exists():
      run.extend(experiment)
    else:
      run.create(experiment, vocab, split)
    print(
      f"corpus   {config.corpus}: {len(train_ids):,} characters to train on, "
      f"{len(valid_ids):,} to choose by, {len(held_out_ids):,} held out, "
      f"vocabulary of {len(vocab)}"
    )
    if initial and len(known) > NUM_SPECIAL and (new := vocab[len(known) :]):
      print(f"new      {' '.join(map(repr, new))}: not in {config.init_from}")
    ids = (held_out_ids, valid_ids)
    return Session(args, run, trainer, vocab, *ids, profile_steps).run()


def _steps(words: list[str]) -> tuple[int, ...]:
  """Returns the steps to begin and to end a profile at, or none.

  Raises InputError: not two numbers that rise.
  """
  try:
    steps = tuple(map(int, words))
    if not words or (len(steps) == 2 and 0 < steps[0] < steps[1]):
      return steps
  except ValueError:
    pass
  raise InputError(
    f"profile_steps is {','.join(words)}: give two steps, such as 10,20"
  )


if __name__ == "__main__":
  sys.exit(main(sys.argv))
