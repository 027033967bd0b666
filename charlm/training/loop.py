"""The training loop: when to take steps, and what is due between them."""

import contextlib
import dataclasses
import itertools
import math
from collections.abc import Mapping

import numpy as np

from charlm.data.split import Split
from charlm.data.text import Text, readable
from charlm.data.vocabulary import PADDING_ID
from charlm.errors import DivergedError, all_finite
from charlm.evaluation.evaluator import Evaluator
from charlm.evaluation.score import Score
from charlm.runs.checkpoints import Checkpoints
from charlm.runs.metrics import Metrics, Record
from charlm.sampling.generator import SEPARATOR, GenerativeModel
from charlm.sampling.request import Request
from charlm.system.devices import Choice, kind_of_device
from charlm.system.messages import warn
from charlm.system.process import DONE, INCOMPLETE, StopRequest
from charlm.training.announce import ProgressBar
from charlm.training.options import TrainOptions
from charlm.training.replicas import Replicas
from charlm.training.trainer import DIVERGED_REMEDY, Trainer
from charlm.training.workers import Cluster

# The fewest steps between two checkpoints by default: a GPU can take a quarter
# of an epoch in less time than a save.
_LEAST_CHECKPOINT_STEPS = Choice(1, 100)
_SAMPLE_CHARS = 500
_PREFIX_CHARS = 100  # of the eval text: the prefix of the second sample
_RISES = 3  # in a row, of the valid loss: the model has begun to overfit


