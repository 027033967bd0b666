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
from charlm.system.devices import kind_of_device, tensor_float_32
from charlm.training.carried_states import CarriedStates
from charlm.training.optimizer import Adam, build_optimizer

# Up to this many windows per step, XLA compiles the steps of a single replica
# on a CPU (recipes/LOG.md).
FEW_WINDOWS_FOR_XLA = 16
_SECONDS_PER_CALL = 1.0  # how long a stop request or the progress bar may wait
_MAX_STEPS_PER_CALL = 100
DIVERGED_REMEDY = (
  "lower --learning_rate, or raise --weight_decay, and give a new --run_dir"
)


class TrainMetrics(NamedTuple):
  """Metrics of the steps since the previous `take_metrics`."""

  loss: float  # the mean, in nats per character
  gradient_norm: float  # the mean, before clipping
  learning_rate: float  # of the next step
  characters_per_second: float


class TrainState(tf.Module):
  """Variables that a checkpoint needs besides model and optimizer.

  With them a resumed run equals an uninterrupted one. `Checkpoints` sets the
  best loss after an evaluation; it is here so that it is saved with its step.
  """

  def __init__(self, states: tf.Tensor) -> None:
    """Takes the carried states `[num_layers, B, S]` of the global batch.

    Without carried states, B is 0, and they take no space in a checkpoint.
    """
    super().__init__()
    self.states = tf.Variable(states, trainable=False)
    # Of loss, gradient norm and 1, over the steps since the last metrics.
    self.sums = tf.Variable(tf.zeros([3], tf.float64), trainable=False)
    self.best_loss = tf.Variable(np.inf, dtype=tf.float64, trainable=False)


