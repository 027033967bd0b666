"""What a checkpoint holds besides model and optimizer."""

import numpy as np
import tensorflow as tf


class TrainState(tf.Module):
  """What a checkpoint holds besides model and optimizer, to resume exactly.

  The best loss is set by the session, which evaluates. It is kept here because
  it must be saved with the step that it belongs to.
  """

  def __init__(self, num_layers: int, num_rows: int, rnn_units: int) -> None:
    """Takes the shape of the carried states; 0 rows if none are carried."""
    super().__init__()
    # The states of the rows of all replicas.
    zeros = tf.zeros([num_layers, num_rows, rnn_units])
    self.states = tf.Variable(zeros, trainable=False)
    # Loss, gradient norm and number of steps since the metrics were written.
    self.sums = tf.Variable(tf.zeros([3], tf.float64), trainable=False)
    self.best_loss = tf.Variable(np.inf, dtype=tf.float64, trainable=False)
