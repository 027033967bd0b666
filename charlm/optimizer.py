"""Loss and optimizer."""

import keras

LEARNING_RATE = 0.00125


def build_optimizer(
  learning_rate: float = LEARNING_RATE,
) -> keras.optimizers.Optimizer:
  """Returns the optimizer; make it inside the strategy's scope."""
  return keras.optimizers.Adam(learning_rate)


def compile_model(model: keras.Model) -> keras.Model:
  """Compiles a model for readers who call `fit`; returns it.

  The model's log-probabilities are logits too, since log-softmax leaves them
  as they are.
  """
  loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
  model.compile(optimizer=build_optimizer(), loss=loss)
  return model
