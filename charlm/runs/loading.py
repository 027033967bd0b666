"""Loading a run's model, and what a new run begins with."""

import time
from collections.abc import Iterator

import tensorflow as tf

from charlm.config import Config
from charlm.data.vocabulary import SPECIAL
from charlm.errors import InputError
from charlm.model.keras_weights import load_keras_weights
from charlm.model.language_model import GRULM, SIZES, model_of
from charlm.runs.checkpoints import DamagedError, check_finite, open_checkpoint
from charlm.runs.run_dir import RunDir

_ATTEMPTS = 5  # training can replace a checkpoint while it is read
_SECONDS_BETWEEN_ATTEMPTS = 0.2
_SECONDS_BETWEEN_LOOKS = 1.0  # for new checkpoints


def load_model(run: RunDir, which: str) -> tuple[GRULM, int]:
  """Returns the model of a checkpoint, and its step.

  Raises:
    InputError: no such checkpoint, or one that is damaged, has weights that are
      not finite, or is not of this run's model.
    OSError: the system cannot read it, as for lack of permission.
  """
  config, vocab_size = run.experiment().config, len(run.vocabulary())
  for attempt in range(_ATTEMPTS):
    time.sleep(_SECONDS_BETWEEN_ATTEMPTS if attempt else 0)
    step, path = run.find_checkpoint(which)
    try:
      with open_checkpoint(path, step) as name:
        model = model_of(config, vocab_size)
        status = tf.train.Checkpoint(model=model).read(name)
        # The optimizer and the train state are not needed, all weights are.
        status.expect_partial().assert_existing_objects_matched()
        check_finite(model)
      return model, step
    except DamagedError as error:
      why = error
  raise InputError(f"{path} {why}: give another checkpoint or run") from why


def follow_checkpoints(
  run: RunDir, idle_timeout: float
) -> Iterator[tuple[GRULM, int]]:
  """Yields a model with the weights of each checkpoint, and its step.

  The model is the same each time, so that it is compiled once. A checkpoint
  that training removes before it is read is left out. The iteration ends after
  `idle_timeout` seconds without a new checkpoint or new metrics.

  Raises InputError or OSError: a checkpoint that cannot be read.
  """
  model: GRULM | None = None
  done: set[int] = set()
  known_size, last_change = 0, time.monotonic()
  while True:
    size = run.metrics.stat().st_size if run.metrics.exists() else 0
    new = sorted(run.checkpoint_steps() - done)
    if new or size != known_size:
      known_size, last_change = size, time.monotonic()
    for step in new:
      done.add(step)
      try:
        loaded, _ = load_model(run, str(step))
      except InputError:
        # Training removes old ones; one that is still there is damaged.
        if step in run.checkpoint_steps():
          raise
        continue
      model = model or loaded
      model.set_weights(loaded.get_weights())
      yield model, step
    if not new:
      if time.monotonic() - last_change >= idle_timeout:
        return
      time.sleep(_SECONDS_BETWEEN_LOOKS)


def initial_vocabulary(run: RunDir, config: Config) -> list[str]:
  """Returns the vocabulary to extend: without an initial run, `SPECIAL`."""
  if not config.init_from:
    return SPECIAL
  # This run's: the initial one may have been moved.
  source = run if run.exists() else RunDir(config.init_from)
  return source.vocabulary() if source.exists() else SPECIAL


def load_initial(run: RunDir, config: Config, vocab_size: int) -> GRULM | None:
  """Returns the model that this run begins with.

  It is None without `init_from`, and once this run has checkpoints. The
  vocabulary of an initial run may be shorter than this run's; a file of weights
  must have one of the same size.

  Raises InputError: no such model, or one of other sizes.
  """
  # A checkpoint holds newer weights, and the initial run may be gone.
  if not config.init_from or run.checkpoint_steps():
    return None
  source = RunDir(config.init_from)
  if not source.path.is_dir():
    return load_keras_weights(config.init_from, config, vocab_size)
  model, _ = load_model(source, "latest")
  theirs = source.experiment().config
  for name in ("unit", *SIZES):
    if (here := getattr(config, name)) != (there := getattr(theirs, name)):
      raise InputError(
        f"{name} is {here}, but {there} in {source.path}: give --{name}={there}"
      )
  return model
