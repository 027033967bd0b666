"""Scores a text with a trained model: log perplexity in nats per character."""

import dataclasses
import functools
import json
import os
import re
import sys

from charlm.data.encoding import encode_text
from charlm.data.reading import read_sources
from charlm.data.sources import Source, find_sources
from charlm.data.vocabulary import unknown_characters
from charlm.errors import InputError
from charlm.options import NOT_NEGATIVE, ModelOptions, between, one_of, option
from charlm.runs.run_dir import RunDir
from charlm.system import process

# The context of nanoGPT's character-level model, for comparison.
_WINDOW = 256
_NAME = re.compile(r"[\w-]+", re.ASCII)


@dataclasses.dataclass(frozen=True)
class EvalOptions(ModelOptions):
  """The flags."""

  text: str | None = option(
    None,
    "as train.py's --corpus; with --per_line: one file; default: the eval text",
    group="What is scored",
  )
  protocol: str = option(
    "stream",
    "stream: a character is predicted from all characters before it; windows: "
    "from those in its window; lines: from those in its line",
    one_of("stream", "windows", "lines"),
    group="How it is scored",
  )
  window: int = option(_WINDOW, "characters per window", between(1))
  stride: int = option(
    0, "characters between the starts of windows; 0: as --window", between(0)
  )
  dynamic: bool = option(
    False, "learn from each 32 characters once scored; needs a valid text"
  )
  json: bool = option(False, "print each score as JSON", group="Output")
  per_line: bool = option(False, "score each line alone, as it comes")
  follow: bool = option(
    False,
    "score each checkpoint as it is saved, until the training ends",
    group="During training",
  )
  name: str = option("", "required by --follow: name in TensorBoard")
  idle_timeout: float = option(
    0.0,
    "with --follow: end after so many seconds without a checkpoint; 0: never",
    NOT_NEGATIVE,
  )

  def __post_init__(self) -> None:
    super().__post_init__()
    # At their defaults, nobody asked for windows.
    windows = (self.window, self.stride) != (_WINDOW, 0)
    if windows and self.protocol != "windows":
      raise InputError("--window and --stride need --protocol=windows: give it")
    if self.stride > self.window:
      raise InputError("a stride above the window leaves gaps: lower --stride")
    if self.dynamic and self.protocol != "stream":
      raise InputError("--dynamic needs --protocol=stream: give it")
    others = self.dynamic or self.json or self.protocol != "stream"
    if self.per_line and others:
      raise InputError("--per_line: leave out --dynamic, --protocol and --json")
    if not self.follow and (self.name or self.idle_timeout):
      raise InputError("--name and --idle_timeout need --follow: give it")
    conflict = self.per_line or self.dynamic or self.checkpoint != "latest"
    if self.follow and conflict:
      raise InputError(
        "--follow scores every checkpoint: leave out --per_line, --dynamic and "
        "--checkpoint"
      )
    # These names in `summaries` are those of `train.py`.
    own = ("train", "eval", "outdated")
    if self.follow and (not _NAME.fullmatch(self.name) or self.name in own):
      raise InputError(
        f"name is {self.name!r}: give a --name of letters, digits, - and _, "
        f"none of {', '.join(own)}"
      )


def main(argv: list[str]) -> int:
  """Evaluates; returns the exit code."""
  return process.run_command(evaluate, EvalOptions, argv, __doc__)


def evaluate(options: EvalOptions) -> int:
  """Evaluates as the flags say; returns the exit code.

  Raises:
    InputError: bad input.
  """
  # Before the import of TensorFlow, so that a wrong folder is refused at once.
  run = RunDir(options.run_dir)
  vocab, config = run.vocabulary(), run.experiment().config
  process.import_quietly("tensorflow", "keras")
  from charlm.evaluation.dynamic import score_dynamic
  from charlm.evaluation.evaluator import Evaluator, newline_id, score_text
  from charlm.evaluation.per_line import print_scores
  from charlm.evaluation.score import refuse_short
  from charlm.runs.loading import follow_checkpoints, load_model
  from charlm.runs.metrics import Curve
  from charlm.system.devices import choose_device

  choose_device(options.device)
  if options.follow:
    models = follow_checkpoints(run, options.idle_timeout)
  else:
    models = iter([load_model(run, options.checkpoint)])
  # In Latin-1, the bytes that a model reads are printed as they are.
  process.set_output_encoding(config.encoding)
  if options.per_line:
    newline_id(vocab)  # raises if there is none
    with _source(run, options.text).open() as file:
      whole = print_scores(next(models)[0], vocab, config, file)
    return process.DONE if whole else process.INCOMPLETE
  if options.text is None:
    name, text = str(run.eval_path), run.eval_text()
  else:
    pieces = read_sources(config, find_sources(options.text))
    name, text = options.text, encode_text(pieces, config.encoding).text
  refuse_short(text, name)
  unknown = unknown_characters(text.characters, vocab)
  if unknown and not options.json:  # which has their number, as `num_unknown`
    process.warn(f"not in the vocabulary, scored as [UNK]: {unknown}")
  curve = Curve(run, options.name) if options.follow else None
  evaluator_of = functools.cache(Evaluator)  # compiles for each model once
  for model, step in models:
    if options.dynamic:
      score, protocol = score_dynamic(model, vocab, text, run.valid_text())
    else:
      how = options.protocol, options.window, options.stride or options.window
      score, protocol = score_text(evaluator_of(model), vocab, text, *how)
    result = {"step": step, "protocol": protocol, **score.to_dict()}
    words = score.in_words(step, protocol)
    # At once: with --follow, the next score may be hours away.
    print(json.dumps(result) if options.json else words, flush=True)
    if curve:
      curve.write(step, score.to_dict())
  return process.DONE


def _source(run: RunDir, text: str | None) -> Source:
  """Returns where the lines of `--per_line` are, by default the run's text."""
  if text is not None:
    return Source(os.path.expanduser(text), is_file=text != "-")
  run.eval_text()  # which compares its hash
  return Source(str(run.eval_path))


if __name__ == "__main__":
  sys.exit(main(sys.argv))
