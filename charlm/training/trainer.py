"""Training steps: gradients inside `tf.function`, under a strategy."""

import time
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from charlm.config import Config
from charlm.data.batches import Batches
from charlm.errors import DivergedError, all_finite
from charlm.model.dropout import Masks
from charlm.model.language_model import LanguageModel, State, model_of
from charlm.model.layers import RecurrentLayer
from charlm.system.devices import (
  NCCL_REMEDY,
  kind_of_device,
  tensor_float_32,
)
from charlm.training.carried_states import CarriedStates
from charlm.training.optimizer import Adam, build_optimizer

# Up to this many windows a step, XLA compiles the steps of a single replica on
# a CPU (recipes/LOG.md).
FEW_WINDOWS_FOR_XLA = 16
_SECONDS_PER_CALL = 1.0  # how long a stop request or the progress bar may wait
_MAX_STEPS_PER_CALL = 100
DIVERGED_REMEDY = (
  "lower --learning_rate, or raise --weight_decay, and give a new --run_dir"
)
WRONG_SUMS_REMEDY = (
  f"{NCCL_REMEDY}: GPUs without a working peer-to-peer connection return wrong "
  "sums"
)


class TrainMetrics(NamedTuple):
  """Numbers of the steps since the metrics were last taken."""

  loss: float  # the mean, in nats per character
  gradient_norm: float  # the mean, before clipping
  learning_rate: float  # of the step to come
  characters_per_second: float


class TrainState(tf.Module):
  """What a checkpoint holds besides model and optimizer, to resume exactly.

  The best loss is set by `Checkpoints`, after an evaluation. It is kept here
  because it must be saved with the step that it belongs to.
  """

  def __init__(self, states: tf.Tensor) -> None:
    """Takes the carried states `[num_layers, B, S]`, B of all replicas.

    B is 0 if none are carried: they then take no room in a checkpoint.
    """
    super().__init__()
    self.states = tf.Variable(states, trainable=False)
    # Loss, gradient norm and number of steps since the metrics were written.
    self.sums = tf.Variable(tf.zeros([3], tf.float64), trainable=False)
    self.best_loss = tf.Variable(np.inf, dtype=tf.float64, trainable=False)


