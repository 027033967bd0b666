"""The optimizer, its learning-rate schedule, and a compiled model for `fit`."""

import keras
import numpy as np

from charlm.config import Config
from charlm.errors import InputError


def build_optimizer(
  config: Config, num_steps: int
) -> keras.optimizers.Optimizer:
  """Returns the optimizer; make it inside the strategy's scope.

  A cosine schedule reaches zero at `num_steps`, the end of the run.

  Raises InputError: a warm-up that takes the whole run.
  """
  if 0 < num_steps <= config.warmup_steps:
    raise InputError(
      f"warmup_steps is {config.warmup_steps}, but the run has {num_steps} "
      "steps, which leaves none after the warm-up: lower --warmup_steps"
    )
  # NumPy warns of numbers that float32 cannot hold.
  most = float(np.finfo(np.float32).max)
  learning_rate = min(config.learning_rate, most)
  if config.schedule == "cosine":
    # A linear rise from zero, then half a cosine back to it.
    learning_rate = keras.optimizers.schedules.CosineDecay(
      0.0,
      decay_steps=max(1, num_steps - config.warmup_steps),
      warmup_target=learning_rate,
      warmup_steps=config.warmup_steps,
    )
  # Plain Adam, since AdamW with a decay of 0 would still compute it.
  if not config.weight_decay:
    return keras.optimizers.Adam(learning_rate)
  decay = min(config.weight_decay, most)
  optimizer = keras.optimizers.AdamW(learning_rate, weight_decay=decay)
  # Biases and gains only shift and scale: they hardly overfit.
  optimizer.exclude_from_weight_decay(var_names=["bias", "gain"])
  return optimizer


def compile_model(model: keras.Model) -> keras.Model:
  """Compiles a model for callers of `fit`; returns it."""
  # Log-probabilities are logits too: log-softmax leaves them as they are.
  loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
  model.compile(optimizer=build_optimizer(Config(), 0), loss=loss)
  return model
