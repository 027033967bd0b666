"""The training loop: when to take steps, and what is due between them."""

import contextlib
import dataclasses
import itertools
import math
import statistics
import time

import numpy as np

from charlm.data.split import Split
from charlm.data.text import Text, readable
from charlm.data.vocabulary import PADDING_ID
from charlm.errors import DivergedError, all_finite
from charlm.evaluation.evaluator import Evaluator
from charlm.evaluation.score import Score
from charlm.model.layers import RecurrentLayer
from charlm.runs.checkpoints import Checkpoints, find_checkpoint
from charlm.runs.metrics import Metrics
from charlm.runs.run import Run
from charlm.runs.trained_model import load_model
from charlm.sampling.generator import GenerativeModel
from charlm.sampling.request import Request
from charlm.system.devices import Choice, kind_of_device
from charlm.system.messages import say, warn
from charlm.system.process import DONE, INCOMPLETE, StopRequest
from charlm.training.announce import Screen
from charlm.training.options import TrainOptions
from charlm.training.replicas import Replicas
from charlm.training.trainer import DIVERGED_REMEDY, Trainer
from charlm.training.workers import Cluster

# The fewest steps between two checkpoints by default: a GPU can take a quarter
# of an epoch in less time than a save.
_LEAST_CHECKPOINT_STEPS = Choice(1, 100)
_PREFIX_CHARS = 20  # at most, of the valid text: samples continue them
_SAMPLE = Request(num_chars=500, temperature=0.7)
_FEWEST_EVALUATIONS = 10  # of a run with a valid text
_RISES = 3  # in a row, of the valid loss: the model has begun to overfit


