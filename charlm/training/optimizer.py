"""Optimizers, learning-rate schedules, and a compiled model for `fit`."""

import itertools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from charlm.config import Config
from charlm.errors import InputError
from charlm.model.language_model import LanguageModel
from charlm.system.devices import Choice


def _by_xla(function: Callable[..., Any]) -> Callable[..., Any]:
  """Compiles a function with XLA."""
  compiled = tf.function(function, autograph=False, jit_compile=True)
  # Wrapped: checkpoints track attributes that are functions of TensorFlow.
  return lambda *args: compiled(*args)


# How to compile Muon's update: on a GPU, XLA makes one launch of hundreds of
# operations. Adam has few.
_COMPILED = Choice(lambda function: function, _by_xla)
# Whether Muon batches its products of the same shape: fewer kernels on a GPU,
# slower on a CPU.
MUON_TOGETHER = Choice(False, True)

# Muon's constants. The warm-up of the momentum and the coefficients of the
# quintic Newton-Schulz iteration are its author's
# (github.com/KellerJordan/modded-nanogpt). He takes five iterations; three are
# enough here. They leave the updates smaller, hence a scale above the 0.2 of
# arXiv 2502.16982.
_RISE = np.linspace(0.85, 0.95, 301, dtype=np.float32)  # momentum, by step
_ITERATIONS, _SCALE = 3, 0.4
_QUINTIC = 3.4445, -4.7750, 2.0315


def clipped(
  gradients: Sequence[tf.Tensor], clip_norm: float
) -> tuple[Sequence[tf.Tensor], tf.Tensor]:
  """Scales gradients down if their global norm is above `clip_norm`.

  They are the sums over the replicas; Keras would clip before the sum. A
  `clip_norm` of 0 turns clipping off.

  Returns the clipped gradients, and the global norm before.
  """
  norm = tf.linalg.global_norm(gradients)
  if clip_norm:
    gradients, _ = tf.clip_by_global_norm(gradients, clip_norm, norm)
  return gradients, norm


class Adam(keras.optimizers.Optimizer):
  """Adam for gradients that are already summed over the replicas.

  With the gradient g and the learning rate lr, step t updates a weight w:

    w -= lr weight_decay w
    m = beta_1 m + (1 - beta_1) g
    v = beta_2 v + (1 - beta_2) g^2
    w -= lr sqrt(1 - beta_2^t) / (1 - beta_1^t) m / (sqrt(v) + epsilon)

  Constants, variables and checkpoints are those of Keras' Adam.
  """

  beta_1, beta_2, epsilon = 0.9, 0.999, 1e-7
  # The paths of variables with twice the learning rate, but not twice the
  # decay.
  _faster: Sequence[str] = ()

  def __init__(
    self,
    learning_rate: float | keras.optimizers.schedules.LearningRateSchedule,
    clip_norm: float = 0.0,
    undecayed: Sequence[str] = (),
    **kwargs: object,
  ) -> None:
    """Stores the settings; `build` makes the variables.

    Args:
      learning_rate: a number, or a schedule.
      clip_norm: the largest global norm of the gradients; 0 for no limit.
      undecayed: weight decay skips variables with one of these in their name.
      **kwargs: other arguments of Keras' optimizers.
    """
    super().__init__(learning_rate=learning_rate, **kwargs)
    schedule = keras.optimizers.schedules.LearningRateSchedule
    self._schedule = (
      learning_rate if isinstance(learning_rate, schedule) else None
    )
    self._max_norm, self._undecayed = clip_norm, undecayed

  def build(self, variables: Sequence[keras.Variable]) -> None:
    """Makes the variables m ("momentum") and v ("velocity")."""
    if self.built:
      return
    super().build(variables)
    self._momentums, self._velocities = self.add_optimizer_variables(
      variables, ["momentum", "velocity"]
    )

  def apply_sums(
    self, gradients: Sequence[tf.Tensor], step: tf.Tensor
  ) -> tf.Tensor:
    """Clips the gradients, and updates this replica's weights.

    Call it on each replica with the same gradients; Keras' `apply` would sum
    them over the replicas again. `step` equals `iterations`, but is on the
    host: with `iterations`, which is on the GPU, the condition in a schedule
    would make the host wait.

    Returns the global norm of the gradients before clipping.
    """
    gradients, norm = clipped(gradients, self._max_norm)
    self._update_by_adam(range(len(gradients)), gradients, self._rate(step))
    return norm

  def _update_by_adam(
    self,
    indices: Iterable[int],
    gradients: Sequence[tf.Tensor],
    rate: tf.Tensor,
  ) -> None:
    """Updates some variables with Adam, and counts the step.

    Each takes one operation, and one more for weight decay.
    """
    count = tf.cast(self.iterations.value + 1, rate.dtype)
    beta1_power, beta2_power = self.beta_1**count, self.beta_2**count
    for index in indices:
      variable = self._trainable_variables[index]
      self._decay(variable, rate)
      # In a replica, the handle refers to the replica's own copy.
      tf.raw_ops.ResourceApplyAdam(
        var=variable.value.handle,
        m=self._momentums[index].value.handle,
        v=self._velocities[index].value.handle,
        beta1_power=beta1_power,
        beta2_power=beta2_power,
        lr=2 * rate if variable.path in self._faster else rate,
        beta1=self.beta_1,
        beta2=self.beta_2,
        epsilon=self.epsilon,
        grad=gradients[index],
      )
    _subtract(self.iterations, -tf.ones([], self.iterations.dtype))

  def _rate(self, step: tf.Tensor) -> tf.Tensor:
    """Returns the learning rate of a step; its number is on the host."""
    if self._schedule is None:
      return tf.convert_to_tensor(self.learning_rate)
    with tf.device("CPU:0"):
      return tf.convert_to_tensor(self._schedule(step))

  def _decay(self, variable: keras.Variable, rate: tf.Tensor) -> None:
    skipped = any(name in variable.name for name in self._undecayed)
    if self.weight_decay and not skipped:
      _subtract(variable, rate * self.weight_decay * variable.value)


