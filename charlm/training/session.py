"""What happens between and after the steps of one start of a run."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from contextlib import closing, suppress

from charlm.data.text import Ids, readable
from charlm.errors import DivergedError
from charlm.evaluation.evaluator import Evaluator
from charlm.evaluation.score import Score, unit_of
from charlm.runs.checkpoints import Checkpoints
from charlm.runs.metrics import Metrics
from charlm.sampling.generator import GenerativeModel
from charlm.sampling.options import Request
from charlm.sampling.sample import SEPARATOR
from charlm.system.process import DONE, INCOMPLETE, warn
from charlm.training.hooks import TrainMetrics
from charlm.training.options import StartOptions, periods
from charlm.training.profile import Profile
from charlm.training.progress_bar import ProgressBar
from charlm.training.replicas import Replicas
from charlm.training.trainer import DIVERGED_REMEDY, Trainer
from charlm.training.workers import Workers

_SAMPLE_CHARS = 500
_PREFIX_CHARS = 100  # of the eval text: the prefix of the second sample


class _GivenUp(Exception):
  """A stop was asked for in the middle of an evaluation."""


@dataclasses.dataclass(frozen=True, eq=False)
class HeldOutTexts:
  """What checkpoints are compared on, as ids `[N]` of a vocabulary.

  The checkpoint with the lowest loss on the valid text or, if that is empty, on
  the eval text is the best.
  """

  vocab: list[str]
  eval_ids: Ids
  valid_ids: Ids
  eval_start: str  # the first characters of the eval text
  eval_bytes: int  # of all characters of the eval text but the first
  encoding: str = "utf-8"


class Session:
  """Continues a run to its end, and leaves score, sample, and checkpoint.

  It implements the trainer's `Hooks`: it writes metrics, evaluates and saves
  when that is due.

  An evaluation scores the texts, saves the best checkpoint if the loss is the
  lowest so far, and then writes its record to the metrics; the step's own
  checkpoint, if it is due, follows. It may be left unfinished in two ways:

  - A signal or a kill ends it before the record is written. The next start
    finds a checkpoint of the step without a record, and repeats the evaluation.
  - The best checkpoint could not be saved. The train state keeps the earlier
    best loss, so that the next start, if it begins at this step, finds a
    record with a lower one, and repeats the evaluation without a second record.
  """

  def __init__(
    self,
    options: StartOptions,
    trainer: Trainer,
    texts: HeldOutTexts,
    checkpoints: Checkpoints,
    metrics: Metrics,
    profile: Profile,
    bar: ProgressBar,
    workers: Workers,
    replicas: Replicas,
  ) -> None:
    """Takes a trainer that is restored, and what belongs to its run.

    Args:
      options: say when to evaluate and to save.
      trainer: at the step to continue from.
      texts: what checkpoints are compared on.
      checkpoints: saves the trainer's objects.
      metrics: opened at the trainer's step.
      profile: profiles some of the steps to come, or none.
      bar: shows the trainer's progress.
      workers: keeps the workers in step; this one is the chief.
      replicas: are checked before each save.
    """
    self._periods = periods(options, trainer.batches.steps_per_epoch)
    self._trainer, self._texts = trainer, texts
    self._checkpoints, self._metrics = checkpoints, metrics
    self._profile, self._bar = profile, bar
    give_up = self._give_up_if_asked
    self._evaluator = Evaluator(trainer.model, before_piece=give_up)
    self._generator = GenerativeModel(trainer.model, texts.vocab)
    self._prefix = texts.eval_start[:_PREFIX_CHARS]
    self._scores: dict[int, Score] = {}  # of the step last scored
    # The lowest loss whose best checkpoint could not be saved.
    self._lost_loss = math.inf
    self._last_loss = math.inf  # of the training, in this start
    self._workers, self._replicas = workers, replicas
    self._stop = workers.stop

  def run(self) -> int:
    """Trains, saves, prints score and sample; returns the exit code.

    Raises:
      DivergedError: a loss or a gradient is not finite, or the replicas
        differ; nothing is saved after it.
      LostRunError: the folder was taken away.
    """
    trainer = self._trainer
    with self._stop, closing(self._metrics), closing(self._profile):
      with self._workers.chief_works():
        if self._lacks_evaluation(trainer.step):
          self._evaluate(trainer.step)
      with self._workers.cluster.final_barrier_on(DivergedError):
        trainer.train(trainer.num_steps, self._periods.metrics, self)
      self._replicas.check_weights()
      with self._workers.chief_works():
        saved = self._checkpoints.save(trainer.step)
    # Outside the stop request: with no save to come, Ctrl-C ends at once.
    with self._workers.chief_works():
      exit_code = self._end(saved)
    return self._workers.finish(exit_code)

  def _end(self, saved: bool) -> int:
    """Prints score and sample; returns the exit code."""
    step, words = self._trainer.step, ""
    if not self._stop:
      with suppress(_GivenUp):  # a signal to another worker
        words = _describe_score(step, self._score(step))
    best_saved = self._trainer.train_state.best_loss.numpy() <= self._lost_loss
    whole = saved and best_saved and self._metrics.whole
    if self._stop:
      to_resume = ": run the same command to resume" if saved else ""
      self._bar.log(f"stopped after step {step:,}{to_resume}")
      return self._stop.exit_code if whole else INCOMPLETE
    self._bar.log(f"trained to {words}\n{SEPARATOR}\n{self._sample()}")
    return DONE if whole else INCOMPLETE

  def show_progress(self, step: int, loss: float, speed: float) -> None:
    """Redraws the progress bar."""
    self._bar.show(step, loss, speed)

  def write_metrics(self, step: int, metrics: TrainMetrics) -> None:
    """Writes the training's numbers; warns of a loss that has exploded."""
    self._metrics.write(step, "train", dataclasses.asdict(metrics))
    uniform = math.log(len(self._texts.vocab))
    if self._last_loss < uniform < metrics.loss:
      warn(
        f"warning: the loss of step {step:,} is {metrics.loss:.2f}, above that "
        f"of a uniform guess, {uniform:.2f}: {DIVERGED_REMEDY}"
      )
    self._last_loss = metrics.loss

  def periodic(self) -> Sequence[tuple[int, Callable[[int], object]]]:
    """Returns when to evaluate and when to save.

    The evaluation comes first: a checkpoint holds the best loss known by then.
    """
    return (
      (self._periods.evaluation, self._checked(self._evaluate)),
      (self._periods.checkpoint, self._checked(self._checkpoints.save)),
      # A period of 1 makes each graph call run one step: the profile then
      # shows the steps one by one.
      *([(1, self._profile.at)] if self._profile.steps else []),
    )

  def next_stop(self, step: int, planned: int) -> int:
    """Returns `planned`, or `step` if a signal came to any worker."""
    return self._workers.next_stop(step, planned)

  def _checked(
    self, action: Callable[[int], object]
  ) -> Callable[[int], object]:
    """Wraps an action: replicas are checked, then the chief alone runs it."""

    def checked(step: int) -> None:
      self._replicas.check_weights()
      with self._workers.chief_works():
        action(step)

    return checked

  def _lacks_evaluation(self, step: int) -> bool:
    """Tells whether the step that this start begins at lacks its evaluation.

    A step whose best checkpoint could not be saved counts as lacking it, too.
    """
    if record := self._metrics.evaluation:
      loss: float = record.get("valid_loss", record["loss"])
      return loss < self._trainer.train_state.best_loss.numpy()
    due = step % self._periods.evaluation == 0
    return step > 0 and (due or step == self._trainer.num_steps)

  def _give_up_if_asked(self) -> None:
    self._workers.beat()
    if self._stop:
      raise _GivenUp

  def _evaluate(self, step: int) -> None:
    try:
      # The valid text, if there is one, decides which checkpoint is the best.
      score = deciding = self._score(step)
      if len(self._texts.valid_ids):
        deciding = self._evaluator.stream(self._texts.valid_ids)
    except _GivenUp:  # the next start repeats it
      return
    names, words = ("perplexity", "bits_per_character", "bits_per_byte"), ""
    numbers = {"loss": score.log_perplexity}
    numbers |= {name: getattr(score, name) for name in names}
    if len(self._texts.valid_ids):
      numbers["valid_loss"] = deciding.log_perplexity
      words = f", valid log perplexity {deciding.log_perplexity:.4f}"
    if not math.isfinite(score.log_perplexity + deciding.log_perplexity):
      raise DivergedError(
        f"the loss after step {step} is not finite: {DIVERGED_REMEDY}"
      )
    # From fixed prefixes and seeds, so that the samples of two steps can be
    # compared.
    samples = {
      "sample": self._sample(),
      "continuation": self._sample(self._prefix, 1),
    }
    # The record comes after the best checkpoint: after a kill between them, the
    # next start finds no record, and does all of this again.
    self._note_best(step, deciding.log_perplexity)
    record = self._metrics.evaluation
    if record is None or record["step"] != step:
      self._metrics.write(step, "eval", numbers | samples)
    self._bar.log(_describe_score(step, score) + words)

  def _note_best(self, step: int, loss: float) -> None:
    """Saves a best checkpoint if its loss is lower than all before."""
    best = self._trainer.train_state.best_loss
    before = best.numpy()
    if loss >= before:
      return
    best.assign(loss)
    if not self._checkpoints.save_best(step):
      # The next start is to find this evaluation incomplete.
      best.assign(before)
      self._lost_loss = min(loss, self._lost_loss)

  def _score(self, step: int) -> Score:
    # At the end it is asked for twice: for the metrics, and to be printed.
    if step not in self._scores:
      score = self._evaluator.stream(self._texts.eval_ids)
      texts = self._texts
      score = dataclasses.replace(
        score, num_bytes=texts.eval_bytes, unit=unit_of(texts.encoding)
      )
      self._scores = {step: score}
    return self._scores[step]

  def _sample(self, prefix: str = "", seed: int = 0) -> str:
    """Returns a prefix and what the model writes after it, for a person."""
    request = Request(prefix=prefix, num_chars=_SAMPLE_CHARS, seed=seed)
    text = prefix + self._generator.sample(request)[0].text
    return readable(text, self._texts.encoding)


def _describe_score(step: int, score: Score) -> str:
  return (
    f"step {step:,}: eval log perplexity {score.log_perplexity:.4f} "
    f"({score.in_bits}), perplexity {score.perplexity:.3f}"
  )
