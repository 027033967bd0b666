"""A start on a worker that is not the chief: it trains, and writes nothing."""

from charlm.data.corpus import Split
from charlm.system.process import say
from charlm.training.build import build_worker_trainer
from charlm.training.hooks import Hooks
from charlm.training.options import Periods, TrainOptions
from charlm.training.replicas import Replicas
from charlm.training.workers import ChiefEndedError, Workers


def follow(options: TrainOptions, split: Split, workers: Workers) -> int:
  """Trains beside the chief, writing nothing; returns the chief's exit code.

  It takes the steps that the chief takes, and waits where the chief works.

  Raises:
    InputError: bad input, or the replicas compute wrong sums.
    DivergedError: a loss or a gradient is not finite, or the replicas differ.
    ChiefEndedError, with the chief's exit code: the chief met an error, or
      ended with a code other than 0 without a request to stop.
  """
  cluster = workers.cluster
  where = f"index {cluster.index}, of {cluster.num_workers} workers"
  say(f"worker   {where}; the chief is {cluster.name(0)}\n")
  workers.wait_for_chief()  # it looks for an initial vocabulary
  vocab = cluster.exchange([""])[0]  # the chief's; the others send a filler
  trainer = build_worker_trainer(options, split, vocab, cluster)
  replicas = Replicas(cluster, trainer)
  workers.wait_for_chief()  # it makes or checks the run's folder
  workers.wait_for_chief()  # it restores
  cluster.copy_from_chief(trainer.variables)
  replicas.check_start()
  workers.wait_for_chief()  # it writes what it starts with

  def wait(step: int) -> None:
    """Takes this worker's part in the chief's evaluation or checkpoint."""
    replicas.check_weights()
    workers.wait_for_chief()

  when = Periods(options, trainer.batches.steps_per_epoch)
  # In the chief's order, since each wait has its counterpart there.
  actions = [(when.evaluation, wait), (when.checkpoint, wait)]
  with workers.stop:
    workers.wait_for_chief()  # it may repeat an evaluation
    hooks = Hooks(actions, workers.next_stop)
    trainer.train(trainer.num_steps, when.metrics, hooks)
    wait(trainer.step)  # it saves
  workers.wait_for_chief()  # it scores and samples
  exit_code = workers.finish(0)
  if exit_code and not workers.stop:
    raise ChiefEndedError(cluster, exit_code)
  return exit_code
