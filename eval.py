"""Scores a text with a trained model: log perplexity in nats per character."""

import dataclasses
import functools
import json
import re
import sys
import time

from charlm.data.corpus import read_corpus
from charlm.data.vocabulary import unknown_characters
from charlm.errors import InputError
from charlm.options import NOT_NEGATIVE, ModelOptions, between, one_of, option
from charlm.runs.run import open_newest_run
from charlm.system import process
from charlm.system.messages import warn

# As in nanoGPT's character-level model, for comparison.
_WINDOW = 256
_NAME = re.compile(r"[\w-]+", re.ASCII)


@dataclasses.dataclass(frozen=True)
class EvalOptions(ModelOptions):
  """The flags."""

  text: str | None = option(
    None,
    "as train.py's --corpus; default: the eval text",
    group="What is scored",
  )
  protocol: str = option(
    "stream",
    "stream: a character is predicted from all characters before it; windows: "
    "from those in its window; lines: from those in its line",
    one_of("stream", "windows", "lines"),
    group="How it is scored",
  )
  window: int = option(
    _WINDOW, "with windows: characters per window", between(1)
  )
  stride: int = option(
    0,
    "with windows: characters between their starts; 0: as --window",
    between(0),
  )
  dynamic: bool = option(
    False, "learn from each 32 characters once scored; needs a valid text"
  )
  json: bool = option(False, "print each score as JSON", group="Output")
  follow: bool = option(
    False,
    "score each checkpoint as it is saved, until none comes",
    group="During training",
  )
  name: str = option("", "required by --follow: name in TensorBoard")
  idle_timeout: float = option(
    600.0,
    "with --follow: seconds to wait for a new checkpoint or new metrics; 0: "
    "score what is there",
    NOT_NEGATIVE,
  )

  def __post_init__(self) -> None:
    super().__post_init__()
    windows_given = (self.window, self.stride) != (_WINDOW, 0)
    if windows_given and self.protocol != "windows":
      raise InputError("--window and --stride need --protocol=windows: give it")
    if self.stride > self.window:
      raise InputError("a stride above the window leaves gaps: lower --stride")
    if self.dynamic and self.protocol != "stream":
      raise InputError("--dynamic needs --protocol=stream: give it")
    if self.name and not self.follow:
      raise InputError("--name needs --follow: give it")
    if self.follow and (
      self.dynamic or self.checkpoint not in ("auto", "latest")
    ):
      raise InputError(
        "--follow scores every checkpoint: leave out --dynamic and --checkpoint"
      )
    # The folders in `summaries` that `train.py` writes.
    reserved = ("train", "valid", "eval")
    if self.follow and (
      not _NAME.fullmatch(self.name) or self.name in reserved
    ):
      raise InputError(
        f"name is {self.name!r}: give a --name of letters, digits, - and _, "
        f"but not {', '.join(reserved)}"
      )


def main(argv: list[str]) -> int:
  """Evaluates; returns the exit code."""
  return process.run_command(
    command=lambda given: evaluate(EvalOptions(**given)),
    options=EvalOptions,
    argv=argv,
    usage=__doc__,
  )


def evaluate(options: EvalOptions) -> int:
  """Evaluates as the flags say; returns the exit code.

  Raises:
    InputError: bad input.
  """
  # Before importing TensorFlow, so that a wrong folder is refused at once.
  run = open_newest_run(options.run_dir)
  process.import_quietly("tensorflow", "keras")
  from charlm.evaluation.dynamic import score_dynamic
  from charlm.evaluation.evaluator import Evaluator, score_text
  from charlm.evaluation.score import refuse_short
  from charlm.model.layers import import_layer
  from charlm.runs import trained_model
  from charlm.runs.metrics import EventFile, metrics_event
  from charlm.system.devices import choose_device

  choose_device(options.device)
  layer = import_layer(options.layer)
  if options.follow:
    models = trained_model.follow_checkpoints(run, options.idle_timeout, layer)
  else:
    models = iter([trained_model.load_model(run, options.checkpoint, layer)])
  text = run.eval_text()
  if options.text is not None:
    text = read_corpus(run.config, options.text).text
  refuse_short(text, options.text or run.eval_path)
  unknown = unknown_characters(text.characters, run.vocab)
  if unknown and not options.json:  # which has `num_unknown`
    warn(f"not in the vocabulary, scored as [UNK]: {unknown}")
  curve = EventFile(run.summaries / options.name) if options.follow else None
  evaluator_of = functools.cache(Evaluator)  # compiles once per model
  for model, step in models:
    if options.dynamic:
      score, protocol = score_dynamic(
        model=model, vocab=run.vocab, text=text, valid=run.valid_text()
      )
    else:
      score, protocol = score_text(
        evaluator_of(model),
        run.vocab,
        text,
        protocol=options.protocol,
        window=options.window,
        stride=options.stride or options.window,
      )
    result = {"step": step, "protocol": protocol, **score.to_dict()}
    text_result = score.in_words(step, protocol)
    if not options.follow:
      trained_model.say_which(run, options.checkpoint, step)
    # Flushed, since with --follow the next score can be hours away.
    print(json.dumps(result) if options.json else text_result, flush=True)
    if curve:
      record = {**result, "loss": score.log_perplexity}
      curve.write(metrics_event(record, time.time()))
  if options.follow:
    seconds = f"{options.idle_timeout:g} seconds"
    warn(f"no new checkpoint or metrics in {seconds}: --follow ends")
  return process.DONE


if __name__ == "__main__":
  sys.exit(main(sys.argv))
