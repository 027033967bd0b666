"""Saving and restoring all that training needs to go on exactly."""

import contextlib
import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf

from charlm.errors import InputError, LostRunError
from charlm.model.language_model import GRULM
from charlm.runs.run_dir import RunDir, checkpoint_steps
from charlm.system.files import CHECKPOINT_SUFFIXES, plain_path
from charlm.system.process import warn, warn_unsaved

_STEP_KEY = "optimizer/_iterations/.ATTRIBUTES/VARIABLE_VALUE"


class DamagedError(ValueError):
  """A damaged checkpoint; its text follows the path: "is damaged"."""


class Checkpoints:
  """The latest checkpoints and the best one of a run that is being trained."""

  def __init__(self, run: RunDir, max_to_keep: int, **objects: object) -> None:
    """Takes the objects by their names in a checkpoint.

    `model` and `optimizer` are among them.

    The saves raise LostRunError as `RunDir.check_owned`, and if the run has no
    checkpoint and none can be saved.
    """
    self._run, self._max_to_keep = run, max_to_keep
    # The last step that was saved in `latest`; -1: none was, or the checkpoint
    # there holds an old best loss and must be saved again.
    self._last_step = -1
    self._checkpoint = tf.train.Checkpoint(**objects)
    for folder in (run.latest, run.best):
      folder.mkdir(exist_ok=True)
      _clear(run, folder)

  def restore_latest(self) -> int:
    """Restores the latest whole checkpoint; warns of damaged ones.

    Returns its step, 0 for a new run.

    Raises:
      InputError: no checkpoint is whole, though the run has begun.
      OSError: one cannot be read, which does not mean that it is damaged.
    """
    # If both folders hold the same step, the one in `best` is tried first: it
    # was saved after the step's evaluation, so only it is certain to hold the
    # best loss. The one in `latest`, perhaps saved before, is then saved again.
    folders = (self._run.best, self._run.latest)
    found = {(s, f) for f in folders for s in checkpoint_steps(f, whole=False)}
    for step in sorted({step for step, _ in found}, reverse=True):
      whole: list[Path] = []
      for folder in folders:
        if (step, folder) in found and self._read(folder, step, not whole):
          whole.append(folder)
      if whole == [self._run.latest]:
        self._last_step = step
      if whole:
        return step
    # A save of step 0 that failed, as on a full disk, loses nothing.
    trained = any(step for step, _ in found)
    if trained or self._run.has_metrics() or self._run.last_start():
      raise InputError(
        f"the run in {self._run.path} has no whole checkpoint: restore a "
        "checkpoint, or give a new --run_dir"
      )
    return 0

  def save(self, step: int) -> bool:
    """Saves, unless this step is saved already; tells whether it is."""
    to_save = self._run.latest, self._max_to_keep, step
    if step != self._last_step and self._save(*to_save):
      self._last_step = step
    return step == self._last_step

  def save_best(self, step: int) -> bool:
    """Saves as the best one; tells whether that worked."""
    # A checkpoint of this step in `latest`, if any, holds an older best loss.
    self._last_step = -1
    return self._save(self._run.best, 1, step)

  def _read(self, folder: Path, step: int, restore: bool) -> bool:
    """Tells whether a checkpoint is whole; then restores it, if asked to."""
    path = folder / f"ckpt-{step}"
    try:
      with open_checkpoint(str(path), step) as name:
        if restore:
          # All must match: `expect_partial` only stops a late warning.
          self._checkpoint.restore(name).expect_partial().assert_consumed()
          check_finite(self._checkpoint.model)
    except DamagedError as error:
      warn(f"skipped {path}: it {error}")
      return False
    return True

  def _save(self, folder: Path, max_to_keep: int, step: int) -> bool:
    try:
      self._run.check_owned()
      folder.mkdir(exist_ok=True)
      # The manager trusts its state file, which can be garbled, or name files
      # of other folders. So it starts without one, and removes nothing.
      (folder / "checkpoint").unlink(missing_ok=True)
      with plain_path(folder) as name:
        tf.train.CheckpointManager(
          self._checkpoint, name, max_to_keep=None, checkpoint_name="ckpt"
        ).save(checkpoint_number=step)
      # First those of later steps, which were skipped as damaged.
      steps = sorted(checkpoint_steps(folder), key=lambda s: (s <= step, s))
      for old in steps[:-max_to_keep]:
        for suffix in CHECKPOINT_SUFFIXES:  # the index first: see `_clear`
          (folder / f"ckpt-{old}{suffix}").unlink(missing_ok=True)
    except (OSError, tf.errors.OpError) as error:
      if not self._run.checkpoint_steps():
        raise LostRunError(
          f"no checkpoint could be saved in {folder} ({type(error).__name__}): "
          "free some space or check the permissions, then run the same command"
        ) from error
      warn_unsaved(f"step {step} could not be saved", error, folder)
      return False
    return True


def _clear(run: RunDir, folder: Path) -> None:
  """Removes what a kill left of a save, or of the removal of a checkpoint."""
  for left_over in folder.glob("ckpt-*_temp"):
    shutil.rmtree(left_over)
  # A save ends with the index, a removal begins with it. If a run has begun and
  # no checkpoint is whole, an index was lost, and may be restored.
  if run.checkpoint_steps() or not run.last_start():
    for data in folder.glob("ckpt-*.data-00000-of-00001"):
      if not data.with_suffix(".index").exists():
        data.unlink()
  for path in folder.glob("checkpoint.tmp*"):
    path.unlink()


def check_finite(model: GRULM) -> None:
  """Raises DamagedError for a model with weights that are not finite."""
  if not all(np.isfinite(weight).all() for weight in model.get_weights()):
    raise DamagedError("has weights that are not finite")


@contextlib.contextmanager
def open_checkpoint(path: str, step: int) -> Iterator[str]:
  """Checks a checkpoint, and yields a path from which TensorFlow restores it.

  All of it is read, so that TensorFlow compares the checksum of each tensor.

  Raises:
    DamagedError: not whole, or of another step; or the body of the `with`
      statement failed, as restoring does for other sizes.
    OSError: it cannot be read.
  """
  with plain_path(Path(path)) as name:
    try:
      reader = tf.train.load_checkpoint(name)
      for key in reader.get_variable_to_shape_map():
        reader.get_tensor(key)
      held = int(reader.get_tensor(_STEP_KEY))
    except Exception as error:  # TensorFlow raises all kinds for rubbish
      # A file that cannot be read is not therefore damaged: reading all of both
      # files raises the system's error.
      with contextlib.suppress(FileNotFoundError):
        for suffix in CHECKPOINT_SUFFIXES:
          with open(path + suffix, "rb") as file:
            hashlib.file_digest(file, "sha256")
      raise DamagedError("is damaged") from error
    if held != step:
      raise DamagedError(f"holds step {held}")
    try:
      yield name
    except DamagedError:
      raise
    except Exception as error:  # Keras and TensorFlow raise all kinds here, too
      raise DamagedError(
        "does not fit config.json and vocabulary.json"
      ) from error
