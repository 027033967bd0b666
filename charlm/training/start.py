"""One start of a run: restores, describes, and continues the run."""

from typing import Any

from charlm.data.corpus import Split
from charlm.model.gru import FusedGRU
from charlm.runs.checkpoints import Checkpoints
from charlm.runs.metrics import Metrics
from charlm.runs.provenance import describe_start, start_differences
from charlm.runs.run_dir import RunDir
from charlm.system.choices import (
  GRU,
  ONLY_FUSED,
  TENSOR_FLOAT_32,
  kind_of_device,
  reason_for_one_replica,
)
from charlm.system.cluster import Cluster
from charlm.system.devices import num_devices
from charlm.system.process import warn, warn_unsaved
from charlm.training.options import TrainOptions, periods
from charlm.training.profile import Profile
from charlm.training.progress_bar import ProgressBar
from charlm.training.replicas import Replicas
from charlm.training.session import Session
from charlm.training.trainer import Trainer
from charlm.training.workers import Workers


def start_run(
  options: TrainOptions,
  run: RunDir,
  trainer: Trainer,
  split: Split,
  vocab: list[str],
  workers: Workers,
) -> int:
  """Restores a locked run, continues it, and returns the exit code.

  The chief does this, while the other workers call `Follower.run`.

  The trainer must not have trained yet.

  Raises:
    InputError: no checkpoint is whole, or the replicas compute wrong sums.
    DivergedError: a loss or a gradient is not finite, or the replicas differ.
    LostRunError: the folder was taken away.
  """
  replicas = Replicas(workers.cluster, trainer)
  with workers.chief_works():
    # Other programs restore `model`, and read the step under `optimizer`.
    objects = {"model": trainer.model, "optimizer": trainer.optimizer}
    objects["train_state"] = trainer.train_state
    checkpoints = Checkpoints(run, options.max_to_keep, **objects)
    step = checkpoints.restore_latest()
  # Other workers need not see the chief's disk, and write nothing to it.
  workers.cluster.copy_from_chief(trainer.variables)
  replicas.check_start()
  with workers.chief_works():
    # Saved before any metrics: a run that was killed early must have a
    # checkpoint to resume from.
    saved = checkpoints.save(step)
    metrics = Metrics(run, step)
    bar = ProgressBar(trainer.num_steps, trainer.batches.steps_per_epoch, step)
    start = _log_start(run, step, trainer, workers.cluster, saved)
    bar.log(_describe(run, trainer, start, options))
    profile = Profile(run, _steps_to_profile(options, trainer))
  when = periods(options, trainer.batches.steps_per_epoch)
  parts = checkpoints, metrics, profile, bar, workers, replicas
  return Session(when, trainer, split, vocab, *parts).run()


def _log_start(
  run: RunDir, step: int, trainer: Trainer, cluster: Cluster, saved: bool
) -> dict[str, Any]:
  """Writes how and where this start runs; warns if that is new.

  It writes only if a checkpoint was saved: a logged start and no checkpoint
  mean a lost one.
  """
  start = describe_start(step, trainer.devices, cluster.num_workers)
  # Before `log_start` makes this start the last one.
  if (last := run.last_start()) and (names := start_differences(last, start)):
    warn(
      f"this start differs from the last one in {', '.join(names)}: rounding "
      "may make the numbers differ from an uninterrupted run's"
    )
  try:
    if saved:
      run.log_start(start)
  except OSError as error:
    warn_unsaved("this start could not be logged", error, run.path)
  return start


def _steps_to_profile(
  options: TrainOptions, trainer: Trainer
) -> tuple[int, ...]:
  steps = tuple(map(int, filter(None, options.profile_steps.split(","))))
  step, end = trainer.step, trainer.num_steps
  if steps and not step < steps[0] < end:
    warn(
      f"no profile: step {steps[0]} is not between step {step} and step {end}"
    )
    return ()
  return steps


def _describe(
  run: RunDir, trainer: Trainer, start: dict[str, Any], options: TrainOptions
) -> str:
  model, batches, end = trainer.model, trainer.batches, trainer.num_steps
  counts = [f"{layer.name} {layer.count_params():,}" for layer in model.layers]
  versions = [f"{name} {v}" for name, v in start["versions"].items()]
  return (
    f"model    {' + '.join(counts)} = {model.count_params():,} weights\n"
    f"steps    {end:,} (an epoch has {batches.steps_per_epoch:,}), "
    f"{batches.characters_per_step:,} characters each, from step "
    f"{start['step']:,}\n"
    f"devices  {_describe_devices(start, options)}\n"
    f"gru      {_describe_gru(trainer, options)}\n"
    f"products {_describe_precision(options)}\n"
    f"code     {', '.join(versions)}, commit {start['commit'] or 'unknown'}\n"
    f"run      {run.path}"
  )


def _describe_devices(start: dict[str, Any], options: TrainOptions) -> str:
  """Returns the devices of this worker, and why they are those."""
  reason = "--device=cpu"
  if options.device != "cpu":
    found = "a" if kind_of_device() == "GPU" else "no"
    reason = f"TensorFlow finds {found} GPU"
  if options.num_replicas:
    reason += f", --num_replicas={options.num_replicas}"
  threads = start["intra_op_threads"] or "automatic"
  devices = ", ".join(start["devices"])
  if start["workers"] > 1:
    devices += f" on each of {start['workers']} workers"
  elif not options.num_replicas and len(start["devices"]) < num_devices():
    how = options.precision, options.dropout_rate, options.gru
    alone = reason_for_one_replica(options.batch_size, options.rnn_units, *how)
    why = f"one, for {alone}" if alone else "as many as divide --batch_size"
    reason += f": of {num_devices()} devices, {why}"
  return f"{devices} ({reason}; intra-op threads: {threads})"


def _describe_gru(trainer: Trainer, options: TrainOptions) -> str:
  """Returns which GRU layer computes, and why."""
  kind = "fused" if isinstance(trainer.model.grus[0], FusedGRU) else "keras"
  reason = GRU.reason if kind == GRU.here else ONLY_FUSED
  if options.gru != "auto":
    reason = "--gru"
  if trainer.uses_xla:
    reason += "; compiled by XLA, for few windows"
  return f"{kind} ({reason})"


def _describe_precision(options: TrainOptions) -> str:
  """Returns the precision of the matrix products, and why."""
  may_be_short = options.precision == "float32" and TENSOR_FLOAT_32.here
  if may_be_short and not options.deterministic:
    return f"TensorFloat-32 if the GPU has it ({TENSOR_FLOAT_32.reason})"
  return f"{options.precision} (--precision)"
