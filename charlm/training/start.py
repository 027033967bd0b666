"""One start (execution of train.py): makes or resumes the run, then trains.

The order is: devices, run, trainer, restore, loop. All workers execute this;
only the chief writes into the run's folder, and the others read it.
"""

import contextlib
import dataclasses
import math
import os
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from charlm.config import Config
from charlm.data.batches import build_batches
from charlm.data.vocabulary import SPECIAL, extend_vocab
from charlm.errors import DivergedError, InputError
from charlm.model.language_model import LanguageModel, lacking_options
from charlm.model.layers import RecurrentLayer
from charlm.runs.checkpoints import Checkpoints
from charlm.runs.initial import open_initial
from charlm.runs.metrics import Metrics
from charlm.runs.provenance import describe_start, start_differences
from charlm.runs.run import Experiment, Run, Start
from charlm.runs.trained_model import load_initial
from charlm.system.devices import (
  choose_device,
  create_strategy,
  kind_of_device,
  use_first_gpus,
)
from charlm.system.messages import say, warn, warn_unsaved
from charlm.training.announce import (
  COMPILES,
  announce_initial,
  describe_text,
  describe_training,
  warn_of_files,
)
from charlm.training.loop import ChiefLoop, Periods, TrainingLoop
from charlm.training.options import TrainOptions
from charlm.training.prepare import Prepared, prepare
from charlm.training.recipes import shown_settings
from charlm.training.replicas import Replicas, number_of_replicas
from charlm.training.trainer import Trainer, build_trainer
from charlm.training.workers import (
  Cluster,
  check_alike,
  connect,
  find_workers,
)


def train(
  *, layer: type[RecurrentLayer] | str | None = None, **flags: Any
) -> int:
  """Trains as `train.py` does; returns the exit code.

  Args:
    layer: the name of a layer, or the class of your own, whose name becomes
      `--layer`.
    **flags: the flags of `train.py`, as in `corpus="my.txt", recipe="auto"`.

  Raises:
    TypeError: there is no such flag.
    Others as `start`.
  """
  own = None if isinstance(layer, str) else layer
  if layer:
    flags["layer"] = own.__name__ if own else layer
  return start(prepare(flags), own)


def start(prepared: Prepared, layer: type[RecurrentLayer] | None = None) -> int:
  """Trains with the result of `prepare`; returns the exit code.

  `layer` is the class of a layer that is not charlm's, if `--layer` names one.

  Raises:
    InputError: the input is bad.
    DivergedError: a loss or a gradient is not finite.
    LostRunError: nothing can be saved, the run's folder was moved or removed, a
      worker was lost, or the replicas differ.
    OSError: the folder or the metrics cannot be written.
  """
  prepared = _drop_unsupported_options(prepared, layer)
  cluster = _set_up_devices(prepared.options)
  with cluster.watched(), _only_chief_prints(cluster):
    return _train(prepared, cluster, layer)


def _train(
  prepared: Prepared, cluster: Cluster, layer: type[RecurrentLayer] | None
) -> int:
  """Makes or resumes the run, and trains; returns the exit code."""
  options = prepared.options
  first_evaluated = 0  # the step of the run's first evaluation; 0 without one
  with contextlib.ExitStack() as stack:
    prepared, run, initial = _begin(prepared, cluster, layer)
    check_alike(cluster, prepared, run.vocab)
    if kind_of_device() == "GPU":
      say(f"{COMPILES}\n")
    trainer = _build_trainer(prepared, run, cluster, layer)
    checkpoints = _checkpoints_of(run, trainer)
    with cluster.barrier():
      if cluster.is_chief:
        # Locking makes the folder. A start that is refused above leaves none.
        stack.enter_context(run.locked())
        _create_or_resume(prepared, run, trainer)
        _restore(
          prepared,
          run=run,
          trainer=trainer,
          checkpoints=checkpoints,
          initial=initial,
          layer=layer,
        )
        metrics = Metrics(run, trainer.step, shown_settings(run.config))
        record = _log_start(run, trainer, cluster)
        first_evaluated = next(iter(metrics.losses), 0)
    _restore_from_chief(
      run, trainer=trainer, checkpoints=checkpoints, cluster=cluster
    )
    replicas = Replicas(cluster, trainer)
    if options.profile_port:
      tf.profiler.experimental.server.start(options.profile_port)
    first_evaluated = cluster.broadcast(first_evaluated)
    periods = _periods_of(run, options, trainer, first_evaluated)
    if not cluster.is_chief:
      return TrainingLoop(
        periods=periods, trainer=trainer, cluster=cluster, replicas=replicas
      ).train()
    say(describe_training(run, trainer, record))
    loop = ChiefLoop(
      periods=periods,
      trainer=trainer,
      cluster=cluster,
      replicas=replicas,
      run=run,
      layer=layer,
      split=prepared.split,
      checkpoints=checkpoints,
      metrics=metrics,
    )
    try:
      return loop.train()
    except DivergedError:
      # For `report.py`. A resumed training drops it with all later records.
      metrics.write(trainer.step, "train", {"loss": math.nan})
      raise


