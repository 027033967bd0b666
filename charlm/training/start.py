"""One start (execution of train.py): makes or resumes the run, then trains.

Devices, workers, run, trainer, checkpoint, loop: in this order. All workers run
it; the chief alone writes the run's folder, and the others read it there.
"""

import contextlib
import dataclasses
import os
from typing import Any

import tensorflow as tf

from charlm.config import Config
from charlm.data.batches import build_batches
from charlm.data.corpus import Split
from charlm.data.text_to_ids import Corpus
from charlm.data.vocabulary import SPECIAL, extend_vocab
from charlm.errors import InputError
from charlm.experiment import Start
from charlm.model.language_model import LanguageModel, lacking_options
from charlm.model.layers import RecurrentLayer
from charlm.runs.checkpoints import Checkpoints
from charlm.runs.initial import open_initial
from charlm.runs.metrics import Metrics
from charlm.runs.provenance import describe_start, start_differences
from charlm.runs.run import create_run, experiment_of, open_run
from charlm.runs.run_dir import RunDir
from charlm.runs.trained_model import load_initial
from charlm.system.choices import (
  LEAST_CHECKPOINT_STEPS,
  kind_of_device,
  reason_for_one_replica,
)
from charlm.system.cluster import Cluster, create_cluster
from charlm.system.devices import choose_device
from charlm.system.process import say, warn, warn_unsaved
from charlm.training.announce import (
  COMPILES,
  describe_initial,
  describe_recipe,
  describe_text,
  describe_training,
  warn_of_files,
)
from charlm.training.loop import StepLoop, TrainingLoop
from charlm.training.prepare import Prepared, prepare
from charlm.training.progress_bar import ProgressBar
from charlm.training.replica_checks import Replicas
from charlm.training.train_options import Periods, TrainOptions
from charlm.training.trainer import Trainer, build_trainer
from charlm.training.workers import check_alike


def train(*, layer: type[RecurrentLayer] | None = None, **flags: Any) -> int:
  """Trains as `train.py` does; returns the exit code.

  Args:
    layer: the class of a layer of your own, whose name is then `--layer`.
    **flags: those of `train.py`: `corpus="my.txt", recipe="auto"`.

  Raises:
    TypeError: there is no such flag.
    Otherwise as `start`.
  """
  return start(prepare(flags), layer)


def start(prepared: Prepared, layer: type[RecurrentLayer] | None = None) -> int:
  """Trains with what was prepared; returns the exit code.

  Raises:
    InputError: bad input, or replicas whose sums are wrong.
    DivergedError: a loss or a gradient is not finite, or the replicas differ.
    LostRunError: nothing can be saved, the folder was taken away, or a worker
      was lost.
    HungError: the GPUs do not answer.
    OSError: the folder or the metrics cannot be written.
  """
  options, corpus, split = prepared
  if layer:
    options = dataclasses.replace(options, layer=layer.__name__)
  options = _without_what_the_layer_lacks(options, layer)
  choose_device(options.device, start=False)
  if options.deterministic:
    tf.config.experimental.enable_op_determinism()
  num_replicas = options.num_replicas
  if not num_replicas and reason_for_one_replica(options.config, options.gru):
    num_replicas = 1
  # With 0, `create_cluster` decides.
  cluster = create_cluster(num_replicas, options.batch_size)
  with cluster.watched():
    return _start(options, corpus, split, cluster, layer)


def _without_what_the_layer_lacks(
  options: TrainOptions, layer: type[RecurrentLayer] | None
) -> TrainOptions:
  """Returns the options; what the layer lacks has its default, and is said."""
  defaults = {}
  for name in lacking_options(options.config, options.gru, layer):
    defaults[name] = getattr(TrainOptions, name)
    said = f"default  --{name}={defaults[name]}"
    say(f"{said}: --layer={options.layer} has no other\n")
  return dataclasses.replace(options, **defaults)