class Trainer:
  """Trains a model under a strategy.

  take_steps:
    call the graph function once:
      for each batch:
        on each replica: loss and gradient of its rows
        sum the gradients over the replicas, clip, apply
    check that losses and norms are finite

  `ChiefLoop` decides how many steps, and does what is due between them.
  """

  def __init__(
    self,
    *,
    model: LanguageModel,
    optimizer: Adam,
    batches: Batches,
    strategy: tf.distribute.Strategy,
    config: Config,
  ) -> None:
    """Takes what `build_trainer` has built.

    Args:
      model: built in the strategy's scope.
      optimizer: the model's, made in the same scope.
      batches: where the windows come from.
      strategy: the devices.
      config: gives the sizes, the seed, the clipping, and what is carried.
    """
    self.model, self.optimizer, self.batches = model, optimizer, batches
    self._strategy, self._config = strategy, config
    # The step at which the run ends.
    self.last_step = config.num_steps(batches.steps_per_epoch)
    names: list[str] = strategy.extended.worker_devices
    # The devices of this worker's replicas, such as `CPU:0`.
    self.devices = [name.rpartition("device:")[2] for name in names]
    self._carried = CarriedStates(
      model,
      config,
      steps_per_epoch=batches.steps_per_epoch,
      num_replicas=strategy.num_replicas_in_sync,
    )
    self.train_state = TrainState(self._carried.initial)
    self._steps_per_call = 1
    self._characters, self._seconds = 0, 0.0  # since the metrics were taken
    # One trace serves any number of steps: tracing takes seconds.
    batch = batches.batch(0)
    windows = tf.TensorSpec([None, *batch.shape], batch.dtype)
    states = tf.TensorSpec(self.train_state.states.shape)
    specs = [windows, states, tf.TensorSpec([], tf.int32)]
    # AutoGraph's conversion would delay the first step by a second.
    self._compiled = tf.function(self._train_steps, specs, autograph=False)
    self._loss_and_gradients = self._gradients  # traced in `_train_steps`
    self.compiled_by_xla = model.fast_with_xla and xla_compiles_steps(
      config, strategy.num_replicas_in_sync
    )
    if self.compiled_by_xla:  # a graph of its own
      self._loss_and_gradients = tf.function(
        self._gradients, autograph=False, jit_compile=True
      )
    # Now, so that a checkpoint can be restored into its variables.
    with strategy.scope():
      optimizer.build(model.trainable_variables)

  @property
  def variables(self) -> list[keras.Variable | tf.Variable]:
    """All that a checkpoint holds."""
    variables = self.model.variables + self.optimizer.variables
    return [*variables, *self.train_state.variables]

  @property
  def step(self) -> int:
    """The number of optimizer updates so far."""
    return int(self.optimizer.iterations.numpy())

  def take_weights(self, initial: LanguageModel) -> None:
    """Takes the weights of a model of the same sizes.

    Its vocabulary may be shorter: the weights of new characters stay.
    """
    weights = self.model.get_weights()
    for old, new in zip(initial.get_weights(), weights, strict=True):
      new[tuple(slice(size) for size in old.shape)] = old
    self.model.set_weights(weights)

  def train(self, until_step: int) -> None:
    """Trains until a step; writes, saves and evaluates nothing."""
    while (left := until_step - self.step) > 0:
      self.take_steps(self.steps_per_call(left))

  def steps_per_call(self, at_most: int) -> int:
    """Returns how many steps take about a second: 1 at least."""
    return min(self._steps_per_call, at_most)

  def take_steps(self, num_steps: int) -> tuple[float, float]:
    """Takes some steps in one call of the graph function.

    Returns their mean loss, in nats per character, and characters per second.

    Raises:
      DivergedError: a loss or a gradient is not finite; the message names the
        step. The weights are those after all steps: they must not be saved.
    """
    step, start = self.step, time.perf_counter()
    # What a profile shows as a step: a call, with the step that it begins at.
    trace = tf.profiler.experimental.Trace("train", step_num=step, _r=1)
    with trace, tensor_float_32():
      loss = self._run_steps(step, step + num_steps)
    seconds = time.perf_counter() - start
    # The first call also traces, so that the first estimate is too low.
    in_time = int(_SECONDS_PER_CALL / (seconds / num_steps))
    self._steps_per_call = max(1, min(in_time, _MAX_STEPS_PER_CALL))
    characters = num_steps * self.batches.characters_per_step
    self._characters += characters
    self._seconds += seconds
    return loss, characters / seconds

  def take_metrics(self) -> TrainMetrics:
    """Returns the numbers of the steps since it was last called."""
    loss_sum, norm_sum, num_steps = self.train_state.sums.numpy()
    metrics = TrainMetrics(
      loss=loss_sum / num_steps,
      gradient_norm=norm_sum / num_steps,
      learning_rate=float(tf.convert_to_tensor(self.optimizer.learning_rate)),
      characters_per_second=self._characters / self._seconds,
    )
    self.train_state.sums.assign(tf.zeros_like(self.train_state.sums))
    self._characters, self._seconds = 0, 0.0
    return metrics

  def _run_steps(self, start: int, stop: int) -> float:
    """Runs the steps `start` to `stop` in one call; returns the mean loss."""
    windows = np.stack([self.batches.batch(i) for i in range(start, stop)])
    before = self.train_state.states.read_value()
    losses, norms, states = self._compiled(windows, before, tf.constant(start))
    losses, norms = losses.numpy(), norms.numpy()  # [stop - start] each
    if not all_finite(losses, norms):
      step = start + int(np.argmin(np.isfinite(losses) & np.isfinite(norms)))
      several = self._strategy.num_replicas_in_sync > 1
      suspect = several and kind_of_device() == "GPU"
      epoch, index = divmod(step, self.batches.steps_per_epoch)
      raise DivergedError(
        f"the loss or the gradient of step {step + 1} (batch {index + 1} of "
        f"epoch {epoch + 1}) is not finite: {DIVERGED_REMEDY}"
        + (f"; or {WRONG_SUMS_REMEDY}" if suspect else "")
      )
    self.train_state.states.assign(states)
    sums = [x.sum(dtype=np.float64) for x in (losses, norms)]
    self.train_state.sums.assign_add([*sums, len(losses)])
    return float(losses.mean(dtype=np.float64))

  def _train_steps(
    self, windows: tf.Tensor, states: tf.Tensor, start: tf.Tensor
  ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Takes one step for each of N batches `[N, rows, T + 1]`.

    The rows are those of this worker; `start` is the number of the first step.

    Returns loss and gradient norm of each step, `[N]` each, and the
      states `[num_layers, B, S]` that the next step goes on from.
    """
    strategy, num_steps = self._strategy, tf.shape(windows)[0]

    def step(
      i: tf.Tensor,
      states: tf.Tensor,
      losses: tf.TensorArray,
      norms: tf.TensorArray,
    ) -> tuple[tf.Tensor, tf.Tensor, tf.TensorArray, tf.TensorArray]:
      """Takes the step of batch `i` on all replicas."""
      with tf.device("CPU:0"):  # what needs it reads it there
        number = tf.cast(start + i, tf.int64)
      loss, norm, states = strategy.run(
        self._replica_step, (windows[i], states, number)
      )
      losses = losses.write(i, self._first(loss))
      return i + 1, states, losses, norms.write(i, self._first(norm))

    losses = tf.TensorArray(tf.float32, num_steps)
    norms = tf.TensorArray(tf.float32, num_steps)
    # Each replica keeps the states of its rows until the last step.
    own = strategy.run(self._carried.own, (states,))
    _, own, losses, norms = tf.while_loop(
      lambda i, *_: i < num_steps, step, (0, own, losses, norms)
    )
    states = self._first(strategy.run(self._carried.joined, (own,)))
    return losses.stack(), norms.stack(), states

  def _first(self, value: tf.distribute.DistributedValues) -> tf.Tensor:
    """Returns the first replica's value; all have the same."""
    return self._strategy.experimental_local_results(value)[0]

  def _replica_step(
    self, windows: tf.Tensor, states: tf.Tensor, step: tf.Tensor
  ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Takes a replica's part in one step: loss, gradient, and update.

    Takes the windows `[rows of this worker, T + 1]`, the states of the
    replica's rows `[num_layers, rows, S]`, and the number of the step. Returns
    loss and gradient norm of the whole batch, and the states after the step.
    """
    context = tf.distribute.get_replica_context()
    rows = tf.shape(windows)[0] // len(self.devices)  # of this replica
    first = context.replica_id_in_sync_group * rows  # in the global batch
    here = first - self.batches.rows.start
    # Windows come in the smallest type that holds the ids, and are cast here.
    mine = tf.cast(windows[here : here + rows], tf.int64)  # [rows, T + 1]
    with tf.device("CPU:0"):
      seed = tf.stack([self._config.seed, step])
    before = None
    if self._config.carry_state:
      before = self._carried.before(states, seed)
    masks = self.model.dropout_masks(mine[:, :-1], seed)
    loss, gradients, after = self._loss_and_gradients(mine, before, masks)
    # Together: a sum over GPUs takes mostly the time of its start.
    loss, *gradients = context.all_reduce("SUM", [loss, *gradients])
    norm = self.optimizer.apply_sums(gradients, step)
    if self._config.carry_state:
      states = self.model.pack(after)
    return loss, norm, states

  def _gradients(
    self, windows: tf.Tensor, before: State | None, masks: Masks
  ) -> tuple[tf.Tensor, list[tf.Tensor], State]:
    """Returns loss and gradient of windows `[rows, T + 1]`, and their states.

    The loss is the sum over these rows, divided by the characters of the global
    batch, so that its sum over the replicas is the mean of the batch.
    """
    with tf.GradientTape() as tape:
      inputs, targets = windows[:, :-1], windows[:, 1:]
      nats, after = self.model.nats(  # [rows, T]
        inputs, targets, before, training=True, dropout_masks=masks
      )
      loss = tf.reduce_sum(nats) / self.batches.characters_per_step
    variables = [v.value for v in self.model.trainable_variables]
    gradients = tape.gradient(loss, variables)
    # `tf.IndexedSlices` of an embedding are made dense: an id can occur in them
    # more than once, which a norm would not add up.
    return loss, [tf.convert_to_tensor(g) for g in gradients], after


def xla_compiles_steps(config: Config, num_replicas: int) -> bool:
  """Tells whether XLA should compile the gradients of training steps.

  This holds for a layer that is `fast_with_xla`. On a GPU, it joins most of the
  thousands of kernels of a step. On a CPU, several replicas that it compiled
  would wait for each other, it makes products in bfloat16 slower, and with
  dropout it was not measured.
  """
  if kind_of_device() == "GPU":
    return True
  fit = config.precision == "float32" and not config.dropout_rate
  few = config.batch_size <= FEW_WINDOWS_FOR_XLA
  return num_replicas == 1 and fit and few


def build_trainer(
  config: Config,
  vocab_size: int,
  batches: Batches,
  strategy: tf.distribute.Strategy,
  *,
  gru: str = "auto",
  layer: type[RecurrentLayer] | None = None,
) -> Trainer:
  """Returns a trainer of a new model, whose weights the seed determines.

  `layer` is the class of a layer that is not charlm's.

  Raises InputError: a warm-up that takes the whole run, or a layer that lacks
    what the config asks for.
  """
  # Before the model is made: the seed determines its initial weights.
  keras.utils.set_random_seed(config.seed)
  with strategy.scope():
    model = model_of(config, vocab_size, gru=gru, layer=layer, training=True)
    num_steps = config.num_steps(batches.steps_per_epoch)
    optimizer = build_optimizer(config, num_steps, model)
  return Trainer(
    model=model,
    optimizer=optimizer,
    batches=batches,
    strategy=strategy,
    config=config,
  )
