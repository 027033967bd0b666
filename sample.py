"""Writes text with a trained model."""

import json
import sys
from typing import Any

from absl import flags

from charlm.command import DONE, import_quietly, run_command, warn
from charlm.config import InputError, is_utf8
from charlm.corpus import read_text
from charlm.vocabulary import unknown_characters

SEPARATOR = "-" * 20


def define_flags() -> flags.FlagValues:
  """Returns the flags."""
  values = flags.FlagValues()
  run, text, draw, output = (
    {"flag_values": values, "module_name": title}
    for title in ("The run", "The text", "How it is drawn", "Output")
  )
  for name, default, words, group in (
    ("run_dir", "runs/shakespeare", "folder of the run", run),
    ("checkpoint", "latest", "latest, best or a step", run),
    ("prefix", "", "what the text starts with; else it starts a line", text),
    ("prefix_file", None, "file with that instead, - for stdin", text),
    ("stop", "", "the text ends before it holds this", text),
  ):
    flags.DEFINE_string(name, default, words, **group)
  for name, default, least, most, words, group in (
    ("num_chars", 1000, 1, 10**8, "characters after the prefix at most", text),
    ("num_samples", 1, 1, 10**6, "texts; each is the same however many", text),
    ("seed", 0, 0, 2**64 - 1, "the same seed gives the same text", draw),
    ("top_k", 0, 0, 10**6, "among the likeliest so many; 0: all", draw),
  ):
    flags.DEFINE_integer(
      name, default, words, lower_bound=least, upper_bound=most, **group
    )
  for name, default, most, words in (
    ("temperature", 1.0, 1000.0, "0 is greedy; higher is wilder"),
    ("top_p", 1.0, 1.0, "among the fewest with this share of probability"),
    ("min_p", 0.0, 1.0, "among those with this share of the likeliest's"),
  ):
    flags.DEFINE_float(
      name, default, words, lower_bound=0.0, upper_bound=most, **draw
    )
  flags.DEFINE_enum(
    "format",
    "text",
    ["text", "jsonl"],
    "jsonl is an object a text, with each character's log-probability",
    **output,
  )
  for name, words in (
    ("stream", "print the text as it is drawn"),
    ("help", "show this help"),
  ):
    flags.DEFINE_bool(name, False, words, **output)
  return values


def main(argv: list[str]) -> int:
  """Samples; returns the exit code."""
  return run_command(sample, define_flags(), argv, __doc__)


def sample(args: Any) -> int:
  """Samples by parsed flags; returns the exit code.

  Raises:
    InputError: bad input.
  """
  prefix = _prefix(args)
  import_quietly("tensorflow", "keras")
  from charlm.devices import let_gpu_memory_grow
  from charlm.run_dir import RunDir
  from charlm.sampling import GenerativeModel

  let_gpu_memory_grow()
  run = RunDir(args.run_dir)
  model, _ = run.load_model(args.checkpoint)
  vocab = run.vocabulary()
  if unknown := unknown_characters(prefix or "\n", vocab):
    warn(
      f"the model does not know {' '.join(map(repr, unknown))} "
      f"{'of the prefix' if prefix else 'before the text: give a --prefix'}; "
      "it reads that as unknown"
    )
  limits = {name: getattr(args, name) for name in ("top_k", "top_p", "min_p")}
  generator = GenerativeModel(model, vocab, args.temperature, **limits)
  if args.stream:
    _stream(args, generator, prefix)
    return DONE
  samples = generator.sample(
    args.num_chars, prefix or "\n", args.num_samples, args.seed, args.stop
  )
  if args.format == "jsonl":
    for i, sample in enumerate(samples):
      print(json.dumps({"sample": i, "prefix": prefix, **sample.to_dict()}))
  else:
    texts = (prefix + sample.text for sample in samples)
    print(f"\n{SEPARATOR}\n".join(texts))
  return DONE


def _prefix(args: Any) -> str:
  """Checks the flags; returns the prefix.

  Raises InputError: bad input.
  """
  if args.stream and args.format == "jsonl":
    raise InputError("only text comes in pieces: leave out --stream")
  if args.prefix and args.prefix_file:
    raise InputError("two prefixes: give --prefix or --prefix_file")
  for name in ("prefix", "stop"):
    if not is_utf8(getattr(args, name)):
      raise InputError(f"{name} is not UTF-8: check the terminal's encoding")
  return read_text(args.prefix_file) if args.prefix_file else args.prefix


def _stream(args: Any, generator: Any, prefix: str) -> None:
  for i in range(args.num_samples):
    print(f"\n{SEPARATOR}\n" if i else "", prefix, sep="", end="", flush=True)
    for piece in generator.stream(
      args.num_chars, prefix or "\n", i, args.seed, args.stop
    ):
      print(piece.text, end="", flush=True)
  print()


if __name__ == "__main__":
  sys.exit(main(sys.argv))