class Muon(Adam):
  """Muon for the recurrent layers' matrices, Adam for all other weights.

  The update of a matrix is the Nesterov momentum of its gradient, with the part
  of each gate, or each half of it, nearly orthogonalised:
  https://kellerjordan.github.io/posts/muon. The output layer has twice the
  learning rate, but the same weight decay. Variables and checkpoints are
  Adam's; the second moments of the matrices stay zero.
  """

  def __init__(
    self,
    product_dtype: str,
    matrices: Mapping[str, int],
    faster: Sequence[str],
    **kwargs: Any,
  ) -> None:
    """Stores the settings; `build` makes the variables.

    Args:
      product_dtype: the type of the matrix products.
      matrices: maps the path of each matrix to its number of gates.
      faster: the paths of the weights with twice the learning rate.
      **kwargs: the arguments of `Adam`.
    """
    super().__init__(**kwargs)
    self._product_dtype, self._faster = product_dtype, faster
    self._gates = matrices

  def build(self, variables: Sequence[keras.Variable]) -> None:
    """Makes the variables, and compiles the update if XLA should."""
    if self.built:
      return
    super().build(variables)
    # Maps the index of each matrix to its number of parts.
    self._matrices = {
      i: _num_parts(variable.shape, self._gates[variable.path])
      for i, variable in enumerate(variables)
      if variable.path in self._gates
    }
    self._others = sorted({*range(len(variables))} - self._matrices.keys())
    # XLA cannot compile a sum over replicas: with several of them, it compiles
    # the stages of the update separately.
    several = tf.distribute.get_strategy().num_replicas_in_sync > 1
    compile_update = _COMPILED.cpu if several else _COMPILED.here
    compile_stage = _COMPILED.here if several else _COMPILED.cpu
    stages = self._parts, self._orthogonalise_local, self._apply_parts
    self._stages = tuple(map(compile_stage, stages))
    self._compiled_update = compile_update(self._update)

  def apply_sums(
    self, gradients: Sequence[tf.Tensor], step: tf.Tensor
  ) -> tf.Tensor:
    """Updates this replica's weights, as `Adam.apply_sums` does."""
    return self._compiled_update(gradients, self._rate(step))

  def _update(
    self, gradients: Sequence[tf.Tensor], rate: tf.Tensor
  ) -> tf.Tensor:
    split_parts, orthogonalise_local, apply_parts = self._stages
    gradients, parts, norm = split_parts(gradients)
    context = tf.distribute.get_replica_context()
    num_replicas = context.num_replicas_in_sync
    # A number, not a tensor: each replica is traced separately, and its graph
    # has the products of its own parts only.
    index = tf.get_static_value(context.replica_id_in_sync_group)
    local = tuple(range(index, len(parts), num_replicas))
    updates = orthogonalise_local(parts, local)
    if num_replicas > 1:
      # Each replica has computed some of the parts, and zeros for the others:
      # the sum gathers them all.
      updates = context.all_reduce("SUM", updates)
    apply_parts(updates, gradients, rate)
    return norm

  def _parts(
    self, gradients: Sequence[tf.Tensor]
  ) -> tuple[Sequence[tf.Tensor], list[tf.Tensor], tf.Tensor]:
    """Clips the gradients, and updates the momentum of the matrices.

    Returns the clipped gradients, the parts of the matrices' updates, and the
    norm of the gradients before clipping.
    """
    gradients, norm = clipped(gradients, self._max_norm)
    parts = [
      part
      for i, number in self._matrices.items()
      for part in tf.split(self._momentum(i, gradients[i]), number, axis=1)
    ]
    return gradients, parts, norm

  def _orthogonalise_local(
    self, parts: Sequence[tf.Tensor], local: Collection[int]
  ) -> list[tf.Tensor]:
    """Orthogonalises this replica's parts; the others become zero."""
    updates = self._orthogonalise_all({i: parts[i] for i in local})
    return [
      updates[i] if i in updates else tf.zeros_like(part)
      for i, part in enumerate(parts)
    ]

  def _apply_parts(
    self,
    updates: Sequence[tf.Tensor],
    gradients: Sequence[tf.Tensor],
    rate: tf.Tensor,
  ) -> None:
    """Updates the matrices with their parts, other weights with Adam."""
    remaining = iter(updates)
    for index, number in self._matrices.items():
      matrix = self._trainable_variables[index]
      self._decay(matrix, rate)
      update = tf.concat([*itertools.islice(remaining, number)], axis=1)
      _subtract(matrix, rate * update)
    self._update_by_adam(self._others, gradients, rate)

  def _momentum(self, index: int, gradient: tf.Tensor) -> tf.Tensor:
    """Sets m = b m + g; returns b m + g with the new m (Nesterov momentum).

    b rises from 0.85 to 0.95 in the first 300 steps.
    """
    momentum = self._momentums[index]
    # From a table: TensorFlow would rewrite a formula in the graphs of some
    # replicas only, which would then differ in their last bits.
    b = tf.gather(_RISE, tf.minimum(self.iterations.value, len(_RISE) - 1))
    _subtract(momentum, (1 - b) * momentum - gradient)
    return b * momentum + gradient

  def _orthogonalise_all(
    self, parts: Mapping[int, tf.Tensor]
  ) -> dict[int, tf.Tensor]:
    """Orthogonalises parts of updates, one by one or batched by shape."""
    if not MUON_TOGETHER.here:
      return {i: self._orthogonalise(part) for i, part in parts.items()}
    updates: dict[int, tf.Tensor] = {}
    for shape in dict.fromkeys(tuple(part.shape) for part in parts.values()):
      group = [i for i, part in parts.items() if tuple(part.shape) == shape]
      stacked = tf.stack([parts[i] for i in group])  # [P, N, M]
      stacked = self._orthogonalise(stacked)
      updates |= dict(zip(group, tf.unstack(stacked), strict=True))
    return updates

  def _orthogonalise(self, matrix: tf.Tensor) -> tf.Tensor:
    """Moves the singular values of a matrix towards 1, by Newton-Schulz.

    Each iteration replaces X by a X + (b A + c A^2) X, with A = X X^T. Then the
    result is scaled by 0.4 sqrt(max(N, M)).

    Takes a part `[N, M]` of an update, or several of one shape, `[P, N, M]`.
    """
    norm = tf.norm(matrix, axis=[-2, -1], keepdims=True)
    x = tf.cast(matrix / (norm + 1e-7), self._product_dtype)
    *_, rows, columns = matrix.shape
    tall = rows > columns
    a, b, c = _QUINTIC
    for _ in range(_ITERATIONS):
      # The smaller of both Gram matrices: X^T X if x is tall, else X X^T.
      gram = tf.matmul(x, x, transpose_a=tall, transpose_b=not tall)
      # Not a sum of three terms: TensorFlow would rewrite it (see `_momentum`).
      factor = b * gram + c * tf.matmul(gram, gram)
      x = a * x + (tf.matmul(x, factor) if tall else tf.matmul(factor, x))
    return tf.cast(x, matrix.dtype) * (_SCALE * max(rows, columns) ** 0.5)


