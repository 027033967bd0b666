"""Loss, optimizer and the schedule of its step size."""

import keras

from charlm.config import Config, InputError


def build_optimizer(
  config: Config, num_steps: int
) -> keras.optimizers.Optimizer:
  """Returns the optimizer; make it inside the strategy's scope.

  A cosine schedule reaches zero at `num_steps`, the end of the run.

  Raises InputError: a warm-up that takes the whole run.
  """
  if 0 < num_steps <= config.warmup_steps:
    raise InputError(
      f"warmup_steps is {config.warmup_steps} of {num_steps} steps: lower it"
    )
  learning_rate = config.learning_rate
  if config.schedule == "cosine":
    # A linear rise from zero, then half a cosine back to it.
    learning_rate = keras.optimizers.schedules.CosineDecay(
      0.0,
      decay_steps=max(1, num_steps - config.warmup_steps),
      warmup_target=config.learning_rate,
      warmup_steps=config.warmup_steps,
    )
  if not config.weight_decay:
    return keras.optimizers.Adam(learning_rate)
  optimizer = keras.optimizers.AdamW(
    learning_rate, weight_decay=config.weight_decay
  )
  # They shift and scale: they cannot fit the training text too closely.
  optimizer.exclude_from_weight_decay(var_names=["bias", "gain"])
  return optimizer


def compile_model(model: keras.Model) -> keras.Model:
  """Compiles a model for readers who call `fit`; returns it."""
  # Log-probabilities are logits too: log-softmax leaves them as they are.
  loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
  model.compile(optimizer=build_optimizer(Config(), 0), loss=loss)
  return model
