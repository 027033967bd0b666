"""Writes text with a trained model."""

import math
import sys
from typing import Any

from absl import flags

from charlm.command import import_quietly, run_command
from charlm.config import InputError
from charlm.vocabulary import unknown_characters

SEPARATOR = "-" * 20


def define_flags() -> flags.FlagValues:
  """Returns the flags."""
  values = flags.FlagValues()
  for name, default, text in (
    ("run_dir", "runs/shakespeare", "folder of the run"),
    ("checkpoint", "latest", "latest, best or a step"),
    ("prefix", "", "what the text starts with; else it starts a line"),
  ):
    flags.DEFINE_string(name, default, text, flag_values=values)
  for name, default, least, most, text in (
    ("num_chars", 1000, 1, 10**8, "characters after the prefix"),
    ("num_samples", 1, 1, 10**6, "texts; each is the same however many"),
    ("seed", 0, 0, 2**64 - 1, "the same seed gives the same text"),
  ):
    flags.DEFINE_integer(
      name,
      default,
      text,
      lower_bound=least,
      upper_bound=most,
      flag_values=values,
    )
  flags.DEFINE_float(
    "temperature", 1.0, "0 is greedy; higher is wilder", flag_values=values
  )
  flags.DEFINE_bool("help", False, "show this help", flag_values=values)
  return values


def main(argv: list[str]) -> int:
  """Samples; returns the exit code."""
  return run_command(sample, define_flags(), argv, __doc__)


def sample(args: Any) -> int:
  """Samples by parsed flags; returns the exit code.

  Raises:
    InputError: bad input.
  """
  if not 0 <= args.temperature < math.inf:
    raise InputError(
      f"temperature is {args.temperature}: give 0 (greedy) or a positive number"
    )
  if args.prefix != args.prefix.encode(errors="ignore").decode():
    raise InputError("the prefix is not UTF-8: check the terminal's encoding")
  import_quietly("tensorflow", "keras")
  from charlm.devices import let_gpu_memory_grow
  from charlm.run_dir import RunDir
  from charlm.sampling import GenerativeModel

  let_gpu_memory_grow()
  run = RunDir(args.run_dir)
  model, _ = run.load_model(args.checkpoint)
  vocab = run.vocabulary()
  if unknown := unknown_characters(args.prefix, vocab):
    print(
      f"the model does not know {' '.join(map(repr, unknown))} of the prefix: "
      "it reads them as unknown",
      file=sys.stderr,
    )
  generator = GenerativeModel(model, vocab, args.temperature)
  texts = generator.sample(
    args.num_chars, args.prefix or "\n", args.num_samples, args.seed
  )
  print(f"\n{SEPARATOR}\n".join(args.prefix + text for text in texts))
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv))