def _num_parts(shape: Sequence[int], num_gates: int) -> int:
  """Returns how many parts Muon makes of a matrix `[N, K * M]` of K gates.

  Each gate is a part. But if N = M, and M is even, each gate is split into two
  matrices `[N, M / 2]`: their products take half the time, and the loss was no
  higher.
  """
  num_inputs, columns = shape
  halves = columns == num_gates * num_inputs and num_inputs % 2 == 0
  return 2 * num_gates if halves else num_gates


def _subtract(variable: keras.Variable, update: tf.Tensor) -> None:
  """Subtracts from a replica's own copy of a variable."""
  tf.raw_ops.AssignSubVariableOp(resource=variable.value.handle, value=update)


class LinearDecay(keras.optimizers.schedules.LearningRateSchedule):
  """A linear warm-up from zero, then a linear decay to zero."""

  def __init__(self, peak: float, warmup_steps: int, num_steps: int) -> None:
    """Takes the peak, the step that reaches it, and the step that reaches 0."""
    self.peak, self.warmup_steps, self.num_steps = peak, warmup_steps, num_steps

  def __call__(self, step: tf.Tensor) -> tf.Tensor:
    """Returns the learning rate of a step."""
    step = tf.cast(step, tf.float32)
    rise = step / self.warmup_steps if self.warmup_steps else 1.0
    fall = (self.num_steps - step) / max(1, self.num_steps - self.warmup_steps)
    return self.peak * tf.minimum(rise, tf.maximum(fall, 0.0))


