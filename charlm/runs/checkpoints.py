"""Saves and restores everything that training needs to resume exactly."""

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

_LATEST = 3  # checkpoints kept beside the best one
_NO_MEMORY = (MemoryError, tf.errors.ResourceExhaustedError)
_VISIBLE_WITHIN, _SECONDS_BETWEEN_LOOKS = 60.0, 0.5


class DamagedError(ValueError):
  """A damaged checkpoint. The message follows its path: "is damaged ..."."""


def which_checkpoint(run: Run, name: str) -> str:
  """Resolves `auto`: `best` if a valid text chose that one, else `latest`.

  Other names are returned unchanged.
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
  # If both folders have a step, `checkpoints/` comes later, so it wins. The
  # weights are the same.
  available = {
    name: (step, folder)
    for word, folder in (("best", run.best), ("latest", run.latest))
    for step in checkpoint_steps(folder)
    for name in (str(step), word)
  }
  if which not in available:
    names = ", ".join(sorted(available)) or "none"
    raise InputError(
      f"{run.path} has no checkpoint {which}; it has {names}: give another "
      "checkpoint or run"
    )
  step, folder = available[which]
  return step, str(folder / f"ckpt-{step}")


class Checkpoints:
  """The checkpoints of a run in training: the latest ones and the best one.

  `checkpoints/` keeps the latest ones, from any step. `best/` keeps one, from a
  step that was evaluated. Training can resume from each of them.
  """

  def __init__(
    self,
    run: Run,
    *,
    model: LanguageModel,
    optimizer: keras.optimizers.Optimizer,
    train_state: tf.Module,
  ) -> None:
    """Takes the objects to save and restore; `train_state` has `best_loss`.

    `save` and `save_if_best` raise LostRunError if the folder was moved or
    removed, or if the run has no checkpoint and none can be saved.
    """
    self._run = run
    self._model, self._train_state = model, train_state
    # Other programs restore `model`.
    self._checkpoint = tf.train.Checkpoint(
      model=model, optimizer=optimizer, train_state=train_state
    )
    # Makes the counter that all checkpoints have; `write` does not count.
    _ = self._checkpoint.save_counter
    # The step that `checkpoints/` has with the current values.
    self._saved_step: int | None = None
    self._has_whole = False  # whether a checkpoint was restored or saved
    # The step in `best/`; None without one, and until a restore.
    self.best_step: int | None = None

  def restore_latest(self) -> int | None:
    """Restores the latest whole checkpoint; warns of damaged ones.

    Returns its step, or None if the run is new and has no checkpoint.

    Raises:
      InputError: the run has begun, but no checkpoint is whole.
      OSError: a checkpoint cannot be read, but may be undamaged.
      LostRunError: the folder was moved or removed.
    """
    self._run.check_owned()
    for folder in (self._run.latest, self._run.best):
      folder.mkdir(exist_ok=True)
      _clear(self._run, folder)
    # If both folders have a step, `best/` comes first: it was saved after the
    # evaluation, and a restore shows whether a kill damaged it.
    folders = (self._run.latest, self._run.best)
    candidates = [
      (step, folder == self._run.best, folder)
      for folder in folders
      for step in checkpoint_steps(folder, whole=False)
    ]
    for step, is_best, folder in sorted(candidates, reverse=True):
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
    # A failed save of step 0, say on a full disk, loses nothing.
    trained = any(step for step, *_ in candidates)
    if trained or self._run.starts() or read_json_lines(self._run.metrics_path):
      raise InputError(
        f"the run in {self._run.path} has no whole checkpoint: restore a "
        "checkpoint, or give a new --run_dir"
      )
    return None

  def restore_from_chief(self, step: int) -> bool:
    """Restores a step that the chief saved; returns whether it could.

    Waits up to a minute for the files: network file systems can lag.
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
    """Saves this step if it is not saved yet; returns whether it is now."""
    if step != self._saved_step and self._save(self._run.latest, _LATEST, step):
      self._saved_step = step
    return step == self._saved_step

  def save_if_best(self, step: int, losses: Mapping[int, float]) -> None:
    """Saves this step in `best/` if its loss beats the step that is there.

    This one rule decides the best checkpoint. It applies to each step with a
    record: after its evaluation, and again when training resumes there. If a
    kill comes before the record, the step is evaluated again.

    Args:
      step: the step that was evaluated; the objects have its values.
      losses: the losses of all records, by step.
    """
    best_loss = self._train_state.best_loss
    in_best = self._loss_in_best(losses)
    if losses[step] < best_loss.numpy():
      best_loss.assign(losses[step])
      # If `checkpoints/` has this step, it was saved with an older best loss.
      self._saved_step = None
    if losses[step] < in_best and self._save(self._run.best, 1, step):
      self.best_step = step

  def has_best(self, losses: Mapping[int, float]) -> bool:
    """Returns whether `best/` has the step with the lowest loss.

    It may not: the save can fail, and the files can be damaged.
    """
    lowest = min(losses.values(), default=math.inf)
    return self._loss_in_best(losses) <= lowest

  def _loss_in_best(self, losses: Mapping[int, float]) -> float:
    if self.best_step is None:
      return math.inf
    # If the metrics are lost, take it for the lowest loss so far.
    best_loss = float(self._train_state.best_loss.numpy())
    return losses.get(self.best_step, best_loss)

  def _restore(self, path: Path) -> None:
    with reading(str(path)):
      # All must match: `expect_partial` only stops a late warning.
      self._checkpoint.restore(str(path)).expect_partial().assert_consumed()
      check_finite(self._model)

  def _find_best(self, before: int) -> int | None:
    """Returns the step of the whole checkpoint in `best/`; warns of damage."""
    steps = [s for s in checkpoint_steps(self._run.best) if s < before]
    for step in reversed(steps):
      path = self._run.best / f"ckpt-{step}"
      try:
        with reading(str(path)):
          reader = tf.train.load_checkpoint(str(path))
          for name in reader.get_variable_to_shape_map():
            reader.get_tensor(name)  # verifies its checksum
        return step
      except DamagedError as error:
        warn(f"skipped {path}: it {error}")
    return None

  def _save(self, folder: Path, number: int, step: int) -> bool:
    """Saves a step, and keeps this number of steps; returns whether it did."""
    is_new = False
    try:
      self._run.check_owned()
      is_new = step not in checkpoint_steps(folder, whole=False)
      folder.mkdir(exist_ok=True)
      self._checkpoint.write(str(folder / f"ckpt-{step}"))
      steps = checkpoint_steps(folder)
      # Later steps were skipped as damaged.
      kept = [s for s in steps if s <= step][-number:]
      for old in set(steps) - set(kept):
        for suffix in CHECKPOINT_SUFFIXES:  # index first: see `_clear`
          (folder / f"ckpt-{old}{suffix}").unlink(missing_ok=True)
    except (OSError, tf.errors.OpError) as error:
      with contextlib.suppress(OSError):  # make room for the next save
        self._run.check_owned()  # a missing folder is the real error
        # An older checkpoint of this step is usually still whole.
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
  """Removes files of saves and removals that a kill or a full disk cut off."""
  for left_over in folder.glob("ckpt-*_temp"):
    shutil.rmtree(left_over)
  # A save writes the index last, a removal deletes it first. If no checkpoint
  # is whole, a kill can only have cut off the very first save: any other index
  # got lost, say in an incomplete copy, and the user may restore it.
  whole, begun = run.checkpoint_steps(), run.starts()
  for data in folder.glob("ckpt-*.data-00000-of-00001"):
    first = data.stem == "ckpt-0" and not begun
    if (whole or first) and not data.with_suffix(".index").exists():
      data.unlink()


def check_finite(model: LanguageModel) -> None:
  """Raises DamagedError: the model has weights that are not finite."""
  if not all_finite(*model.get_weights()):
    raise DamagedError("has weights that are not finite")


@contextlib.contextmanager
def reading(path: str) -> Iterator[None]:
  """Tells damage from other errors while the body reads a checkpoint.

  Raises:
    DamagedError: the body failed, but not for lack of memory.
    OSError: the system does not open a file of the checkpoint.
  """
  # TensorFlow's error would not tell a lack of permission from damage. The body
  # itself fails on a missing file.
  with contextlib.suppress(FileNotFoundError):
    for suffix in CHECKPOINT_SUFFIXES:
      with open(path + suffix, "rb"):
        pass
  try:
    yield
  except (DamagedError, *_NO_MEMORY):
    raise
  except Exception as error:  # Keras and TensorFlow raise many types
    raise DamagedError(
      "is damaged, or does not fit config.json and vocabulary.json"
    ) from error