def _drop_unsupported_options(
  prepared: Prepared, layer: type[RecurrentLayer] | None
) -> Prepared:
  """Gives options that the layer does not support their defaults; says so."""
  options = prepared.options
  defaults = {}
  for name in lacking_options(options.config, options.gru, layer):
    defaults[name] = getattr(TrainOptions, name)
    flag = f"--{name}={defaults[name]}"
    say(f"default  {flag}: --layer={options.layer} has no other\n")
  return prepared._replace(options=dataclasses.replace(options, **defaults))


def _set_up_devices(options: TrainOptions) -> Cluster:
  """Chooses this process' devices, and connects it to the other workers."""
  choose_device(options.device)
  addresses, index = find_workers()
  num_replicas = number_of_replicas(
    options.config,
    asked=options.num_replicas,
    gru=options.gru,
    num_workers=max(1, len(addresses)),
  )
  if len(addresses) > 1:
    use_first_gpus(num_replicas)
    cluster = connect(addresses, index)
  else:
    strategy = create_strategy(num_replicas, or_fewer=not options.num_replicas)
    cluster = Cluster(strategy)
  return cluster


@contextlib.contextmanager
def _only_chief_prints(cluster: Cluster) -> Iterator[None]:
  """Discards the output of the other workers, which would be the same."""
  if cluster.is_chief:
    yield
  else:
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
      yield


def _begin(
  prepared: Prepared, cluster: Cluster, layer: type[RecurrentLayer] | None
) -> tuple[Prepared, Run, LanguageModel | None]:
  """Returns the start, its run, and on the chief the run's initial model.

  If `auto` may choose the model of English, the chief does, and the others
  follow.
  """
  candidate = prepared.english or prepared
  initial, is_close = None, True
  with cluster.barrier():
    run = candidate.run or _new_run(candidate)
    if cluster.is_chief and run.config.init_from and not candidate.run:
      # Before the folder is made: an unsuitable model must not leave one.
      initial = _load_initial(candidate, run, layer)
      is_close = announce_initial(
        initial,
        name=run.config.init_from,
        split=prepared.split,
        vocab=run.vocab,
        known=candidate.initial.vocab if candidate.initial else run.vocab,
        by_auto=bool(prepared.english),
      )
  if cluster.broadcast(is_close) or not prepared.english:
    return candidate, run, initial
  return prepared, _new_run(prepared), None


def _new_run(prepared: Prepared) -> Run:
  """Returns a run that is not yet on disk."""
  config, corpus = prepared.options.config, prepared.corpus
  known = prepared.initial.vocab if prepared.initial else SPECIAL
  vocab = extend_vocab(known, corpus.frequent(config.min_count))
  if vocab == SPECIAL:
    raise InputError(
      f"no character occurs {config.min_count} times: lower --min_count"
    )
  experiment = Experiment.of(config, corpus, vocab, prepared.split)
  return Run(prepared.options.run_dir, experiment, vocab)


