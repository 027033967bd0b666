"""A start on a worker that is not the chief: it trains, and writes nothing."""

from collections.abc import Callable, Sequence

from charlm.data.corpus import Split
from charlm.system.process import say
from charlm.training.build import build_worker_trainer
from charlm.training.hooks import Hooks
from charlm.training.options import StartOptions, TrainOptions, periods
from charlm.training.replicas import Replicas
from charlm.training.trainer import Trainer
from charlm.training.workers import ChiefEndedError, Workers


def follow(options: TrainOptions, split: Split, workers: Workers) -> int:
  """Trains beside the chief, writing nothing; returns the chief's exit code.

  Raises:
    InputError: bad input, or the replicas compute wrong sums.
    DivergedError: a loss or a gradient is not finite, or the replicas differ.
    LostRunError: the chief failed, or a worker was lost.
  """
  cluster = workers.cluster
  say(
    f"worker   index {cluster.index}, of {cluster.num_workers} workers; the "
    f"chief is {cluster.name(0)}\n"
  )
  workers.wait_for_chief()  # it looks for an initial vocabulary
  vocab = cluster.from_chief(None)
  trainer = build_worker_trainer(options, split, vocab, cluster)
  workers.wait_for_chief()  # it makes or checks the run's folder
  return Follower(options, trainer, workers).run()


class Follower(Hooks):
  """Takes the steps that the chief takes, and waits where the chief works."""

  def __init__(
    self, options: StartOptions, trainer: Trainer, workers: Workers
  ) -> None:
    """Takes this start's options, and a trainer that has not trained yet."""
    self.trainer, self.workers = trainer, workers
    self.replicas = Replicas(workers.cluster, trainer)
    # When the chief evaluates and saves.
    self.periods = periods(options, trainer.batches.steps_per_epoch)

  def run(self) -> int:
    """Trains on from the chief's step, beside it; returns its exit code.

    Raises:
      InputError: the replicas compute wrong sums.
      DivergedError: a loss or a gradient is not finite, or replicas differ.
      ChiefEndedError: the chief failed.
    """
    trainer = self.trainer
    self.workers.wait_for_chief()  # it restores
    self.workers.cluster.copy_from_chief(trainer.variables)
    self.replicas.check_start()
    self.workers.wait_for_chief()  # it writes what it starts with
    with self.workers.stop:
      self.workers.wait_for_chief()  # it may repeat an evaluation
      trainer.train(trainer.num_steps, self.periods.metrics, self)
      self._wait_for_chief(trainer.step)  # it saves
    self.workers.wait_for_chief()  # it scores and samples
    exit_code = self.workers.finish(0)
    if exit_code and not self.workers.stop:
      raise ChiefEndedError(self.workers.cluster, exit_code)
    return exit_code

  def periodic(self) -> Sequence[tuple[int, Callable[[int], object]]]:
    """Returns when the chief evaluates and saves."""
    # In the chief's order, since each wait has its counterpart there.
    return (
      (self.periods.evaluation, self._wait_for_chief),
      (self.periods.checkpoint, self._wait_for_chief),
    )

  def next_stop(self, step: int, planned: int) -> int:
    """Returns where the call of the graph function ends, as the chief says."""
    return self.workers.next_stop(step, planned)

  def _wait_for_chief(self, step: int) -> None:
    """Checks the replicas with the chief, then waits while it works."""
    self.replicas.check_weights()
    self.workers.wait_for_chief()
