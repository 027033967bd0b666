"""The screen of `train.py`: description of the run, progress, evaluations."""

import shutil
import sys
import time
import unicodedata

import numpy as np

from charlm.config import Config
from charlm.data.corpus import Corpus
from charlm.data.split import Split, count_shared_lines
from charlm.data.vocabulary import unknown_characters
from charlm.evaluation.evaluator import Evaluator
from charlm.evaluation.ngram import KneserNey
from charlm.model.language_model import LanguageModel
from charlm.runs.run import Run, Start
from charlm.system.devices import kind_of_device, most_gpus
from charlm.system.messages import beginning, say, show_bar, warn
from charlm.training.replicas import GPU_WINDOWS
from charlm.training.trainer import Trainer

_COLUMNS = 79  # a line of 80 would wrap
_INDENT = 9  # where the text of a named line begins
_SECONDS_BETWEEN_LINES = 30.0  # in a log, where each line stays
_SECONDS_BEFORE_ESTIMATE = 5.0  # of training, without the first call
_SAMPLE_ROWS = 2
# For the check of an initial model: how many characters it scores, and how many
# of the train text's last the n-grams count. Together they take a few seconds.
_SCORED = 20_000
_COUNTED = 600_000
# How far the loss of an initial model may be above that of the n-grams, in nats
# per character, before random weights do better (recipes/LOG.md). A small train
# text teaches random weights less than n-grams.
_TOO_FAR = 1.0
_SMALL_TEXT = 200_000
_TOO_FAR_SMALL = 1.75
COMPILES = (
  "compiles for the GPU: a first start on a kind of card can take minutes"
)


class Screen:
  """The screen during training: a progress bar below the evaluations."""

  def __init__(
    self,
    *,
    last_step: int,
    steps_per_epoch: int,
    part: str,
    unit: str,
    prefix: str,
    temperature: float,
  ) -> None:
    """Takes the size of the run, and how it is evaluated and sampled."""
    self._last_step, self._steps_per_epoch = last_step, steps_per_epoch
    self._part, self._unit = part, unit
    self._prefix, self._temperature = prefix, temperature
    self._timed_from: tuple[int, float] | None = None  # step, time
    self._last_line = float("-inf")
    self._has_header = False
    self._on_terminal = sys.stdout.isatty()

  def show_progress(
    self, step: int, loss: float, characters_per_second: float
  ) -> None:
    """Redraws the bar; without a terminal, writes a line now and then."""
    now = time.monotonic()
    # The clock starts after the first call, which compiles.
    self._timed_from = self._timed_from or (step, now)
    text = f"step {step:,}/{self._last_step:,}  loss {loss:.4f}"
    if left := self._left(step, now):
      text += f"  {characters_per_second:,.0f} characters/s  {left}"
    if self._on_terminal:
      # A longer line would wrap; Ctrl-C appends ^C.
      columns = min(shutil.get_terminal_size().columns - 3, _COLUMNS)
      if (width := columns - len(text) - 3) > 0:
        filled = width * step // self._last_step
        text = f"[{'=' * filled:.<{width}}] {text}"
      show_bar(beginning(text, columns))
    elif now - self._last_line >= _SECONDS_BETWEEN_LINES:
      say(f"{text}\n")
      self._last_line = now

  def show_evaluation(
    self,
    step: int,
    *,
    train_loss: float | None,
    loss: float,
    is_best: bool,
    sample: str,
  ) -> None:
    """Writes a row of the table of evaluations, and the start of a sample.

    The train loss is the mean over the steps since the previous evaluation; it
    is None if this start has not taken any.
    """
    if not self._has_header:
      samples = f"samples of temperature {self._temperature}, after"
      say(
        f"{'epoch':>5}{'step':>10}{'train loss':>12}{self._part + ' loss':>12}"
        f"  (nats per {self._unit})\n"
        + _line("", f"{samples} {self._prefix!r}")
      )
      self._has_header = True
    epoch = _epochs(step / self._steps_per_epoch)
    trained = "" if train_loss is None else f"{train_loss:.4f}"
    best = "  best so far" if is_best else ""
    say(f"{epoch:>5}{step:>10,}{trained:>12}{loss:>12.4f}{best}\n")
    for row in _rows(sample)[:_SAMPLE_ROWS]:
      say(f"{'':{_INDENT}}{row}\n")

  def leave_out(self, seconds: float) -> None:
    """Excludes a one-time delay from the estimate of the time left."""
    if self._timed_from:
      step, start = self._timed_from
      self._timed_from = step, start + seconds

  def _left(self, step: int, now: float) -> str:
    """Returns the time left, or nothing while it is too early to tell."""
    first, start = self._timed_from or (step, now)
    if now - start < _SECONDS_BEFORE_ESTIMATE:
      return ""
    seconds = (now - start) / (step - first) * (self._last_step - step)
    hours, minutes = divmod(round(seconds / 60), 60)
    if seconds < 90:
      return f"{seconds:.0f} s left"
    return f"{f'{hours} h ' if hours else ''}{minutes} min left"


def _epochs(number: float) -> str:
  return f"{number:.3g}" if number < 1000 else f"{number:.0f}"


def _rows(sample: str) -> list[str]:
  """Wraps the lines of a sample into rows that fit below an evaluation."""
  rows = []
  for line in sample.expandtabs(4).splitlines():
    shown = "".join(
      c if c.isprintable() or unicodedata.category(c) == "Zs" else "\ufffd"
      for c in line
    )
    while shown:
      rows.append(beginning(shown, _COLUMNS - _INDENT))
      shown = shown[len(rows[-1]) :]
  return rows


