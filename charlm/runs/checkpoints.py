"""Saving and restoring all that training needs to go on exactly."""

import contextlib
import math
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import keras
import tensorflow as tf

from charlm.errors import InputError, LostRunError, all_finite
from charlm.model.language_model import LanguageModel
from charlm.runs.run import CHECKPOINT_SUFFIXES, Run, checkpoint_steps
from charlm.system.files import read_json_lines
from charlm.system.messages import warn, warn_unsaved

_NO_MEMORY = (MemoryError, tf.errors.ResourceExhaustedError)
_CHUNK = 2**24  # bytes
_VISIBLE_WITHIN, _SECONDS_BETWEEN_LOOKS = 60.0, 0.5


class DamagedError(ValueError):
  """A damaged checkpoint; its text goes on after the path: "is damaged"."""


def which_checkpoint(run: Run, name: str) -> str:
  """Returns what `auto` stands for: `best`, if a valid text chose it.

  Other names are returned as they are.
  """
  if name != "auto":
    return name
  has_best = run.has_valid_text and checkpoint_steps(run.best)
  return "best" if has_best else "latest"


def find_checkpoint(run: Run, which: str) -> tuple[int, str]:
  """Finds a checkpoint: `auto`, `latest`, `best`, or a step.

  Returns its step, and its path without the suffixes of its files.

  Raises InputError: there is no such checkpoint.
  """
  which = which_checkpoint(run, which)
  # A later entry wins: of a step in both folders, the one in `checkpoints/`.
  # The weights are equal.
  found = {
    name: (step, folder)
    for word, folder in (("best", run.best), ("latest", run.latest))
    for step in checkpoint_steps(folder)
    for name in (str(step), word)
  }
  if which not in found:
    raise InputError(
      f"{run.path} has no checkpoint {which}; it has "
      f"{', '.join(sorted(found)) or 'none'}: give another checkpoint or run"
    )
  step, folder = found[which]
  return step, str(folder / f"ckpt-{step}")


