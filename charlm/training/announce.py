"""What a start prints before its first step, and what it warns of."""

import datetime
import math
import shutil
import sys
import time

import numpy as np

from charlm.config import Config
from charlm.data.corpus import Corpus
from charlm.data.split import Split, count_shared_lines
from charlm.data.vocabulary import unknown_characters
from charlm.evaluation.evaluator import Evaluator
from charlm.evaluation.ngram import KneserNey
from charlm.model.language_model import LanguageModel
from charlm.runs.run import Run, Start
from charlm.system.devices import kind_of_device
from charlm.system.messages import say, warn
from charlm.training.options import TrainOptions
from charlm.training.replicas import most_replicas, reason_for_one_replica
from charlm.training.trainer import Trainer

_SECONDS_BETWEEN_LINES = 10.0  # in a log, where each line stays
_SECONDS_BEFORE_ESTIMATE = 5.0  # of steps, without the first, which compiles
# Of the initial model: characters that are scored, and characters that n-grams
# count; they take a second or two.
_SCORED = 20_000
_COUNTED = 300_000
# Nats per character. With the model of English, most English texts are below
# this, and all others above it (recipes/LOG.md).
_TOO_FAR = 1.0
_FEW_WINDOWS = 64  # a step: fewer leave a GPU waiting for the next operation
COMPILES = (
  "compiles for the GPU: a first start on a kind of card can take minutes"
)


