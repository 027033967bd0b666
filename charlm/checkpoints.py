"""Saving and restoring all that training needs to go on exactly."""

import os
import pathlib
import shutil

import tensorflow as tf

from charlm.command import warn
from charlm.config import InputError
from charlm.files import write_atomically
from charlm.run_dir import DAMAGE, RunDir, checkpoint_steps


class Checkpoints:
  """The recent checkpoints and the best one of a run that is being trained."""

  def __init__(
    self, run: RunDir, max_to_keep: int, **objects: tf.Module
  ) -> None:
    """Takes the objects by their names in a checkpoint, `model` among them."""
    self._run = run
    self._last_step = -1  # of the newest checkpoint that is known to be whole
    self._checkpoint = tf.train.Checkpoint(**objects)
    run.check_owned()
    self._recent = self._manager(run.recent, max_to_keep)
    self._best = self._manager(run.best, 1)

  def restore_latest(self) -> int:
    """Restores the newest whole checkpoint; warns of damaged ones.

    It is read as a whole: TensorFlow compares the checksum of each tensor.

    Returns its step, 0 for a new run.

    Raises InputError: no checkpoint is whole, though the run has begun.
    """
    found = [
      (step, folder)
      for folder in (self._run.best, self._run.recent)
      for step in checkpoint_steps(folder, whole=False)
    ]
    # The sort leaves the best one of a step first, which knows that it is.
    for step, folder in sorted(found, key=lambda x: x[0], reverse=True):
      path = folder / f"ckpt-{step}"
      try:
        self._checkpoint.restore(str(path)).assert_consumed()
      except DAMAGE:
        warn(f"skipped {path}: it is not whole")
        continue
      if folder == self._run.recent:
        self._last_step = step
      return step
    if found or self._run.has_begun():
      raise InputError(
        f"{self._run.path} has begun, but no checkpoint is whole: restore one, "
        "or give a new --run_dir"
      )
    return 0

  def save(self, step: int) -> bool:
    """Saves, unless this step is saved already; tells whether it is."""
    if step != self._last_step and self._save(self._recent, step):
      self._last_step = step
    return step == self._last_step

  def save_best(self, step: int) -> bool:
    """Saves as the best one; tells whether that worked."""
    self._last_step = -1  # that of this step knows an older best loss
    return self._save(self._best, step)

  def _save(self, manager: tf.train.CheckpointManager, step: int) -> bool:
    try:
      # TensorFlow would make the folder of a run that was moved away anew.
      self._run.check_owned()
      manager.save(checkpoint_number=step)
    except (OSError, tf.errors.OpError) as error:
      self._run.check_owned()
      warn(
        f"step {step} is not saved ({type(error).__name__}): check the free "
        f"space and the permissions of {manager.directory}"
      )
      return False
    return True

  def _manager(
    self, folder: pathlib.Path, max_to_keep: int
  ) -> tf.train.CheckpointManager:
    folder.mkdir(exist_ok=True)
    _clear(folder)
    # The manager believes its state file, which can be missing, garbled or name
    # other folders' files: say afresh what is there.
    state_file = folder / "checkpoint"
    state_file.unlink(missing_ok=True)
    if names := [f'"ckpt-{step}"' for step in checkpoint_steps(folder)]:
      state = [f"model_checkpoint_path: {names[-1]}\n"]
      state += [f"all_model_checkpoint_paths: {name}\n" for name in names]
      # Without times, which are not needed else, none would ever be deleted.
      state += ["all_model_checkpoint_timestamps: 1\n"] * len(names)
      write_atomically(state_file, "".join(state).encode())
    return tf.train.CheckpointManager(
      self._checkpoint,
      os.fspath(folder),
      max_to_keep,
      checkpoint_name="ckpt",
    )


def _clear(folder: pathlib.Path) -> None:
  """Removes what a kill left of a save, or of the removal of a checkpoint."""
  for left_over in folder.glob("ckpt-*_temp"):
    shutil.rmtree(left_over)
  for data in folder.glob("ckpt-*.data-00000-of-00001"):
    # A save ends with the index, a removal begins with it.
    if not data.with_suffix(".index").exists():
      data.unlink()
  for left_over in folder.glob(".checkpoint.*"):
    left_over.unlink()