def _line(name: str, text: str) -> str:
  """Returns a line with a name in front, cut to the width of the screen."""
  shown = beginning(text, _COLUMNS - _INDENT)
  if shown != text:
    shown = beginning(text, _COLUMNS - _INDENT - 3) + "..."
  return f"{name:<{_INDENT}}{shown}\n"


def describe_text(
  config: Config, corpus: Corpus, split: Split, vocab: list[str]
) -> str:
  """Describes the corpus, and how it is cleaned and split."""
  counts = dict(zip(corpus.text.characters, corpus.counts, strict=True))
  rare = counts.keys() - set(vocab)
  read = f" ({len(rare):,} rare ones read as [UNK])" if rare else ""
  size = f"{len(corpus.text):,} {config.unit}s, {len(counts):,} distinct{read}"
  parts = [
    f"{len(part):,} {name}"
    for name, part in split._asdict().items()
    if len(part)
  ]
  lines = [_line("text", f"{size}, in {config.corpus}")]
  if not config.keeps_text:
    removed = "spaces around lines, and empty lines, are removed"
    lines.append(_line("lines", f"{removed} (--raw keeps them)"))
  elif counts.get("\r"):
    ends = "end in carriage returns, as on Windows: the model learns them, too"
    lines.append(_line("lines", ends))
  lines.append(_line("parts", f"{' + '.join(parts)} {config.unit}s"))
  return "".join(lines)


def announce_initial(
  model: LanguageModel,
  *,
  name: str,
  split: Split,
  vocab: list[str],
  known: list[str],
  by_auto: bool,
) -> bool:
  """Shows how well an initial model predicts the text, beside n-grams.

  Args:
    model: the initial model, with random weights for new characters.
    name: the value of `--init_from`.
    split: the text.
    vocab: the run's vocabulary.
    known: the initial model's own vocabulary.
    by_auto: whether the model is taken only if it is close to the n-grams.
      Otherwise there is a warning if it is not.

  Returns whether it is close, so that random weights would do worse.
  """
  part = "valid" if len(split.valid) else "eval"
  ids = getattr(split, part).part(0, _SCORED).ids_in(vocab)
  loss = float(Evaluator(model).stream(ids).mean(dtype=np.float64))
  start = max(0, len(split.train) - _COUNTED)
  counted = split.train.part(start, len(split.train)).ids_in(vocab)
  ngrams = KneserNey(counted, len(vocab))
  ngram_loss = min(float(nats.mean()) for nats in ngrams.nats(ids))
  losses = f"{part} loss {loss:.4f} (n-grams: {ngram_loss:.4f})"
  is_small = len(split.train) <= _SMALL_TEXT
  is_close = loss <= ngram_loss + (_TOO_FAR_SMALL if is_small else _TOO_FAR)
  if by_auto and not is_close:
    say(_line("initial", f"random weights, since {name} has {losses}"))
    return False
  if not is_close:
    warn(
      "the initial model knows little of this text: compare with a run without "
      "--init_from"
    )
  new = unknown_characters(vocab, known)
  more = f"; new characters: {new}" if new else ""
  if by_auto:
    more = " (--init_from= for none)"
  say(_line("initial", f"{losses}, {name}{more}"))
  return is_close


def warn_of_files(config: Config, split: Split, vocab: list[str]) -> None:
  """Warns of shared lines and unknown characters in valid and eval files."""
  for name, part in (("valid", split.valid), ("eval", split.eval)):
    files = getattr(config, f"{name}_corpus")
    if files and (number := count_shared_lines(split.train, part)):
      why = "are in the train text, too: the score may be too good"
      warn(f"{number:,} distinct lines of {files} {why}")
    if files and (unknown := unknown_characters(part.characters, vocab)):
      warn(f"characters of {files} that are read as [UNK]: {unknown}")


def describe_training(run: Run, trainer: Trainer, start: Start) -> str:
  """Describes recipe, model, devices and folder of a run."""
  config, model = run.config, trainer.model
  none = "none (--recipe=auto chooses one)"
  steps_per_epoch = trainer.batches.steps_per_epoch
  epochs = _epochs(trainer.last_step / steps_per_epoch)
  noun = "epoch" if epochs == "1" else "epochs"
  length = f"{epochs} {noun} of {steps_per_epoch:,} steps"
  layers = "layer" if config.num_layers == 1 else "layers"
  size = f"{config.num_layers} {layers} of {config.rnn_units} units"
  hint = "Ctrl-C stops it, the same command resumes it"
  if start["step"]:
    hint = f"from step {start['step']:,} on"
  return (
    _line("recipe", f"{config.recipe or none}: {length}")
    + _line(
      "model", f"{config.layer}, {size}, {model.count_params():,} weights"
    )
    + _line("device", _describe_devices(trainer, start))
    + _describe_unused_gpus(run, trainer)
    + _line("run", f"{run.path} ({hint})")
  )


def _describe_devices(trainer: Trainer, start: Start) -> str:
  """Describes the devices, and the number of replicas and workers."""
  number, kind = len(trainer.devices), kind_of_device()
  replicas = f"{number} replicas" if number > 1 else "1 replica"
  if start["workers"] > 1:
    replicas += f" on each of {start['workers']} workers"
  name = f" ({start['gpus']['gpu']})" if start["gpus"] else ""
  return f"{kind}{name}, {replicas}"


def _describe_unused_gpus(run: Run, trainer: Trainer) -> str:
  """Says why a training leaves GPUs idle, if it does."""
  used, available = len(trainer.devices), most_gpus()
  if kind_of_device() == "CPU" or used == available:
    return ""
  size = f"a step has {run.config.batch_size} windows (--batch_size)"
  reason = f"{size}, and each GPU needs {GPU_WINDOWS}"
  return _line("", f"{used} of {available} GPUs: {reason}")
