"""Scores a text with a trained model: log perplexity in nats per character."""

import functools
import io
import json
import sys
from typing import Any

import numpy as np
from absl import flags

from charlm.command import DONE, LEFT_OUT, import_quietly, run_command, warn
from charlm.config import InputError
from charlm.corpus import clean, clean_line, open_binary, read_text
from charlm.vocabulary import encode, unknown_characters

_WINDOW = 256


def define_flags() -> flags.FlagValues:
  """Returns the flags."""
  values = flags.FlagValues()
  what, how, output = (
    {"flag_values": values, "module_name": title}
    for title in ("What is scored", "How", "Output")
  )
  for name, default, words in (
    ("run_dir", "runs/shakespeare", "folder of the run"),
    ("checkpoint", "latest", "latest, best or a step"),
    ("text", None, "file to score, - for stdin; else the run's held-out text"),
  ):
    flags.DEFINE_string(name, default, words, **what)
  flags.DEFINE_enum(
    "protocol",
    "stream",
    ["stream", "windows", "lines"],
    "a character is predicted from all before it, a window, its line",
    **how,
  )
  for name, default, least, words in (
    ("window", _WINDOW, 1, "characters of a window"),
    ("stride", 0, 0, "characters from one window to the next; 0: a window"),
  ):
    flags.DEFINE_integer(name, default, words, lower_bound=least, **how)
  for name, words, group in (
    ("dynamic", "learn from each part of the stream once it is scored", how),
    ("json", "print one JSON object", output),
    (
      "per_line",
      "score each line as it comes, alone: nats, characters, bits per "
      "character, the one that cost the most, and the line",
      output,
    ),
    ("help", "show this help", output),
  ):
    flags.DEFINE_bool(name, False, words, **group)
  return values


def main(argv: list[str]) -> int:
  """Evaluates; returns the exit code."""
  return run_command(evaluate, define_flags(), argv, __doc__)


def evaluate(args: Any) -> int:
  """Evaluates by parsed flags; returns the exit code.

  Raises:
    InputError: bad input.
  """
  _check(args)
  import_quietly("tensorflow", "keras")
  from charlm.devices import let_gpu_memory_grow
  from charlm.evaluation import refuse_short
  from charlm.run_dir import RunDir

  let_gpu_memory_grow()
  run = RunDir(args.run_dir)
  model, step = run.load_model(args.checkpoint)
  vocab = run.vocabulary()
  if args.per_line:
    return _score_lines(args, model, run, vocab)
  if args.text is None:
    args.text, text = run.held_out_path, run.held_out()
  else:
    config = run.experiment().config
    text = clean(read_text(args.text), config.lowercase, config.raw)
  ids = encode(text, vocab)
  refuse_short(ids, args.text)
  score, protocol = _score(args, model, ids, run, vocab)
  if args.json:
    result = {"step": step, "protocol": protocol, **score.to_dict()}
    print(json.dumps(result))
    return DONE
  low, high = score.interval
  print(
    f"step                {step:,}\n"
    f"protocol            {protocol}\n"
    f"log perplexity      {score.log_perplexity:.4f} nats per character "
    f"(95 % interval {low:.4f} to {high:.4f})\n"
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
    warn(f"unknown to the model: {' '.join(map(repr, unknown))}")
  return DONE


def _check(args: Any) -> None:
  if args.protocol != "windows" and (args.window, args.stride) != (_WINDOW, 0):
    raise InputError(
      "--window and --stride are those of windows: give --protocol=windows"
    )
  if args.stride > args.window:
    raise InputError(
      f"stride is {args.stride}, more than the window of {args.window}, which "
      "leaves characters out: lower --stride"
    )
  if args.dynamic and args.protocol != "stream":
    raise InputError(
      "dynamic evaluation learns along the stream: give --protocol=stream"
    )
  if args.per_line and (args.dynamic or args.json or args.protocol != "stream"):
    raise InputError(
      "--per_line has its own protocol and format: leave out --dynamic, "
      "--protocol and --json"
    )


def _check_newline(vocab: list[str]) -> None:
  if "\n" not in vocab:
    raise InputError(
      "the model knows no newline, since it was trained on one line: give "
      "another --protocol"
    )


def _score_lines(args: Any, model: Any, run: Any, vocab: list[str]) -> int:
  from charlm.evaluation import Evaluator
  from charlm.linewise import LineScorer, read_lines

  _check_newline(vocab)
  config = run.experiment().config
  cleaned = functools.partial(
    clean_line, lowercase=config.lowercase, raw=config.raw
  )
  scorer = LineScorer(Evaluator(model), vocab, cleaned, warn)
  if args.text is None:
    source = io.BytesIO(run.held_out().encode())
  else:
    source = open_binary(args.text)
  with source as file:
    for lines in read_lines(file, config.raw):
      print(
        "".join(f"{row}\n" for row in scorer.score(lines)), end="", flush=True
      )
  return DONE if scorer.whole else LEFT_OUT


def _score(
  args: Any, model: Any, ids: np.ndarray, run: Any, vocab: list[str]
) -> tuple[Any, str]:
  """Returns the score, and the protocol in words."""
  from charlm.dynamic import DynamicEvaluator
  from charlm.evaluation import Evaluator

  if args.dynamic:
    if not (known := run.valid()):
      raise InputError(
        "dynamic evaluation chooses its learning rate on text that is neither "
        "trained on nor scored: give train.py --valid_lines"
      )
    dynamic = DynamicEvaluator(model, encode(known, vocab))
    words = f"stream, dynamic at a learning rate of {dynamic.learning_rate:g}"
    return dynamic.stream(ids), words
  evaluator = Evaluator(model)
  if args.protocol == "windows":
    stride = args.stride or args.window
    words = f"windows of {args.window}, {stride} apart"
    return evaluator.windows(ids, args.window, stride), words
  if args.protocol == "lines":
    _check_newline(vocab)
    return evaluator.lines(ids, vocab.index("\n")), "lines"
  return evaluator.stream(ids), "stream"


if __name__ == "__main__":
  sys.exit(main(sys.argv))