def build_optimizer(
  config: Config, num_steps: int, model: LanguageModel
) -> Adam:
  """Makes the optimizer of a model; call it inside the strategy's scope.

  The schedules other than `constant` reach zero at `num_steps`, the end of the
  run.

  Raises InputError: the warm-up takes the whole run, or the optimizer is Muon
    and the layers name no matrices.
  """
  if 0 < num_steps <= config.warmup_steps:
    raise InputError(
      f"warmup_steps is {config.warmup_steps}, but the run has {num_steps} "
      "steps, which leaves none after the warm-up: lower --warmup_steps"
    )
  learning_rate = config.learning_rate
  if config.schedule == "cosine":
    # A linear warm-up from zero, then half a cosine back to zero.
    learning_rate = keras.optimizers.schedules.CosineDecay(
      initial_learning_rate=0.0,
      decay_steps=max(1, num_steps - config.warmup_steps),
      warmup_target=learning_rate,
      warmup_steps=config.warmup_steps,
    )
  elif config.schedule == "linear":
    learning_rate = LinearDecay(learning_rate, config.warmup_steps, num_steps)
  decay = config.weight_decay or None
  undecayed = ["bias", "gain"]  # which only shift and scale, and hardly overfit
  if config.optimizer == "adam":
    return Adam(learning_rate, config.clip_norm, undecayed, weight_decay=decay)
  matrices = {matrix.path: gates for matrix, gates in model.matrices()}
  if not matrices:
    raise InputError(
      f"optimizer is muon, but the layer {config.layer} names no matrices: "
      "write its method `matrices`, or give --optimizer=adam"
    )
  return Muon(
    product_dtype=config.precision,
    matrices=matrices,
    faster=[weight.path for weight in model.dense.weights],
    learning_rate=learning_rate,
    clip_norm=config.clip_norm,
    # A decay that suits the kernels is too large for embeddings.
    undecayed=[*undecayed, "embeddings"],
    weight_decay=decay,
  )


def compile_model(model: keras.Model) -> keras.Model:
  """Compiles a model for `fit`, with `Config`'s learning rate; returns it."""
  # Log-probabilities are logits, too: log-softmax does not change them.
  loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
  # Keras' own class, so that Keras can load a saved model.
  optimizer = keras.optimizers.Adam(Config().learning_rate)
  model.compile(optimizer=optimizer, loss=loss)
  return model
