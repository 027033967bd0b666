"""One start of a run: restores, describes, and continues the run."""

from typing import Any

from charlm.runs.checkpoints import Checkpoints
from charlm.runs.metrics import Metrics
from charlm.runs.provenance import describe_start, start_differences
from charlm.runs.run_dir import RunDir
from charlm.system.process import warn
from charlm.training.options import StartOptions
from charlm.training.profile import Profile
from charlm.training.progress_bar import ProgressBar
from charlm.training.session import HeldOutTexts, Session
from charlm.training.trainer import Trainer


def start_run(
  options: StartOptions,
  num_steps: int,
  run: RunDir,
  trainer: Trainer,
  texts: HeldOutTexts,
) -> int:
  """Restores a locked run, continues it, and returns the exit code.

  The trainer must not have trained yet. Training ends after `num_steps`.

  Raises DivergedError: a loss or a gradient is not finite.
  """
  others = {"optimizer": trainer.optimizer, "train_state": trainer.train_state}
  checkpoints = Checkpoints(
    run, options.max_to_keep, model=trainer.model, **others
  )
  step = checkpoints.restore_latest()
  # Saved before any metrics: a run that was killed early must have a checkpoint
  # to resume from.
  checkpoints.save(step)
  metrics = Metrics(run, step)
  steps = tuple(map(int, options.profile_steps))
  if steps and not step < steps[0] < num_steps:
    warn(
      f"no profile: step {steps[0]} is not between step {step} and step "
      f"{num_steps}"
    )
    steps = ()
  start = describe_start(step, trainer.devices)
  if (last := run.last_start()) and (names := start_differences(last, start)):
    warn(
      f"this start differs from the last one in {', '.join(names)}: rounding "
      "may make the numbers differ from an uninterrupted run's"
    )
  run.log_start(start)
  bar = ProgressBar(num_steps, trainer.batches.steps_per_epoch, step)
  bar.log(_describe(run, trainer, num_steps, start))
  profile = Profile(run, steps)
  session = Session(
    options, num_steps, trainer, texts, checkpoints, metrics, profile, bar
  )
  return session.run()


def _describe(
  run: RunDir, trainer: Trainer, num_steps: int, start: dict[str, Any]
) -> str:
  model, batches = trainer.model, trainer.batches
  counts = [f"{layer.name} {layer.count_params():,}" for layer in model.layers]
  versions = [f"{name} {v}" for name, v in start["versions"].items()]
  return (
    f"model    {' + '.join(counts)} = {model.count_params():,} weights\n"
    f"steps    {num_steps:,} (an epoch has {batches.steps_per_epoch:,}), "
    f"{batches.characters_per_step:,} characters each, from step "
    f"{start['step']:,}\n"
    f"devices  {', '.join(start['devices'])} (intra-op threads: "
    f"{start['intra_op_threads'] or 'automatic'})\n"
    f"code     {', '.join(versions)}, commit {start['commit'] or 'unknown'}\n"
    f"run      {run.path}"
  )
