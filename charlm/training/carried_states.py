"""States that go on from step to step: `--carry_state` and `--reset_rate`.

Shapes: B rows of the global batch, S numbers of a layer's state. A checkpoint
holds the states of all rows as one tensor `[num_layers, B, S]`.
"""

import tensorflow as tf

from charlm.config import Config
from charlm.model.dropout import uniform_numbers
from charlm.model.language_model import LanguageModel, State

# Folded into the seed, which gives resets random numbers of their own. Dropout
# folds in the numbers of the layers, which are smaller.
_RESETS = 2**16


class CarriedStates:
  """What a replica does with the states of a step."""

  def __init__(
    self, model: LanguageModel, config: Config, steps_per_epoch: int
  ) -> None:
    """Takes the config, which gives B and the rate of resets.

    B is 0 if no states are carried: they then take no room in a checkpoint.
    """
    self._model, self._reset_rate = model, config.reset_rate
    self._steps_per_epoch = steps_per_epoch
    num_rows = config.batch_size if config.carry_state else 0
    self.initial = model.pack(model.initial_states(num_rows))

  def before(
    self,
    states: tf.Tensor,
    seed: tf.Tensor,
    *,
    first_row: tf.Tensor,
    num_rows: tf.Tensor,
  ) -> State:
    """Returns the states from which a replica's rows start a step.

    They are the initial ones in rows to be reset.

    Args:
      states: of all rows, after the step before.
      seed: `[2]`, of which the second is the number of the step.
      first_row: of the replica.
      num_rows: of the replica.
    """
    begins = seed[1] % self._steps_per_epoch == 0
    uniform = uniform_numbers([1, states.shape[1], 1], seed, _RESETS)
    # An epoch begins elsewhere in the text, where no state goes on.
    reset = begins | (uniform < self._reset_rate)
    states = tf.where(reset, self.initial, states)
    return self._model.unpack(states[:, first_row : first_row + num_rows])

  def join(
    self, after: State, *, first_row: tf.Tensor, num_rows: tf.Tensor
  ) -> tf.Tensor:
    """Returns the states of all rows, given those after a replica's rows."""
    shape = self.initial.shape
    # Zeros in the place of the other replicas' rows: the sum joins them all.
    padding = [[0, 0], [first_row, shape[1] - first_row - num_rows], [0, 0]]
    mine = tf.pad(self._model.pack(after), padding)
    context = tf.distribute.get_replica_context()
    return tf.ensure_shape(context.all_reduce("SUM", mine), shape)
