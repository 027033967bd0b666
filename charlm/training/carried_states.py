"""States carried from step to step: `--carry_state` and `--reset_rate`.

Shapes: L layers, B rows of the global batch, R rows of a replica, S numbers of
a layer's state. A checkpoint holds the states of all rows, `[L, B, S]`.
"""

import tensorflow as tf

from charlm.config import Config
from charlm.model.dropout import uniform_numbers
from charlm.model.language_model import LanguageModel, State

# Folded into the seed for the random numbers of resets. Dropout folds in the
# indices of the layers, which are smaller.
_RESETS = 2**16


class CarriedStates:
  """The states from which each step starts, for the rows of each replica."""

  def __init__(
    self,
    model: LanguageModel,
    config: Config,
    *,
    steps_per_epoch: int,
    num_replicas: int,
  ) -> None:
    """Takes the config, which gives B and the rate of resets.

    Without carried states, B is 0, and they take no space in a checkpoint.
    """
    self._model, self._reset_rate = model, config.reset_rate
    self._steps_per_epoch = steps_per_epoch
    num_rows = config.batch_size if config.carry_state else 0
    self.initial = model.pack(model.initial_states(num_rows))  # [L, B, S]
    self._num_local_rows = num_rows // num_replicas  # R

  def local_rows(self, states: tf.Tensor) -> tf.Tensor:
    """Returns this replica's rows of a tensor `[L, B, S]`."""
    first = self._first_row()
    return states[:, first : first + self._num_local_rows]

  def gather(self, local: tf.Tensor) -> tf.Tensor:
    """Returns the states `[L, B, S]` of all rows, given those of a replica."""
    shape = self.initial.shape
    if not self._num_local_rows:
      return local
    first = self._first_row()
    # Zeros replace the other replicas' rows, so that a sum gathers all rows.
    padding = [[0, 0], [first, shape[1] - first - self._num_local_rows], [0, 0]]
    context = tf.distribute.get_replica_context()
    gathered = context.all_reduce("SUM", tf.pad(local, padding))
    return tf.ensure_shape(gathered, shape)

  def initial_or_carried(self, carried: tf.Tensor, seed: tf.Tensor) -> State:
    """Returns the states from which this replica's rows start a step.

    A row starts from the initial state at the start of an epoch, or if it is
    reset, else from its state after the previous step.

    Args:
      carried: the states of these rows after the previous step, `[L, R, S]`.
      seed: `[2]`: the seed of the run, and the number of the step.
    """
    # In a new epoch, a row continues another part of the text.
    new_epoch = seed[1] % self._steps_per_epoch == 0
    uniform = uniform_numbers([1, self.initial.shape[1], 1], seed, _RESETS)
    reset = self.local_rows(new_epoch | (uniform < self._reset_rate))
    states = tf.where(reset, self.local_rows(self.initial), carried)
    return self._model.unpack(states)

  def _first_row(self) -> tf.Tensor:
    context = tf.distribute.get_replica_context()
    return context.replica_id_in_sync_group * self._num_local_rows