class Checkpoints:
  """The latest checkpoints and the best one of a run that is being trained.

  `checkpoints/` has the latest ones, of any steps; `best/` has one, of a step
  that was evaluated. Each holds all that training needs to go on.
  """

  def __init__(
    self,
    run: Run,
    max_to_keep: int,
    *,
    model: LanguageModel,
    optimizer: keras.optimizers.Optimizer,
    train_state: tf.Module,
  ) -> None:
    """Takes what is saved and restored; `train_state` has the `best_loss`.

    `save` and `save_if_best` raise LostRunError if the folder was taken away,
    or if the run has no checkpoint and none can be saved.
    """
    self._run, self._max_to_keep = run, max_to_keep
    self._model, self._train_state = model, train_state
    # Other programs restore `model`.
    self._checkpoint = tf.train.Checkpoint(
      model=model, optimizer=optimizer, train_state=train_state
    )
    self._saved_step: int | None = None  # which `checkpoints/` has as it is now
    self._has_whole = False  # whether one was restored or saved
    # Which `best/` has; None if it has none, or until one is restored.
    self.best_step: int | None = None

  def restore_latest(self) -> int | None:
    """Restores the latest whole checkpoint; warns of damaged ones.

    Returns its step; None if nothing was restored, since the run is new.

    Raises:
      InputError: no checkpoint is whole, though the run has begun.
      OSError: one cannot be read, which does not mean that it is damaged.
      LostRunError: the folder was taken away.
    """
    self._run.check_owned()
    for folder in (self._run.latest, self._run.best):
      folder.mkdir(exist_ok=True)
      _clear(self._run, folder)
    # Of one step, the one in `best` comes first: it was saved after the step's
    # evaluation, and whether a kill has damaged it has to be known.
    folders = (self._run.latest, self._run.best)
    found = [
      (step, folder == self._run.best, folder)
      for folder in folders
      for step in checkpoint_steps(folder, whole=False)
    ]
    for step, is_best, folder in sorted(found, reverse=True):
      path = folder / f"ckpt-{step}"
      try:
        self._restore(path)
      except DamagedError as error:
        warn(f"skipped {path}: it {error}")
      else:
        if is_best:
          self.best_step = step
        else:
          self._saved_step = step
          self.best_step = self._find_best(step)
        self._has_whole = True
        return step
    # A save of step 0 that failed, as on a full disk, loses nothing.
    trained = any(step for step, *_ in found)
    if trained or self._run.starts() or read_json_lines(self._run.metrics_path):
      raise InputError(
        f"the run in {self._run.path} has no whole checkpoint: restore a "
        "checkpoint, or give a new --run_dir"
      )
    return None

  def restore_from_chief(self, step: int) -> bool:
    """Restores a step that another worker has saved; tells whether it can.

    It waits for the files up to a minute: a network's folder may be late.
    """
    end = time.monotonic() + _VISIBLE_WITHIN
    while time.monotonic() < end:
      for folder in (self._run.latest, self._run.best):
        if step in checkpoint_steps(folder):
          with contextlib.suppress(DamagedError):
            self._restore(folder / f"ckpt-{step}")
            return True
      time.sleep(_SECONDS_BETWEEN_LOOKS)
    return False

  def save(self, step: int) -> bool:
    """Saves, unless this step is saved already; tells whether it is."""
    folder, max_to_keep = self._run.latest, self._max_to_keep
    if step != self._saved_step and self._save(folder, max_to_keep, step):
      self._saved_step = step
    return step == self._saved_step

  def save_if_best(self, step: int, losses: Mapping[int, float]) -> None:
    """Saves this step in `best/` if its loss is below that of the step there.

    This is the whole rule of the best checkpoint. It is applied to each step
    that has a record, after its evaluation, and again if a start begins at it.
    A kill leaves a step without a record, which is then evaluated again.

    Args:
      step: an evaluated one, whose values the objects have.
      losses: by step, of all records.
    """
    best_loss = self._train_state.best_loss
    in_best = self._loss_in_best(losses)
    if losses[step] < best_loss.numpy():
      best_loss.assign(losses[step])
      # What `checkpoints/` may have of this step holds an older best loss.
      self._saved_step = None
    if losses[step] < in_best and self._save(self._run.best, 1, step):
      self.best_step = step

  def has_best(self, losses: Mapping[int, float]) -> bool:
    """Tells whether `best/` has the step of the lowest loss.

    It has not if that could not be saved, or was damaged.
    """
    lowest = min(losses.values(), default=math.inf)
    return self._loss_in_best(losses) <= lowest

  def _loss_in_best(self, losses: Mapping[int, float]) -> float:
    if self.best_step is None:
      return math.inf
    # The metrics can be lost: then it counts as the lowest so far.
    best_loss = float(self._train_state.best_loss.numpy())
    return losses.get(self.best_step, best_loss)

  def _restore(self, path: Path) -> None:
    with reading(str(path)):
      # All must match: `expect_partial` only stops a late warning.
      self._checkpoint.restore(str(path)).expect_partial().assert_consumed()
      check_finite(self._model)

  def _find_best(self, before: int) -> int | None:
    """Returns the step of a whole checkpoint in `best/`; warns of damage."""
    steps = [s for s in checkpoint_steps(self._run.best) if s < before]
    for step in reversed(steps):
      path = self._run.best / f"ckpt-{step}"
      try:
        with reading(str(path)):
          reader = tf.train.load_checkpoint(str(path))
          for name in reader.get_variable_to_shape_map():
            reader.get_tensor(name)  # compares its checksum
        return step
      except DamagedError as error:
        warn(f"skipped {path}: it {error}")
    return None

  def _save(self, folder: Path, max_to_keep: int, step: int) -> bool:
    is_new = False
    try:
      self._run.check_owned()
      is_new = step not in checkpoint_steps(folder, whole=False)
      folder.mkdir(exist_ok=True)
      # The manager trusts its state file, which can be garbled, or name files
      # of other folders. So it starts without one, and removes nothing.
      (folder / "checkpoint").unlink(missing_ok=True)
      tf.train.CheckpointManager(
        self._checkpoint, folder, max_to_keep=None, checkpoint_name="ckpt"
      ).save(checkpoint_number=step)
      steps = checkpoint_steps(folder)
      # Those of later steps were skipped as damaged.
      kept = [s for s in steps if s <= step][-max_to_keep:]
      for old in set(steps) - set(kept):
        for suffix in CHECKPOINT_SUFFIXES:  # the index first: see `_clear`
          (folder / f"ckpt-{old}{suffix}").unlink(missing_ok=True)
    except (OSError, tf.errors.OpError) as error:
      with contextlib.suppress(OSError):  # on a full disk, for the next save
        self._run.check_owned()  # if the folder is gone, that is what is wrong
        # An older one of this step is mostly still whole.
        for suffix in CHECKPOINT_SUFFIXES if is_new else ():
          (folder / f"ckpt-{step}{suffix}").unlink(missing_ok=True)
        _clear(self._run, folder)
      if not self._has_whole:
        raise LostRunError(
          f"no checkpoint could be saved in {folder} ({type(error).__name__}): "
          "free some space or check the permissions, then run the same command"
        ) from error
      warn_unsaved(f"step {step} could not be saved", error, folder)
      return False
    self._has_whole = True
    return True


def _clear(run: Run, folder: Path) -> None:
  """Removes what a kill or a full disk left of a save, or of a removal."""
  for left_over in folder.glob("ckpt-*_temp"):
    shutil.rmtree(left_over)
  # A save ends with the index, a removal begins with it. Without a whole
  # checkpoint, a kill can have cut off the first save alone: any other index
  # was lost, as in a copy that was cut off, and may be restored.
  whole, begun = run.checkpoint_steps(), run.starts()
  for data in folder.glob("ckpt-*.data-00000-of-00001"):
    first = data.stem == "ckpt-0" and not begun
    if (whole or first) and not data.with_suffix(".index").exists():
      data.unlink()
  for path in folder.glob("checkpoint.tmp*"):
    path.unlink()


def check_finite(model: LanguageModel) -> None:
  """Raises DamagedError for a model with weights that are not finite."""
  if not all_finite(*model.get_weights()):
    raise DamagedError("has weights that are not finite")


@contextlib.contextmanager
def reading(path: str) -> Iterator[None]:
  """Tells a damaged checkpoint, which the block reads, from other faults.

  Raises:
    DamagedError: the block failed, but not for lack of memory.
    OSError: the system cannot read a file of the checkpoint.
  """
  # One that is missing is an error of the block.
  with contextlib.suppress(FileNotFoundError):
    for suffix in CHECKPOINT_SUFFIXES:
      with open(path + suffix, "rb") as file:
        while file.read(_CHUNK):
          pass
  try:
    yield
  except (DamagedError, *_NO_MEMORY):
    raise
  except Exception as error:  # Keras and TensorFlow raise all kinds
    raise DamagedError(
      "is damaged, or does not fit config.json and vocabulary.json"
    ) from error