class Periods:
  """Periods in steps: of metrics, of evaluations, and of checkpoints."""

  def __init__(
    self,
    options: TrainOptions,
    *,
    steps_per_epoch: int,
    last_step: int,
    has_valid_text: bool,
    by_epochs: bool = False,
  ) -> None:
    """Takes flags, of which 0 has a default.

    A run of an earlier release is evaluated after each epoch: `by_epochs`.
    """
    # Enough points for a curve, but a mean of few steps is noise.
    self.metrics = options.summary_every_steps or max(10, steps_per_epoch // 80)
    by_default = steps_per_epoch
    if has_valid_text and not by_epochs:
      share = max(1, -(-last_step // _FEWEST_EVALUATIONS))
      by_default = min(steps_per_epoch, share)
    self.evaluation = options.eval_every_steps or by_default
    # What a kill can cost at most.
    quarter = max(-(-steps_per_epoch // 4), _LEAST_CHECKPOINT_STEPS.here)
    self.checkpoint = options.checkpoint_every_steps or quarter

  def next_due(self, step: int) -> int:
    """Returns the next step at which one of them ends."""
    periods = (self.metrics, self.evaluation, self.checkpoint)
    return min((step // period + 1) * period for period in periods)


class _Interrupted(Exception):
  """A stop was asked for in the middle of an evaluation."""


@dataclasses.dataclass(eq=False, kw_only=True)
class TrainingLoop:
  """Takes a run's steps to its end, as each worker does."""

  periods: Periods  # when to write metrics, to evaluate, and to save
  trainer: Trainer  # restored, at the step to continue from
  cluster: Cluster  # all of its workers do the same
  replicas: Replicas  # checked before each evaluation and save

  def __post_init__(self) -> None:
    self._stop = StopRequest()

  def train(self) -> int:
    """Trains; returns the exit code.

    Raises:
      DivergedError: a loss or a gradient is not finite, or the replicas
        differ; nothing is saved after it.
      LostRunError: the folder was taken away.
    """
    trainer, periods = self.trainer, self.periods
    step, end = trainer.step, trainer.last_step
    with self._stop:
      if step < end and kind_of_device() == "GPU":
        self._compile()
      self._begin(step)
      while step < end:
        due = min(periods.next_due(step), end)
        num_steps = trainer.steps_per_call(at_most=due - step)
        num_steps = self.cluster.agree(num_steps, self._stop)
        if num_steps == 0:  # a stop was asked for
          break
        loss, characters_per_second = trainer.take_steps(num_steps)
        step += num_steps
        if self._evaluation_due(step) or step % periods.checkpoint == 0:
          self.replicas.check_weights()
        self._continue(
          step,
          num_steps=num_steps,
          loss=loss,
          characters_per_second=characters_per_second,
        )
      self.replicas.check_weights()
      saved = self._save_rest(step)
    # After the `with self._stop` block: nothing is left to save, so Ctrl-C may
    # end the program at once.
    return self._end(step, saved)

  def _compile(self) -> None:
    """Lets the GPUs compile a step, and leaves no other trace.

    Compilation is then not in the measured speed, and too little memory shows
    now.
    """
    trainer = self.trainer
    values = [np.asarray(each).copy() for each in trainer.variables]
    trainer.take_steps(1)
    trainer.take_metrics()  # with the time that this has taken
    for variable, value in zip(trainer.variables, values, strict=True):
      variable.assign(value)

  def _evaluation_due(self, step: int) -> bool:
    return step % self.periods.evaluation == 0 or step == self.trainer.last_step

  def _begin(self, step: int) -> None:
    """Runs before the first step of a start."""

  def _continue(
    self,
    step: int,
    *,
    num_steps: int,
    loss: float,
    characters_per_second: float,
  ) -> None:
    """Does what is due at a step, after a call of the trainer."""

  def _save_rest(self, step: int) -> bool:
    """Saves the last step; returns whether it is on disk."""
    return True

  def _end(self, step: int, saved: bool) -> int:
    """Reports the result; returns the exit code."""
    return self._stop.exit_code or DONE


@dataclasses.dataclass(eq=False, kw_only=True)
class ChiefLoop(TrainingLoop):
  """The chief's loop, which leaves metrics, score, sample, and checkpoints.

  An evaluation scores the part of the text that chooses, writes its record to
  the metrics, and saves the best checkpoint if its loss is the lowest. The
  step's own checkpoint, if due, follows. `Checkpoints.save_if_best` says what
  becomes of a step at which this is cut short. With a valid text, the eval text
  is scored once, at the end.
  """

  run: Run  # locked by this process
  layer: type[RecurrentLayer] | None  # the class of one that is not charlm's
  split: Split
  checkpoints: Checkpoints  # of the trainer's objects
  metrics: Metrics  # opened at the trainer's step

  def __post_init__(self) -> None:
    super().__post_init__()
    self._text: Text = getattr(self.split, self.run.choosing_part)
    # Whole words, if there are any. It never changes, so that samples can be
    # compared.
    start = str(self._text.part(0, _PREFIX_CHARS))
    self._prefix = start.rpartition(" ")[0] or start
    self._shown_prefix = readable(self._prefix, self._text.encoding)
    self._evaluator = Evaluator(
      self.trainer.model, before_piece=self._check_stop
    )
    self._generator = GenerativeModel(self.trainer.model, self.run.vocab)
    self._screen = Screen(
      last_step=self.trainer.last_step,
      steps_per_epoch=self.trainer.batches.steps_per_epoch,
      part=self.run.choosing_part,
      unit=self.run.config.unit,
      prefix=self._shown_prefix,
      temperature=_SAMPLE.temperature,
    )
    # Mean losses of the training, in this start.
    self._last_loss = self._lowest_loss = math.inf
    self._losses_since_evaluation: list[float] = []  # of steps of this start
    self._has_evaluated = False  # in this start

  def _compile(self) -> None:
    super()._compile()
    # The shapes of an evaluation, whatever the length of a text.
    with contextlib.suppress(_Interrupted):
      self._evaluator.stream(np.full(2, PADDING_ID))
    self._sample(self._generator)

  def _begin(self, step: int) -> None:
    reached = step > 0 and self._evaluation_due(step)
    if reached or step in self.metrics.losses:
      self._evaluate(step)

  def _continue(
    self,
    step: int,
    *,
    num_steps: int,
    loss: float,
    characters_per_second: float,
  ) -> None:
    self._losses_since_evaluation += [loss] * num_steps
    self._screen.show_progress(step, loss, characters_per_second)
    if step % self.periods.metrics == 0 or step == self.trainer.last_step:
      self._write_metrics(step)
    # Before the save: a checkpoint holds the lowest loss so far.
    if self._evaluation_due(step):
      self._evaluate(step)
    if step % self.periods.checkpoint == 0:
      self.checkpoints.save(step)

  def _save_rest(self, step: int) -> bool:
    self.metrics.write_rest()
    return self.checkpoints.save(step)

  def _end(self, step: int, saved: bool) -> int:
    """Prints score and sample; returns the exit code."""
    has_best = self.checkpoints.has_best(self.metrics.losses)
    if not has_best:
      warn(
        "best/ lacks the step of the lowest loss: free some space and run the "
        "same command, or give the other programs --checkpoint=latest"
      )
    if self._stop:
      to_resume = ": run the same command to resume" if saved else ""
      say(f"stopped after step {step:,}{to_resume}\n")
    else:
      say(f"trained to step {step:,}\n")
      if saved and has_best and 0 < step == self.trainer.last_step:
        self._score_result(step)
    whole = saved and has_best and self.metrics.whole
    return (self._stop.exit_code or DONE) if whole else INCOMPLETE

  def _score_result(self, step: int) -> None:
    """Scores the best checkpoint, or the last one without a valid text.

    Prints a sample of it, too.
    """
    evaluator, generator = self._evaluator, self._generator
    chosen, _ = find_checkpoint(self.run, "auto")
    if chosen != step:
      model, _ = load_model(self.run, "auto", self.layer)
      evaluator = Evaluator(model)
      generator = GenerativeModel(model, self.run.vocab)
    losses = self.metrics.losses_of("eval")
    if chosen not in losses:
      numbers = _numbers_of(evaluator, self.split.eval, self.run.vocab)
      self._check_finite(numbers["loss"], chosen)
      self.metrics.write(chosen, "eval", numbers)
      losses = self.metrics.losses_of("eval")
    if self.run.has_valid_text:
      valid_loss = self.metrics.losses[chosen]
      say(f"best checkpoint: step {chosen:,}, valid loss {valid_loss:.4f}\n")
    nats, unit = losses[chosen], self.run.config.unit
    bits = nats / math.log(2)
    say(f"eval loss {nats:.4f} nats per {unit} ({bits:.4f} bits)\n")
    say(f"sample at temperature {_SAMPLE.temperature}:\n")
    say(f"{self._sample(generator)}\n")
    programs = "sample.py, eval.py and report.py read this run"
    say(f"{programs}: --run_dir={self.run.path}\n")

  def _write_metrics(self, step: int) -> None:
    """Writes the training's numbers; warns of a loss that has exploded."""
    metrics = self.trainer.take_metrics()
    self.metrics.write(step, "train", metrics._asdict())
    # Warned of once, when the mean rises more than 1 nat above the lowest. In a
    # training that goes well, it rises by less.
    if self._last_loss <= self._lowest_loss + 1 < metrics.loss:
      warn(
        f"the mean loss of the steps up to {step:,} is {metrics.loss:.4g}, but "
        f"the lowest was {self._lowest_loss:.4g}: {DIVERGED_REMEDY}"
      )
    self._last_loss = metrics.loss
    self._lowest_loss = min(self._lowest_loss, metrics.loss)

  def _check_stop(self) -> None:
    if self._stop:
      raise _Interrupted

  def _evaluate(self, step: int) -> None:
    """Evaluates a step, unless it has a record, and saves it if it is best."""
    if step in self.metrics.losses:
      self.checkpoints.save_if_best(step, self.metrics.losses)
      return
    started = time.monotonic()
    try:
      numbers = _numbers_of(self._evaluator, self._text, self.run.vocab)
    except _Interrupted:  # the next start repeats it
      return
    loss, sample = numbers["loss"], self._sample(self._generator)
    self._check_finite(loss, step)
    record = {**numbers, "sample": sample}
    self.metrics.write(step, self.run.choosing_part, record)
    self.checkpoints.save_if_best(step, self.metrics.losses)
    in_best = self.checkpoints.best_step == step
    losses_since = self._losses_since_evaluation
    self._screen.show_evaluation(
      step,
      train_loss=statistics.fmean(losses_since) if losses_since else None,
      loss=loss,
      # Without a valid text, the programs take the last step.
      is_best=in_best and self.run.has_valid_text,
      sample=sample.removeprefix(self._shown_prefix),
    )
    self._losses_since_evaluation = []
    self._warn_of_rises()
    if not self._has_evaluated:  # it compiled
      self._screen.leave_out(time.monotonic() - started)
      self._has_evaluated = True

  def _warn_of_rises(self) -> None:
    losses = self.metrics.losses
    rises = _rises_at_end(list(losses.values()))
    if self.run.has_valid_text and rises == _RISES:
      lowest = min(losses, key=losses.__getitem__)
      warn(
        f"the valid loss has risen {_RISES} times in a row: it was lowest at "
        f"step {lowest:,} (Ctrl-C stops; best/ keeps that step)"
      )

  def _check_finite(self, loss: float, step: int) -> None:
    if not all_finite(loss):
      raise DivergedError(
        f"the loss after step {step} is not finite: {DIVERGED_REMEDY}"
      )

  def _sample(self, generator: GenerativeModel) -> str:
    """Returns the prefix, and what a model writes after it."""
    request = dataclasses.replace(_SAMPLE, prefix=self._prefix)
    text = self._prefix + generator.sample(request)[0].text
    return readable(text, self._text.encoding)


def _numbers_of(
  evaluator: Evaluator, text: Text, vocab: list[str]
) -> dict[str, float]:
  """Scores a text; returns what its record holds."""
  ids = text.ids_in(vocab)
  score = Score.of(text, nats=evaluator.stream(ids), ids=ids[1:])
  return {
    "loss": score.log_perplexity,
    "perplexity": score.perplexity,
    "bits_per_character": score.bits_per_character,
    "bits_per_byte": score.bits_per_byte,
  }


def _rises_at_end(losses: list[float]) -> int:
  """Returns how many times in a row the last losses have risen."""
  rises = [one < other for one, other in itertools.pairwise(losses)]
  return len(list(itertools.takewhile(bool, reversed(rises))))
