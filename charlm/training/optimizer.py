"""The optimizer, its learning-rate schedule, and a compiled model for `fit`."""

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from charlm.config import Config
from charlm.errors import InputError


class Adam(keras.optimizers.Adam):
  """Keras' Adam, with a faster update for gradients that are sums already.

  Variables and checkpoints are Keras' own.
  """

  def apply_sums(
    self, gradients: Sequence[tf.Tensor], variables: Sequence[keras.Variable]
  ) -> None:
    """Updates the variables as `apply` does, by TensorFlow's own Adam for each.

    Call it on each replica with the same gradients: `apply` would sum them over
    the replicas.
    """
    rate = tf.convert_to_tensor(self.learning_rate)
    step = tf.cast(self.iterations.value + 1, rate.dtype)
    numbers = {"beta1": self.beta_1, "beta2": self.beta_2}
    numbers |= {f"{name}_power": beta**step for name, beta in numbers.items()}
    numbers |= {"lr": rate, "epsilon": self.epsilon}
    for gradient, variable in zip(gradients, variables, strict=True):
      index = self._get_variable_index(variable)
      moments = self._momentums[index], self._velocities[index]
      # On a replica, a handle is that of the replica's own copy.
      var, m, v = (each.value.handle for each in (variable, *moments))
      if self.weight_decay and self._use_weight_decay(variable):
        decay = rate * self.weight_decay * variable.value
        tf.raw_ops.AssignSubVariableOp(resource=var, value=decay)
      tf.raw_ops.ResourceApplyAdam(var=var, m=m, v=v, grad=gradient, **numbers)
    self.iterations.assign_add(1)


def build_optimizer(config: Config, num_steps: int) -> Adam:
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
  # AdamW, if there is a decay: it is not part of the gradient.
  decay = min(config.weight_decay, most) or None
  optimizer = Adam(learning_rate, weight_decay=decay)
  # Biases and gains only shift and scale: they hardly overfit.
  optimizer.exclude_from_weight_decay(var_names=["bias", "gain"])
  return optimizer


def compile_model(model: keras.Model) -> keras.Model:
  """Compiles a model for callers of `fit`; returns it."""
  # Log-probabilities are logits too: log-softmax leaves them as they are.
  loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
  # Keras' own class, so that Keras can load a saved model.
  optimizer = keras.optimizers.Adam(Config().learning_rate)
  model.compile(optimizer=optimizer, loss=loss)
  return model