def _start(
  options: TrainOptions,
  corpus: Corpus,
  split: Split,
  cluster: Cluster,
  layer: type[RecurrentLayer] | None,
) -> int:
  """Opens the run, restores it, and continues it; returns the exit code."""
  config, run_dir = options.config, RunDir(options.run_dir)
  with contextlib.ExitStack() as stack:
    if not cluster.is_chief:  # which prints the same
      nowhere = stack.enter_context(open(os.devnull, "w"))
      stack.enter_context(contextlib.redirect_stdout(nowhere))
    with cluster.together():
      run = open_run(run_dir.path) if run_dir.exists() else None
      if run and cluster.is_chief:
        stack.enter_context(run_dir.locked())
      vocab = run.vocab if run else _new_vocabulary(config, corpus)
      # Before a folder is made: no run begins where this model is refused.
      new = config.init_from and cluster.is_chief and not run
      initial = _load_initial(config, vocab, layer) if new else None
    with cluster.together():
      check_alike(
        cluster,
        options=options,
        corpus=corpus,
        split=split,
        vocab=vocab,
        resumes=run is not None,
      )
    if kind_of_device() == "GPU":
      say(f"{COMPILES}\n")
    trainer = _build_trainer(options, split, vocab, cluster, layer)
    steps_per_epoch = trainer.batches.steps_per_epoch
    replicas = Replicas(cluster, trainer)
    checkpoints = Checkpoints(
      run_dir,
      options.max_to_keep,
      model=trainer.model,
      optimizer=trainer.optimizer,
      train_state=trainer.train_state,
    )
    periods = Periods(options, steps_per_epoch, LEAST_CHECKPOINT_STEPS.here)
    if not cluster.is_chief:
      with cluster.together():
        pass  # the chief makes or resumes the run
      with cluster.together():
        _restore_from_chief(cluster, run_dir, checkpoints)
      replicas.check_start()
      return StepLoop(
        periods=periods, trainer=trainer, cluster=cluster, replicas=replicas
      ).run()
    with cluster.together():
      experiment = experiment_of(config, corpus, vocab, split)
      if run:
        run = run.resume(experiment, steps_per_epoch)
      else:
        # Locking makes the folder: only now, so that a refused start leaves
        # none.
        stack.enter_context(run_dir.locked())
        warn_of_files(config, split, vocab)
        run = create_run(run_dir, experiment, vocab, split)
        say(describe_recipe(config, split))
      say(describe_text(config, corpus, split, vocab))
      restored = checkpoints.restore_latest()
      if config.init_from and restored is None:
        # A kill can have come before a run had its first checkpoint.
        initial = initial or _load_initial(config, vocab, layer)
        trainer.take_weights(initial)
        say(describe_initial(config, initial, trainer.model, split, vocab))
      # Saved before any metrics: a run that was killed early must have a
      # checkpoint to resume from, and the other workers restore it.
      step = trainer.step
      checkpoints.save(step)
      metrics = Metrics(run_dir, run.config, step)
      start = describe_start(step, trainer.devices, cluster.num_workers)
      _log_start(run_dir, start)
    with cluster.together():
      cluster.of_chief(step)
    replicas.check_start()
    if options.profile_port:
      tf.profiler.experimental.server.start(options.profile_port)
    bar = ProgressBar(trainer.last_step, steps_per_epoch, step)
    bar.log(describe_training(run_dir, trainer, start, options))
    return TrainingLoop(
      periods=periods,
      trainer=trainer,
      split=split,
      vocab=vocab,
      checkpoints=checkpoints,
      metrics=metrics,
      bar=bar,
      cluster=cluster,
      replicas=replicas,
    ).run()


def _restore_from_chief(
  cluster: Cluster, run_dir: RunDir, checkpoints: Checkpoints
) -> None:
  """Restores the checkpoint that the chief has restored or saved.

  Raises InputError: this worker does not see it.
  """
  step = cluster.of_chief(0)
  if not checkpoints.restore_from_chief(step):
    raise InputError(
      f"{cluster.name(cluster.index)} does not see ckpt-{step} in "
      f"{run_dir.latest}: give a folder that all hosts share"
    )


def _new_vocabulary(config: Config, corpus: Corpus) -> list[str]:
  """Returns the vocabulary of a new run, which begins with the initial one."""
  initial = open_initial(config.init_from)
  known = initial.vocab if initial else SPECIAL
  vocab = extend_vocab(known, corpus.frequent(config.min_count))
  if vocab == SPECIAL:
    raise InputError(
      f"no character occurs {config.min_count} times: lower --min_count"
    )
  return vocab


def _load_initial(
  config: Config, vocab: list[str], layer: type[RecurrentLayer] | None
) -> LanguageModel:
  """Returns the model that `--init_from` names."""
  return load_initial(
    open_initial(config.init_from),
    config=config,
    vocab_size=len(vocab),
    layer=layer,
  )


def _build_trainer(
  options: TrainOptions,
  split: Split,
  vocab: list[str],
  cluster: Cluster,
  layer: type[RecurrentLayer] | None,
) -> Trainer:
  """Returns the trainer of a worker, which reads only its own rows."""
  config = options.config
  num_rows = config.batch_size // cluster.num_workers
  first = cluster.index * num_rows
  batches = build_batches(
    split.train.ids,
    config,
    rows=range(first, first + num_rows),
    table=split.train.table(vocab),
  )
  return build_trainer(
    config,
    len(vocab),
    batches,
    cluster.strategy,
    gru=options.gru,
    layer=layer,
  )


def _log_start(run_dir: RunDir, start: Start) -> None:
  """Logs how and where this start runs; warns if the last one ran otherwise."""
  # Before `log_start` makes this start the last one.
  starts = run_dir.starts()
  if starts and (names := start_differences(starts[-1], start)):
    why = "rounding may make the numbers differ from an uninterrupted run's"
    warn(f"this start differs from the last one in {', '.join(names)}: {why}")
  try:
    run_dir.log_start(start)
  except OSError as error:
    warn_unsaved("this start could not be logged", error, run_dir.path)
