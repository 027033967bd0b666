"""Loads models: from a checkpoint, from each new one, or the initial model."""

import time
from collections.abc import Iterator
from pathlib import Path

import keras
import tensorflow as tf

from charlm.config import Config
from charlm.errors import InputError
from charlm.model.keras_weights import load_keras_weights
from charlm.model.language_model import LanguageModel, model_of
from charlm.model.layers import RecurrentLayer
from charlm.runs.checkpoints import (
  DamagedError,
  check_finite,
  find_checkpoint,
  reading,
  which_checkpoint,
)
from charlm.runs.initial import Initial, remedy_for
from charlm.runs.run import Run
from charlm.system.messages import warn
from charlm.system.process import when_changed

_ATTEMPTS = 5  # training may replace a checkpoint while we read it
_SECONDS_BETWEEN_ATTEMPTS = 0.2


def load_model(
  run: Run, which: str, layer: type[RecurrentLayer] | None = None
) -> tuple[LanguageModel, int]:
  """Returns the model of a checkpoint, and its step.

  Args:
    run: the run.
    which: the checkpoint: `auto`, `best`, `latest`, or a step.
    layer: the class of the layer, if it is not one of charlm's.

  Raises:
    InputError: no such checkpoint, or it is damaged, does not fit the run's
      model, or has weights that are not finite; or the layer is unknown.
    OSError: the system cannot read it, for example without permission.
  """
  model = model_of(run.config, len(run.vocab), layer=layer)
  return model, _load_weights(model, run, which)


def _load_weights(model: LanguageModel, run: Run, which: str) -> int:
  """Loads a checkpoint's weights into a model; returns its step."""
  for attempt in range(_ATTEMPTS):
    time.sleep(_SECONDS_BETWEEN_ATTEMPTS if attempt else 0)
    step, path = find_checkpoint(run, which)
    try:
      with reading(path):
        status = tf.train.Checkpoint(model=model).read(path)
        # Needs all weights, but neither the optimizer nor the train state.
        status.expect_partial().assert_existing_objects_matched()
        check_finite(model)
      return step
    except DamagedError as error:
      damage = error
  raise InputError(
    f"{path} {damage}: give another checkpoint or run"
  ) from damage


def load_initial(
  initial: Initial | None,
  *,
  config: Config,
  vocab_size: int,
  layer: type[RecurrentLayer] | None = None,
) -> LanguageModel:
  """Returns the model that a new run begins with.

  The weights of characters that the initial model does not have are random, by
  the new run's seed.

  Args:
    initial: what `open_initial` returned.
    config: the new run's config.
    vocab_size: the new run's vocabulary size. Weights that Keras saved must
      have the same; other initial models may have a smaller one.
    layer: the class of the layer, if it is not one of charlm's.

  Raises InputError: no such model, or one of other sizes.
  """
  if not initial:
    return load_keras_weights(config.init_from, config, vocab_size)
  initial.check(config)
  if isinstance(initial.source, Run):
    which = which_checkpoint(initial.source, "auto")
    with remedy_for(initial.name):
      known = load_model(initial.source, which, layer)[0]
  else:
    known = model_of(config, len(initial.vocab), layer=layer)
    try:
      known.set_weights(list(initial.source.weights.values()))
      check_finite(known)
    except ValueError as error:  # Keras says what differs
      raise InputError(f"{initial.name}: {error}: export it again") from error
  keras.utils.set_random_seed(config.seed)
  model = model_of(config, vocab_size, layer=layer)
  weights = model.get_weights()
  for old, new in zip(known.get_weights(), weights, strict=True):
    new[tuple(slice(size) for size in old.shape)] = old
  model.set_weights(weights)
  return model


def say_which(run: Run, which: str, step: int) -> None:
  """Says on stderr which checkpoint `auto` took, if a valid text chose."""
  if which == "auto" and run.has_valid_text:
    taken = f"the {which_checkpoint(run, which)} checkpoint, step {step:,}"
    reason = "" if "best" in taken else "; best/ has none"
    warn(f"{run.path}: {taken} (--checkpoint=auto{reason})")


def follow_checkpoints(
  run: Run, idle_timeout: float, layer: type[RecurrentLayer] | None = None
) -> Iterator[tuple[LanguageModel, int]]:
  """Yields a model and its step for each checkpoint, as training saves it.

  It is the same object each time, so it is compiled only once. The iterator
  ends after `idle_timeout` seconds without a new checkpoint or new metrics.

  Raises InputError or OSError: a checkpoint that cannot be read.
  """
  model = model_of(run.config, len(run.vocab), layer=layer)
  done: set[int] = set()

  def look() -> object:
    return run.checkpoint_steps() | done, _size(run.metrics_path)

  for _ in when_changed(look, idle_timeout):
    for step in sorted(run.checkpoint_steps() - done):
      done.add(step)
      try:
        yield model, _load_weights(model, run, str(step))
      except InputError:
        if step in run.checkpoint_steps():  # otherwise training removed it
          raise


def _size(path: Path) -> int:
  return path.stat().st_size if path.exists() else 0