class Periods:
  """Periods in steps: of metrics, of evaluations, and of checkpoints."""

  def __init__(self, options: TrainOptions, steps_per_epoch: int) -> None:
    """Takes flags; what is 0 has its default."""
    # Enough points for a curve, but a mean of few steps is noise.
    self.metrics = options.summary_every_steps or max(10, steps_per_epoch // 80)
    self.evaluation = options.eval_every_steps or steps_per_epoch
    # What a kill can cost at most.
    quarter = max(-(-steps_per_epoch // 4), _LEAST_CHECKPOINT_STEPS.here)
    self.checkpoint = options.checkpoint_every_steps or quarter

  def next_due(self, step: int) -> int:
    """Returns the next step at which one of them ends."""
    periods = (self.metrics, self.evaluation, self.checkpoint)
    return min((step // period + 1) * period for period in periods)


class _GivenUp(Exception):
  """A stop was asked for in the middle of an evaluation."""


@dataclasses.dataclass(eq=False, kw_only=True)
class TrainingLoop:
  """Takes a run's steps to its end: all that a worker but the chief does."""

  periods: Periods  # when to write metrics, to evaluate, and to save
  trainer: Trainer  # restored, at the step to continue from
  cluster: Cluster  # all of its workers do the same
  replicas: Replicas  # checked before each evaluation and save

  def __post_init__(self) -> None:
    self._stop = StopRequest()

  def run(self) -> int:
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
        self._continue(step, loss, characters_per_second)
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
    """Does what a start has to do at its first step."""

  def _continue(
    self, step: int, loss: float, characters_per_second: float
  ) -> None:
    """Does what is due at a step, after a call of the trainer."""

  def _save_rest(self, step: int) -> bool:
    """Saves what is not saved yet; tells whether the step is."""
    return True

  def _end(self, step: int, saved: bool) -> int:
    """Tells the result; returns the exit code."""
    return self._stop.exit_code or DONE


@dataclasses.dataclass(eq=False, kw_only=True)
class ChiefLoop(TrainingLoop):
  """The chief's loop, which leaves metrics, score, sample, and checkpoints.

  An evaluation scores the texts, writes its record to the metrics, and saves
  the best checkpoint if its loss is the lowest. The step's own checkpoint, if
  due, follows. `Checkpoints.save_if_best` says what becomes of a step at which
  this is cut short.
  """

  # The best checkpoint has the lowest loss on the valid text or, if that is
  # empty, on the eval text.
  split: Split
  vocab: list[str]  # the model's
  checkpoints: Checkpoints  # of the trainer's objects
  metrics: Metrics  # opened at the trainer's step
  bar: ProgressBar  # of the trainer's steps

  def __post_init__(self) -> None:
    super().__post_init__()
    model, give_up = self.trainer.model, self._give_up_if_asked
    self._evaluator = Evaluator(model, before_piece=give_up)
    self._generator = GenerativeModel(model, self.vocab)
    self._told_step: int | None = None  # whose scores were printed
    # Mean losses of the training, in this start.
    self._last_loss = self._lowest_loss = math.inf

  def _compile(self) -> None:
    super()._compile()
    # The shapes of an evaluation, whatever the length of a text.
    with contextlib.suppress(_GivenUp):
      self._evaluator.stream(np.full(2, PADDING_ID))
    self._generator.sample(Request(prefix="\n\n", num_chars=1))

  def _begin(self, step: int) -> None:
    reached = step > 0 and self._evaluation_due(step)
    if reached or step in self.metrics.losses:
      self._evaluate(step)

  def _continue(
    self, step: int, loss: float, characters_per_second: float
  ) -> None:
    self.bar.show(step, loss, characters_per_second)
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
    if self._stop:
      to_resume = ": run the same command to resume" if saved else ""
      self.bar.log(f"stopped after step {step:,}{to_resume}")
    else:
      if step != self._told_step:  # nothing was left to train
        self._tell(step, self._score(), self._score_valid())
      self.bar.log(f"trained to step {step:,}")
    best, evaluations = self.checkpoints.best_step, self.metrics.evaluations
    has_best = self.checkpoints.has_best(self.metrics.losses)
    if not has_best:
      warn(
        "best/ lacks the step of the lowest loss: free some space and run the "
        "same command, or give the other programs --checkpoint=latest"
      )
    elif (
      saved and len(self.split.valid) and best in evaluations
    ):  # if it has a record
      self.bar.log(_describe_best(best, step, evaluations))
    if not self._stop:
      self.bar.log(f"{SEPARATOR}\n{self._sample()}")
    whole = saved and has_best and self.metrics.whole
    return (self._stop.exit_code or DONE) if whole else INCOMPLETE

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

  def _give_up_if_asked(self) -> None:
    if self._stop:
      raise _GivenUp

  def _evaluate(self, step: int) -> None:
    """Evaluates a step, unless it has a record, and saves it if it is best."""
    if step not in self.metrics.losses:
      try:
        self._write_evaluation(step)
      except _GivenUp:  # the next start repeats it
        return
    self.checkpoints.save_if_best(step, self.metrics.losses)

  def _write_evaluation(self, step: int) -> None:
    """Scores the texts, draws samples, and writes the record.

    Raises:
      DivergedError: a loss is not finite.
      _GivenUp: a stop was asked for.
    """
    score, valid = self._score(), self._score_valid()
    numbers = {
      "loss": score.log_perplexity,
      "perplexity": score.perplexity,
      "bits_per_character": score.bits_per_character,
      "bits_per_byte": score.bits_per_byte,
    }
    if valid:  # decides which checkpoint is the best
      numbers["valid_loss"] = valid.log_perplexity
    if not all_finite(numbers["loss"], numbers.get("valid_loss", 0)):
      raise DivergedError(
        f"the loss after step {step} is not finite: {DIVERGED_REMEDY}"
      )
    # From fixed prefixes and seeds, so that the samples of two steps can be
    # compared.
    start = str(self.split.eval.part(0, _PREFIX_CHARS))
    samples = {
      "sample": self._sample(),
      "continuation": self._sample(start, seed=1),
    }
    self.metrics.write(step, "eval", {**numbers, **samples})
    self._tell(step, score, valid)
    losses = self.metrics.losses
    if valid and _rises_at_end(list(losses.values())) == _RISES:
      lowest = min(losses, key=losses.__getitem__)
      warn(
        f"the valid loss has risen {_RISES} times in a row: it was lowest at "
        f"step {lowest:,} (Ctrl-C ends the training)"
      )

  def _score(self) -> Score:
    return self._score_of(self.split.eval)

  def _score_valid(self) -> Score | None:
    valid = self.split.valid
    return self._score_of(valid) if len(valid) else None

  def _score_of(self, text: Text) -> Score:
    ids = text.ids_in(self.vocab)
    return Score.of(text, nats=self._evaluator.stream(ids), ids=ids[1:])

  def _tell(self, step: int, score: Score, valid: Score | None) -> None:
    self.bar.log(_describe_scores(step, score, valid))
    self._told_step = step

  def _sample(self, prefix: str = "", seed: int = 0) -> str:
    """Returns a prefix and what the model writes after it, for a person."""
    request = Request(prefix=prefix, num_chars=_SAMPLE_CHARS, seed=seed)
    text = prefix + self._generator.sample(request)[0].text
    return readable(text, self.split.eval.encoding)


def _rises_at_end(losses: list[float]) -> int:
  """Returns how many times in a row the last losses have risen."""
  rises = [one < other for one, other in itertools.pairwise(losses)]
  return len(list(itertools.takewhile(bool, reversed(rises))))


def _describe_best(
  best: int, latest: int, evaluations: Mapping[int, Record]
) -> str:
  """Describes the steps of the latest and of the best checkpoint."""
  lines = []
  for name, step in (("latest", latest), ("best", best)):
    scores = "not evaluated"
    if record := evaluations.get(step):
      scores = f"valid log perplexity {record['valid_loss']:.4f}, "
      scores += f"eval {record['loss']:.4f}"
    lines.append(f"{name:<8} step {step:,}: {scores}")
  if best == latest:
    return f"{lines[1]}; it is the latest, too"
  why = "the valid loss was lowest"
  return "\n".join([*lines, f"{why} at step {best:,}: best/ has that model"])


def _describe_scores(step: int, score: Score, valid: Score | None) -> str:
  bits = ", ".join(f"{x:.4f} bits per {unit}" for unit, x in score.bits.items())
  line = (
    f"step {step:,}: eval log perplexity {score.log_perplexity:.4f} ({bits}), "
    f"perplexity {score.perplexity:.3f}"
  )
  if valid:
    nats, bits_of_valid = valid.log_perplexity, valid.bits_per_character
    line += f", valid log perplexity {nats:.4f} ({bits_of_valid:.4f} bits)"
  return line
