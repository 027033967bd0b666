"""Scores a text with a trained model: log perplexity in nats per character."""

import json
import pathlib
import sys
from typing import Any

from absl import flags

from charlm.command import import_quietly, run_command
from charlm.config import InputError
from charlm.corpus import clean_lines, decode
from charlm.vocabulary import encode, unknown_characters


def define_flags() -> flags.FlagValues:
  """Returns the flags."""
  values = flags.FlagValues()
  for name, default, text in (
    ("run_dir", "runs/shakespeare", "folder of the run"),
    ("checkpoint", "latest", "latest, best or a step"),
    ("text", None, "file to score, - for stdin; else the run's held-out lines"),
  ):
    flags.DEFINE_string(name, default, text, flag_values=values)
  flags.DEFINE_bool("json", False, "print one JSON object", flag_values=values)
  flags.DEFINE_bool("help", False, "show this help", flag_values=values)
  return values


def main(argv: list[str]) -> int:
  """Evaluates; returns the exit code."""
  return run_command(evaluate, define_flags(), argv, __doc__)


def evaluate(args: Any) -> int:
  """Evaluates by parsed flags; returns the exit code.

  Raises:
    InputError: bad input.
  """
  import_quietly("tensorflow", "keras")
  from charlm.devices import let_gpu_memory_grow
  from charlm.evaluation import Evaluator
  from charlm.run_dir import RunDir

  let_gpu_memory_grow()
  run = RunDir(args.run_dir)
  model, step = run.load_model(args.checkpoint)
  vocab = run.vocabulary()
  if args.text is None:
    args.text, text = run.path / "held_out.txt", run.held_out()
  else:
    lowercase = run.experiment().config.lowercase
    text = "\n".join(clean_lines(_read(args.text), lowercase))
  if len(text) < 2:
    raise InputError(
      f"{args.text} has fewer than two characters, which leaves nothing to "
      "predict: give a longer --text"
    )
  score = Evaluator(model).score(encode(text, vocab))
  if args.json:
    print(json.dumps({"step": step, **score.to_dict()}))
    return 0
  print(
    f"step                {step:,}\n"
    f"log perplexity      {score.log_perplexity:.4f} nats per character\n"
    f"perplexity          {score.perplexity:.4f}\n"
    f"bits per character  {score.bits_per_character:.4f}\n"
    f"characters scored   {score.num_characters:,}, "
    f"{score.num_unknown:,} of them unknown"
  )
  if score.log_perplexity_known is not None and score.num_unknown:
    print(
      f"over the known ones {score.log_perplexity_known:.4f} nats per character"
    )
  if score.num_unknown:
    unknown = unknown_characters(text, vocab)
    print(
      f"unknown to the model: {' '.join(map(repr, unknown))}", file=sys.stderr
    )
  return 0


def _read(path: str) -> str:
  if path == "-" and sys.stdin is None:
    raise InputError("standard input is closed: give a file as --text")
  stdin = path == "-"
  data = sys.stdin.buffer.read() if stdin else pathlib.Path(path).read_bytes()
  return decode(data, path)


if __name__ == "__main__":
  sys.exit(main(sys.argv))