class Trainer:
  """Trains a model on all replicas of a strategy.

  `take_steps` runs many steps in one call of a graph function:

    for each batch [B, T + 1]:
      on each replica, with B / num_replicas rows:
        loss and gradients of these rows
        sum of both over the replicas
        clipping, then the optimizer's update of the replica's weights

  Afterwards it checks that all losses and gradient norms are finite.
  `ChiefLoop` decides how many steps to take, and what to do between them.
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
    """Prepares the graph function; use `build_trainer` to make a trainer.

    Args:
      model: the model, built in the strategy's scope.
      optimizer: its optimizer, made in the same scope.
      batches: the windows of each step.
      strategy: the replicas.
      config: gives batch size, epochs, seed, and whether states are carried.
    """
    self.model, self.optimizer, self.batches = model, optimizer, batches
    self._strategy, self._config = strategy, config
    # The step after which the run ends.
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
    self._characters, self._seconds = 0, 0.0  # since the last metrics
    # A signature for any number of steps: each trace would take seconds.
    batch = batches.batch(0)
    windows = tf.TensorSpec([None, *batch.shape], batch.dtype)
    states = tf.TensorSpec(self.train_state.states.shape)
    specs = [windows, states, tf.TensorSpec([], tf.int32)]
    # Without AutoGraph, whose conversion takes a second.
    self._compiled = tf.function(self._train_steps, specs, autograph=False)
    # By default, a part of the graph of `_train_steps`.
    self._loss_and_gradients = self._gradients
    self.compiled_by_xla = model.fast_with_xla and xla_compiles_steps(
      config, strategy.num_replicas_in_sync
    )
    if self.compiled_by_xla:
      self._loss_and_gradients = tf.function(
        self._gradients, autograph=False, jit_compile=True
      )
    # Makes the variables into which a checkpoint is restored.
    with strategy.scope():
      optimizer.build(model.trainable_variables)

  @property
  def step(self) -> int:
    """The number of optimizer updates so far."""
    return int(self.optimizer.iterations.numpy())

  def train(self, until_step: int) -> None:
    """Trains up to a step, without metrics, checkpoints or evaluations."""
    while (left := until_step - self.step) > 0:
      self.take_steps(self.steps_per_call(left))

  def steps_per_call(self, at_most: int) -> int:
    """Returns how many steps take about a second, at least 1."""
    return min(self._steps_per_call, at_most)

  def take_steps(self, num_steps: int) -> tuple[float, float]:
    """Takes several steps in one call of the graph function.

    Returns their mean loss, in nats per character, and characters per second.

    Raises:
      DivergedError: a loss or a gradient is not finite; the message names the
        step. All steps have then changed the weights: they must not be saved.
    """
    step, start = self.step, time.perf_counter()
    # A profile shows each call as a step, numbered by its first step.
    trace = tf.profiler.experimental.Trace("train", step_num=step, _r=1)
    with trace, tensor_float_32():
      loss = self._run_steps(step, step + num_steps)
    seconds = time.perf_counter() - start
    # The first call also traces, so the first estimate is too low.
    estimate = int(_SECONDS_PER_CALL / (seconds / num_steps))
    self._steps_per_call = max(1, min(estimate, _MAX_STEPS_PER_CALL))
    characters = num_steps * self.batches.characters_per_step
    self._characters += characters
    self._seconds += seconds
    return loss, characters / seconds

  def take_metrics(self) -> TrainMetrics:
    """Returns the metrics of the steps since the previous call."""
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
    """Runs the steps from `start` to `stop` - 1; returns their mean loss."""
    windows = np.stack([self.batches.batch(i) for i in range(start, stop)])
    before = self.train_state.states.read_value()
    losses, norms, states = self._compiled(windows, before, tf.constant(start))
    losses, norms = losses.numpy(), norms.numpy()  # [stop - start] each
    if not all_finite(losses, norms):
      step = start + int(np.argmin(np.isfinite(losses) & np.isfinite(norms)))
      epoch, index = divmod(step, self.batches.steps_per_epoch)
      raise DivergedError(
        f"the loss or the gradient of step {step + 1} (batch {index + 1} of "
        f"epoch {epoch + 1}) is not finite: {DIVERGED_REMEDY}"
      )
    self.train_state.states.assign(states)
    sums = [x.sum(dtype=np.float64) for x in (losses, norms)]
    self.train_state.sums.assign_add([*sums, len(losses)])
    return float(losses.mean(dtype=np.float64))

  def _train_steps(
    self, windows: tf.Tensor, states: tf.Tensor, start: tf.Tensor
  ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Takes one step for each of N batches `[N, rows, T + 1]`.

    The rows are those of this worker, the states `[num_layers, B, S]` those of
    the global batch. `start` is the number of the first step.

    Returns the losses `[N]`, the gradient norms `[N]`, and the states
      `[num_layers, B, S]` from which the next step starts.
    """
    strategy, num_steps = self._strategy, tf.shape(windows)[0]

    def step(
      i: tf.Tensor,
      states: tf.Tensor,
      losses: tf.TensorArray,
      norms: tf.TensorArray,
    ) -> tuple[tf.Tensor, tf.Tensor, tf.TensorArray, tf.TensorArray]:
      """Takes the step of batch `i` on all replicas."""
      with tf.device("CPU:0"):  # where seeds and schedules read it
        number = tf.cast(start + i, tf.int64)
      loss, norm, states = strategy.run(
        self._replica_step, (windows[i], states, number)
      )
      losses = losses.write(i, self._first(loss))
      return i + 1, states, losses, norms.write(i, self._first(norm))

    losses = tf.TensorArray(tf.float32, num_steps)
    norms = tf.TensorArray(tf.float32, num_steps)
    # Inside the loop, each replica holds the states of its own rows only.
    local = strategy.run(self._carried.local_rows, (states,))
    _, local, losses, norms = tf.while_loop(
      lambda i, *_: i < num_steps, step, (0, local, losses, norms)
    )
    states = self._first(strategy.run(self._carried.gather, (local,)))
    return losses.stack(), norms.stack(), states

  def _first(self, value: tf.distribute.DistributedValues) -> tf.Tensor:
    """Returns the first replica's value, which all replicas share."""
    return self._strategy.experimental_local_results(value)[0]

  def _replica_step(
    self, windows: tf.Tensor, states: tf.Tensor, step: tf.Tensor
  ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Takes one step on this replica: loss, gradients, sum, and update.

    Args:
      windows: the ids of this worker's rows, `[rows of the worker, T + 1]`.
      states: the states of this replica's rows, `[num_layers, rows, S]`, where
        S is the size of a layer's state.
      step: the number of the step.

    Returns loss and gradient norm of the global batch, and the states of this
      replica's rows after the step.
    """
    context = tf.distribute.get_replica_context()
    rows = tf.shape(windows)[0] // len(self.devices)  # of this replica
    first = context.replica_id_in_sync_group * rows  # in the global batch
    offset = first - self.batches.rows.start  # in this worker's rows
    # Batches have the smallest type that holds the ids, and are cast here.
    local = tf.cast(windows[offset : offset + rows], tf.int64)  # [rows, T + 1]
    with tf.device("CPU:0"):
      seed = tf.stack([self._config.seed, step])
    before = None
    if self._config.carry_state:
      before = self._carried.initial_or_carried(states, seed)
    masks = self.model.dropout_masks(local[:, :-1], seed)
    loss, gradients, after = self._loss_and_gradients(local, before, masks)
    # In one call, since starting a sum over GPUs takes longer than the sum.
    loss, *gradients = context.all_reduce("SUM", [loss, *gradients])
    norm = self.optimizer.apply_sums(gradients, step)
    if self._config.carry_state:
      states = self.model.pack(after)
    return loss, norm, states

  def _gradients(
    self, windows: tf.Tensor, before: State | None, masks: Masks
  ) -> tuple[tf.Tensor, list[tf.Tensor], State]:
    """Computes loss and gradients of a replica's windows `[rows, T + 1]`.

    The first T characters are the inputs, the last T the targets. The loss is
    the sum of the rows' nats, divided by the number of characters in the global
    batch: its sum over the replicas is then the mean of the batch.

    Returns the loss, a gradient per trainable variable, and the states after
      the windows.
    """
    with tf.GradientTape() as tape:
      inputs, targets = windows[:, :-1], windows[:, 1:]
      nats, after = self.model.nats(  # [rows, T]
        inputs, targets, before, training=True, dropout_masks=masks
      )
      loss = tf.reduce_sum(nats) / self.batches.characters_per_step
    variables = [v.value for v in self.model.trainable_variables]
    gradients = tape.gradient(loss, variables)
    # Converts `tf.IndexedSlices` of the embedding to dense tensors: an id can
    # occur in several slices, which a norm would not add up first.
    return loss, [tf.convert_to_tensor(g) for g in gradients], after


def xla_compiles_steps(config: Config, num_replicas: int) -> bool:
  """Decides whether XLA compiles the gradients of a `fast_with_xla` layer.

  On a GPU, XLA fuses most of the thousands of kernels of a step. On a CPU,
  several compiled replicas would wait for each other, products in bfloat16
  become slower, and dropout was not measured.
  """
  if kind_of_device() == "GPU":
    return True
  suitable = config.precision == "float32" and not config.dropout_rate
  few = config.batch_size <= FEW_WINDOWS_FOR_XLA
  return num_replicas == 1 and suitable and few


def build_trainer(
  config: Config,
  vocab_size: int,
  batches: Batches,
  strategy: tf.distribute.Strategy,
  *,
  gru: str = "auto",
  layer: type[RecurrentLayer] | None = None,
) -> Trainer:
  """Builds a model, its optimizer, and a trainer for both.

  `layer` is the class of a layer that is not charlm's.

  Raises InputError: the warm-up takes the whole run, or the layer lacks an
    option of the config.
  """
  keras.utils.set_random_seed(config.seed)  # determines the initial weights
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
