"""The checkpoints of a training that goes on meanwhile."""

import time
from collections.abc import Iterator

from charlm.errors import InputError
from charlm.model.language_model import GRULM
from charlm.runs.loading import load_model
from charlm.runs.run_dir import RunDir

_SECONDS_BETWEEN_LOOKS = 1.0


def follow_checkpoints(
  run: RunDir, idle_timeout: float = 0
) -> Iterator[tuple[GRULM, int]]:
  """Yields a model with the weights of each checkpoint, and its step.

  The model is the same each time, so that it is compiled once. A checkpoint
  that training removes before it is read is left out. The iteration ends once
  no process trains here and all checkpoints are read, or after `idle_timeout`
  seconds without a new one (0: never).

  Raises InputError: a checkpoint that cannot be read.
  """
  model: GRULM | None = None
  done: set[int] = set()
  last = time.monotonic()
  while True:
    # Before the look, so that the last checkpoint is not missed.
    training = run.is_training()
    new = sorted(run.checkpoint_steps() - done)
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
      last = time.monotonic()
    if not new:
      if not training or 0 < idle_timeout <= time.monotonic() - last:
        return
      time.sleep(_SECONDS_BETWEEN_LOOKS)
