"""A start on a worker that is not the chief: it trains, and writes nothing."""

from collections.abc import Callable, Sequence

from charlm.errors import DivergedError
from charlm.training.hooks import TrainMetrics
from charlm.training.options import StartOptions, periods
from charlm.training.replicas import Replicas
from charlm.training.trainer import Trainer
from charlm.training.workers import ChiefEndedError, Workers


class Follower:
  """Takes the steps that the chief takes, and waits where the chief works.

  It implements the trainer's `Hooks`, as the chief's `Session` does.
  """

  def __init__(
    self,
    options: StartOptions,
    trainer: Trainer,
    workers: Workers,
    replicas: Replicas,
  ) -> None:
    """Takes a trainer that has the chief's values."""
    self._trainer, self._workers, self._replicas = trainer, workers, replicas
    self._periods = periods(options, trainer.batches.steps_per_epoch)

  def run(self) -> int:
    """Trains beside the chief; returns the chief's exit code.

    Raises:
      DivergedError: a loss or a gradient is not finite, or replicas differ.
      ChiefEndedError: the chief failed.
    """
    trainer = self._trainer
    with self._workers.stop:
      self._workers.wait_for_chief()  # it may make up for an evaluation
      # Every worker has the same loss and norm, so all raise this.
      with self._workers.cluster.final_barrier_on(DivergedError):
        trainer.train(trainer.num_steps, self._periods.metrics, self)
      self._wait_for_chief(trainer.step)  # it saves
    self._workers.wait_for_chief()  # it scores and samples
    exit_code = self._workers.finish(0)
    if exit_code and not self._workers.stop:
      raise ChiefEndedError(self._workers.cluster, exit_code)
    return exit_code

  def show_progress(self, step: int, loss: float, speed: float) -> None:
    """The chief shows it."""

  def write_metrics(self, step: int, metrics: TrainMetrics) -> None:
    """The chief writes them."""

  def periodic(self) -> Sequence[tuple[int, Callable[[int], object]]]:
    """Returns when the chief evaluates and saves."""
    # In the chief's order, since each wait has its counterpart there.
    return (
      (self._periods.evaluation, self._wait_for_chief),
      (self._periods.checkpoint, self._wait_for_chief),
    )

  def next_stop(self, step: int, planned: int) -> int:
    """Returns where the chief stops."""
    return self._workers.next_stop(step, planned)

  def _wait_for_chief(self, step: int) -> None:
    """Checks the replicas with the chief, then waits while it works."""
    self._replicas.check_weights()
    self._workers.wait_for_chief()