def _load_initial(
  prepared: Prepared, run: Run, layer: type[RecurrentLayer] | None
) -> LanguageModel:
  """Loads the model of `--init_from`, also for a run that was killed early."""
  config = run.config
  return load_initial(
    prepared.initial or open_initial(config.init_from),
    config=config,
    vocab_size=len(run.vocab),
    layer=layer,
  )


def _build_trainer(
  prepared: Prepared,
  run: Run,
  cluster: Cluster,
  layer: type[RecurrentLayer] | None,
) -> Trainer:
  """Builds a worker's trainer, which reads only the worker's rows."""
  config: Config = prepared.options.config
  train_text = prepared.split.train
  num_rows = config.batch_size // cluster.num_workers
  first = cluster.index * num_rows
  batches = build_batches(
    train_text.ids,
    config,
    rows=range(first, first + num_rows),
    table=train_text.table(run.vocab),
  )
  return build_trainer(
    config,
    len(run.vocab),
    batches,
    cluster.strategy,
    gru=prepared.options.gru,
    layer=layer,
  )


def _checkpoints_of(run: Run, trainer: Trainer) -> Checkpoints:
  return Checkpoints(
    run,
    model=trainer.model,
    optimizer=trainer.optimizer,
    train_state=trainer.train_state,
  )


def _periods_of(
  run: Run, options: TrainOptions, trainer: Trainer, first_evaluated: int
) -> Periods:
  steps_per_epoch = trainer.batches.steps_per_epoch
  return Periods(
    options,
    steps_per_epoch=steps_per_epoch,
    last_step=trainer.last_step,
    has_valid_text=run.has_valid_text,
    by_epochs=first_evaluated == steps_per_epoch,
  )


def _create_or_resume(prepared: Prepared, run: Run, trainer: Trainer) -> None:
  """Writes a new run, or checks that the start may resume its run."""
  config, split = prepared.options.config, prepared.split
  if prepared.run:
    experiment = Experiment.of(config, prepared.corpus, run.vocab, split)
    run.resume(experiment, trainer.batches.steps_per_epoch)
  else:
    warn_of_files(config, split, run.vocab)
    run.create(split)
  say(describe_text(config, prepared.corpus, split, run.vocab))


def _restore(
  prepared: Prepared,
  *,
  run: Run,
  trainer: Trainer,
  checkpoints: Checkpoints,
  initial: LanguageModel | None,
  layer: type[RecurrentLayer] | None,
) -> None:
  """Restores the latest checkpoint, or starts from the initial model.

  Then saves a checkpoint, from which the other workers restore, and a run that
  is killed early resumes.
  """
  restored = checkpoints.restore_latest()
  if run.config.init_from and restored is None:
    # Not loaded yet if a kill came before the run's first checkpoint.
    initial = initial or _load_initial(prepared, run, layer)
    trainer.model.set_weights(initial.get_weights())
  checkpoints.save(trainer.step)


def _restore_from_chief(
  run: Run, *, trainer: Trainer, checkpoints: Checkpoints, cluster: Cluster
) -> None:
  """Restores the chief's checkpoint on the other workers.

  Raises InputError: a worker does not see it.
  """
  with cluster.barrier():
    step = cluster.broadcast(trainer.step)
    if not cluster.is_chief and not checkpoints.restore_from_chief(step):
      raise InputError(
        f"{cluster.name(cluster.index)} does not see ckpt-{step} in "
        f"{run.latest}: give a folder that all hosts share"
      )


def _log_start(run: Run, trainer: Trainer, cluster: Cluster) -> Start:
  """Logs versions and devices; warns if they differ from the last start's."""
  start = describe_start(trainer.step, trainer.devices, cluster.num_workers)
  start["num_weights"] = trainer.model.count_params()
  start["last_step"] = trainer.last_step
  starts = run.starts()
  if starts and (names := start_differences(starts[-1], start)):
    why = "rounding may make the numbers differ from an uninterrupted run's"
    warn(f"this start differs from the last one in {', '.join(names)}: {why}")
  try:
    run.log_start(start)
  except OSError as error:
    warn_unsaved("this start could not be logged", error, run.path)
  return start