class ProgressBar:
  """Shows loss, speed and time left."""

  def __init__(self, num_steps: int, steps_per_epoch: int, step: int) -> None:
    self._num_steps, self._steps_per_epoch = num_steps, steps_per_epoch
    self._start = step, time.monotonic()
    self._is_first, self._estimate_due = True, True
    self._last_line = float("-inf")
    self._on_terminal = sys.stdout.isatty()

  def show(self, step: int, loss: float, characters_per_second: float) -> None:
    """Redraws the bar, or writes a line where there is no terminal.

    The loss is in nats per character.
    """
    epoch, index = divmod(step - 1, self._steps_per_epoch)
    epochs = -(-self._num_steps // self._steps_per_epoch)
    # On a terminal there is no room for them.
    bits = "" if self._on_terminal else f" ({loss / math.log(2):.4f} bits)"
    text = (
      f"epoch {epoch + 1}/{epochs} step {step}/{self._num_steps} "
      f"loss {loss:.4f}{bits} {characters_per_second:,.0f} characters/s "
      f"{self._time_left(step)} left"
    )
    now = time.monotonic()
    due = now - self._last_line >= _SECONDS_BETWEEN_LINES
    if self._on_terminal:
      filled = 20 * (index + 1) // self._steps_per_epoch
      text += " [" + "=" * filled + "." * (20 - filled) + "]"
      # Over the last bar. A longer line would wrap, and could not be redrawn.
      say("\r\x1b[K" + text[: shutil.get_terminal_size().columns - 1])
    elif due or step == self._num_steps:
      say(text + "\n")
      self._last_line = now
    if self._is_first:  # it compiled: the time left is told without it
      self._start, self._is_first = (step, now), False
    elif self._estimate_due and now > self._start[1] + _SECONDS_BEFORE_ESTIMATE:
      minutes = self._time_left(step).total_seconds() / 60
      if minutes > 1:
        self.log(f"time     about {math.ceil(minutes):,} min left")
      self._estimate_due = False

  def log(self, text: str) -> None:
    """Writes a line that stays."""
    say(("\r\x1b[K" if self._on_terminal else "") + text + "\n")

  def _time_left(self, step: int) -> datetime.timedelta:
    first, start = self._start
    per_step = (time.monotonic() - start) / max(1, step - first)
    seconds = round(per_step * (self._num_steps - step))
    return datetime.timedelta(seconds=seconds)


def describe_text(
  config: Config, corpus: Corpus, split: Split, vocab: list[str]
) -> str:
  """Describes the corpus, its parts, and the vocabulary."""
  num_bytes = corpus.text.num_bytes(corpus.counts)
  size = f"{len(corpus.text):,} characters, {num_bytes:,} bytes"
  lines = [f"corpus   {config.corpus}: {size}, SHA-256 {corpus.sha256}"]
  for name, part in split._asdict().items():
    line = f"{name:<8} {len(part):,} characters"
    if name != "train":
      line += " kept apart"
    line += f", {part.num_bytes():,} bytes, SHA-256 {part.sha256}"
    lines += [line] if len(part) else []
  if not config.keeps_text:
    lines.append(
      "lines    without blanks at their ends, and without empty lines; --raw "
      "keeps them"
    )
  counts = dict(zip(corpus.text.characters, corpus.counts, strict=True))
  rare = [counts[char] for char in counts.keys() - set(vocab)]
  words = f"; rare, read as [UNK]: {len(rare):,} (occur {sum(rare):,} times)"
  lines.append(f"vocab    {len(vocab):,} entries{words if rare else ''}")
  return "\n".join(lines) + "\n"


def describe_recipe(config: Config, split: Split) -> str:
  """Describes the recipe of a new run, or says that there is a choice."""
  if config.recipe:
    size = f"{len(split.train):,} characters of train text"
    return f"recipe   {config.recipe}, with {size}\n"
  if config == Config(corpus=config.corpus):
    return "recipe   none: --recipe=auto chooses one by the size of the text\n"
  return ""


def describe_initial(
  initial: LanguageModel,
  *,
  name: str,
  model: LanguageModel,
  split: Split,
  vocab: list[str],
) -> str:
  """Describes what an initial model lacks, and how well it predicts the text.

  `name` is that of `--init_from`; `model` has the weights of the initial model,
  and others for new characters.
  Warns if it is so much worse than n-grams of the text that random weights
  probably end no higher.
  """
  part = "valid" if len(split.valid) else "eval"
  ids = getattr(split, part).part(0, _SCORED).ids_in(vocab)
  score = float(Evaluator(model).stream(ids).mean(dtype=np.float64))
  counted = KneserNey(split.train.part(0, _COUNTED).ids_in(vocab), len(vocab))
  ngrams = min(float(nats.mean()) for nats in counted.nats(ids))
  if score > ngrams + _TOO_FAR:
    warn(
      "the initial model knows little of this text: compare with a run without "
      "--init_from"
    )
  num_known = initial.embedding.input_dim
  new = unknown_characters(vocab, vocab[:num_known])
  lacks = f"new      {new}: not in {name}\n" if new else ""
  return (
    f"{lacks}begins   with a loss of {score:.4f} on the {part} text; n-grams "
    f"of the train text: {ngrams:.4f}\n"
  )


def warn_of_files(config: Config, split: Split, vocab: list[str]) -> None:
  """Warns of what is odd in files of valid and eval texts."""
  for name, part in (("valid", split.valid), ("eval", split.eval)):
    files = getattr(config, f"{name}_corpus")
    if files and (number := count_shared_lines(split.train, part)):
      why = "are in the train text, too: the score may be too good"
      warn(f"{number:,} distinct lines of {files} {why}")
    if files and (unknown := unknown_characters(part.characters, vocab)):
      warn(f"characters of {files} that are read as [UNK]: {unknown}")


def describe_training(
  run: Run, trainer: Trainer, start: Start, options: TrainOptions
) -> str:
  """Describes model, steps, devices, and code of a start."""
  model, batches, end = trainer.model, trainer.batches, trainer.last_step
  counts = [f"{layer.name} {layer.count_params():,}" for layer in model.layers]
  versions = [f"{name} {v}" for name, v in start["versions"].items()]
  return (
    f"model    {' + '.join(counts)} = {model.count_params():,} weights\n"
    f"steps    {end:,} (an epoch has {batches.steps_per_epoch:,}), "
    f"{batches.characters_per_step:,} characters each, from step "
    f"{start['step']:,}\n"
    f"devices  {_describe_devices(start, options)}\n"
    f"{_describe_gpus(trainer, start, options)}"
    f"layer    {_describe_layer(trainer)}\n"
    f"products {_describe_precision(options, trainer)}\n"
    f"code     {', '.join(versions)}, commit {start['commit'] or 'unknown'}\n"
    f"run      {run.path}"
  )


def _describe_devices(start: Start, options: TrainOptions) -> str:
  """Returns the devices of this worker, and why they are those."""
  reason = "--device=cpu"
  if options.device != "cpu":
    found = "a" if kind_of_device() == "GPU" else "no"
    reason = f"TensorFlow uses {found} GPU"
  if options.num_replicas:
    reason += f", --num_replicas={options.num_replicas}"
  threads = start["intra_op_threads"] or "automatic"
  devices = ", ".join(start["devices"])
  if start["workers"] > 1:
    devices += f" on each of {start['workers']} workers"
  elif not options.num_replicas and len(start["devices"]) < most_replicas():
    alone = reason_for_one_replica(options, options.gru)
    why = f"best for {alone}" if alone else "the most that divide --batch_size"
    reason += f"; {len(start['devices'])} of up to {most_replicas()}: {why}"
  return f"{devices} ({reason}; intra-op threads: {threads})"


def _describe_gpus(
  trainer: Trainer, start: Start, options: TrainOptions
) -> str:
  """Returns lines that only a training on GPUs needs."""
  if not (gpus := start["gpus"]):
    return ""
  words = [
    value if name == "gpu" else f"{name} {value}"
    for name, value in gpus.items()
  ]
  lines = [f"gpus     {', '.join(words)}"]
  num_replicas = len(trainer.devices) * start["workers"]
  windows = options.batch_size // num_replicas
  if len(trainer.devices) > 1 and windows < _FEW_WINDOWS:
    lines.append(
      f"windows  {windows} for each GPU: one GPU is probably as fast: "
      "--num_replicas=1, or a larger --batch_size"
    )
  return "".join(f"{line}\n" for line in lines)


def _describe_layer(trainer: Trainer) -> str:
  """Returns which recurrent layer computes."""
  name = type(trainer.model.recurrent_layers[0]).__name__
  return f"{name}, compiled by XLA" if trainer.compiled_by_xla else name


def _describe_precision(options: TrainOptions, trainer: Trainer) -> str:
  """Returns the precision of the matrix products."""
  rounded = options.precision != "float32"
  if rounded and "precision" in trainer.model.recurrent_layers[0].options:
    return options.precision
  products = "float32"
  if kind_of_device() == "GPU":
    products = "TensorFloat-32 in training, if the GPU has it; scores: float32"
  if rounded and options.optimizer == "muon":
    products += f"; Muon's in {options.precision}"
  return products
