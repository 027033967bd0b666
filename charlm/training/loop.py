"""The training loop: steps, and between them metrics, evaluations and saves."""

import dataclasses
import itertools
import math
import statistics
import time

from charlm.data.split import Split
from charlm.data.text import Text, readable
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
from charlm.system.devices import Choice
from charlm.system.messages import say, warn
from charlm.system.process import DONE, INCOMPLETE, StopRequest
from charlm.training.announce import Screen
from charlm.training.options import TrainOptions
from charlm.training.replicas import Replicas
from charlm.training.trainer import DIVERGED_REMEDY, Trainer
from charlm.training.workers import Cluster

# The fewest steps between checkpoints by default: on a GPU, a quarter of an
# epoch can take less time than a save.
_LEAST_CHECKPOINT_STEPS = Choice(1, 100)
_PREFIX_CHARS = 20  # the longest prefix of samples, from the valid text
_SAMPLE = Request(num_chars=500, temperature=0.7)
_FEWEST_EVALUATIONS = 10  # of a run with a valid text
_RISES = 3  # of the valid loss in a row that show overfitting


class Periods:
  """The periods of metrics, evaluations, and checkpoints, in steps."""

  def __init__(
    self,
    options: TrainOptions,
    *,
    steps_per_epoch: int,
    last_step: int,
    has_valid_text: bool,
    by_epochs: bool = False,
  ) -> None:
    """Takes the flags, and replaces 0 by a default.

    With `by_epochs`, the default is an evaluation per epoch, as in runs of an
    earlier release.
    """
    # Enough points for a curve, but a mean of few steps is noise.
    self.metrics = options.summary_every_steps or max(10, steps_per_epoch // 80)
    by_default = steps_per_epoch
    if has_valid_text and not by_epochs:
      share = max(1, -(-last_step // _FEWEST_EVALUATIONS))
      by_default = min(steps_per_epoch, share)
    self.evaluation = options.eval_every_steps or by_default
    # A kill costs at most this many steps.
    quarter = max(-(-steps_per_epoch // 4), _LEAST_CHECKPOINT_STEPS.here)
    self.checkpoint = options.checkpoint_every_steps or quarter

  def next_due(self, step: int) -> int:
    """Returns the next step at which a period ends."""
    periods = (self.metrics, self.evaluation, self.checkpoint)
    return min((step // period + 1) * period for period in periods)


class _Interrupted(Exception):
  """A signal to stop arrived during an evaluation."""


@dataclasses.dataclass(eq=False, kw_only=True)
class TrainingLoop:
  """The loop that each worker runs, until the end of the run or a signal."""

  periods: Periods  # when to write metrics, to evaluate, and to save
  trainer: Trainer  # restored to the step at which training resumes
  cluster: Cluster  # whose workers all run this loop
  replicas: Replicas  # checked before each evaluation and save

  def __post_init__(self) -> None:
    self._stop = StopRequest()

  def train(self) -> int:
    """Trains; returns the exit code.

    Raises:
      DivergedError: a loss or a gradient is not finite; nothing is saved after
        it.
      LostRunError: the run's folder was moved or removed, or the replicas
        differ.
    """
    trainer, periods = self.trainer, self.periods
    step, end = trainer.step, trainer.last_step
    with self._stop:
      self._begin(step)
      while step < end:
        due = min(periods.next_due(step), end)
        num_steps = trainer.steps_per_call(at_most=due - step)
        num_steps = self.cluster.agree(num_steps, self._stop)
        if num_steps == 0:  # a worker got a signal to stop
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
    # Outside of `with self._stop`: all is saved, so Ctrl-C may end it at once.
    return self._end(step, saved)

  def _evaluation_due(self, step: int) -> bool:
    return step % self.periods.evaluation == 0 or step == self.trainer.last_step

  def _begin(self, step: int) -> None:
    """Prepares for the first step of a start."""

  def _continue(
    self,
    step: int,
    *,
    num_steps: int,
    loss: float,
    characters_per_second: float,
  ) -> None:
    """Does what is due at a step, after the trainer has reached it."""

  def _save_rest(self, step: int) -> bool:
    """Saves the last step; returns whether this succeeded."""
    return True

  def _end(self, step: int, saved: bool) -> int:
    """Reports the result; returns the exit code."""
    return self._stop.exit_code or DONE


@dataclasses.dataclass(eq=False, kw_only=True)
class ChiefLoop(TrainingLoop):
  """The chief's loop, which also writes metrics, samples and checkpoints.

  An evaluation scores the valid text, or without one the eval text. It writes a
  record to the metrics, then saves the best checkpoint if the loss is the
  lowest. The step's own checkpoint follows, if due. `Checkpoints.save_if_best`
  describes what happens if a kill interrupts this. With a valid text, the eval
  text is scored once, at the end.
  """

  run: Run  # locked by this process
  layer: type[RecurrentLayer] | None  # the user's own class, if any
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
      self.trainer.model, before_chunk=self._check_stop
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
    # All of these are of this start only.
    self._last_loss = self._lowest_loss = math.inf  # of the train metrics
    self._losses_since_evaluation: list[float] = []  # of each step
    self._has_evaluated = False

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
    # Before the save, since a checkpoint holds the lowest loss so far.
    if self._evaluation_due(step):
      self._evaluate(step)
    if step % self.periods.checkpoint == 0:
      self.checkpoints.save(step)

  def _save_rest(self, step: int) -> bool:
    self.metrics.write_rest()
    return self.checkpoints.save(step)

  def _end(self, step: int, saved: bool) -> int:
    """Prints the score and a sample; returns the exit code."""
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
    complete = saved and has_best and self.metrics.whole
    return (self._stop.exit_code or DONE) if complete else INCOMPLETE

  def _score_result(self, step: int) -> None:
    """Scores and samples the best checkpoint; without a valid text, the last.

    The score is that of the eval text.
    """
    evaluator, generator = self._evaluator, self._generator
    chosen, _ = find_checkpoint(self.run, "auto")  # a step
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
    loss, unit = losses[chosen], self.run.config.unit
    bits = loss / math.log(2)
    say(f"eval loss {loss:.4f} nats per {unit} ({bits:.4f} bits)\n")
    say(f"sample at temperature {_SAMPLE.temperature}:\n")
    say(f"{self._sample(generator)}\n")
    programs = "sample.py, eval.py and report.py read this run"
    say(f"{programs}: --run_dir={self.run.path}\n")

  def _write_metrics(self, step: int) -> None:
    """Writes the train metrics, and warns if the loss has exploded."""
    metrics = self.trainer.take_metrics()
    self.metrics.write(step, "train", metrics._asdict())
    # Warns when the mean crosses the lowest one plus 1 nat. In a training that
    # goes well, it rises by less.
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
    except _Interrupted:  # the next start evaluates this step
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
      # Without a valid text, the other programs use the last step.
      is_best=in_best and self.run.has_valid_text,
      sample=sample.removeprefix(self._shown_prefix),
    )
    self._losses_since_evaluation = []
    self._warn_of_rises()
    if not self._has_evaluated:  # the first evaluation compiles
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
    """Returns the prefix with a model's continuation."""
    request = dataclasses.replace(_SAMPLE, prefix=self._prefix)
    text = self._prefix + generator.sample(request)[0].text
    return readable(text, self._text.encoding)


def _numbers_of(
  evaluator: Evaluator, text: Text, vocab: list[str]
) -> dict[str, float]:
  """Scores a text; returns the numbers of its record in the metrics."""
  ids = text.ids_in(vocab)
  score = Score.of(text, nats=evaluator.stream(ids), ids=ids[1:])
  return {
    "loss": score.log_perplexity,
    "perplexity": score.perplexity,
    "bits_per_character": score.bits_per_character,
    "bits_per_byte": score.bits_per_byte,
  }


def _rises_at_end(losses: list[float]) -> int:
  """Counts how many times in a row the last losses have risen."""
  rises = [one < other for one, other in itertools.pairwise(losses)]
  return len(list(itertools.takewhile(bool, reversed(rises))))
