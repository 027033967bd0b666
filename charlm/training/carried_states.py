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
  """The states that each step goes on from, on each replica those of its rows.

  Shapes: L layers, B rows of the global batch, R rows of a replica.
  """

  def __init__(
    self,
    model: LanguageModel,
    config: Config,
    *,
    steps_per_epoch: int,
    num_replicas: int,
  ) -> None:
    """Takes the config, which gives B and the rate of resets.

    B is 0 if no states are carried: they then take no room in a checkpoint.
    """
    self._model, self._reset_rate = model, config.reset_rate
    self._steps_per_epoch = steps_per_epoch
    num_rows = config.batch_size if config.carry_state else 0
    self.initial = model.pack(model.initial_states(num_rows))  # [L, B, S]
    self._own_rows = num_rows // num_replicas

  def own(self, states: tf.Tensor) -> tf.Tensor:
    """Returns this replica's rows of a tensor `[L, B, S]`."""
    first = self._first_row()
    return states[:, first : first + self._own_rows]

  def joined(self, own: tf.Tensor) -> tf.Tensor:
    """Returns the states of all rows, of which each replica has its own."""
    shape = self.initial.shape
    if not self._own_rows:
      return own
    first = self._first_row()
    # Zeros in the place of the other replicas' rows: the sum joins them all.
    padding = [[0, 0], [first, shape[1] - first - self._own_rows], [0, 0]]
    context = tf.distribute.get_replica_context()
    summed = context.all_reduce("SUM", tf.pad(own, padding))
    return tf.ensure_shape(summed, shape)

  def before(self, own: tf.Tensor, seed: tf.Tensor) -> State:
    """Returns the states from which a replica's rows start a step.

    They are the initial ones in rows to be reset.

    Args:
      own: the states of these rows after the step before.
      seed: `[2]`, of which the second is the number of the step.
    """
    begins = seed[1] % self._steps_per_epoch == 0
    uniform = uniform_numbers([1, self.initial.shape[1], 1], seed, _RESETS)
    # An epoch begins elsewhere in the text, where no state goes on.
    reset = begins | (uniform < self._reset_rate)
    own = tf.where(self.own(reset), self.own(self.initial), own)
    return self._model.unpack(own)

  def _first_row(self) -> tf.Tensor:
    context = tf.distribute.get_replica_context()
    return context.replica_id_in_sync_group * self._own_rows
