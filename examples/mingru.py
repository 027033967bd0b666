"""minGRU: a GRU whose gate and candidate depend only on the input.

This is the model of Feng et al., Were RNNs All We Needed? (arXiv 2410.01201),
without the logarithms of their appendix. Only the recurrence depends on the
state. So a window needs a single matrix product, and the recurrence is a scan.

    python train.py --layer=examples/mingru.py:MinGRU --corpus=my.txt
"""

from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

import charlm
from charlm.system.devices import Choice

# A scan takes log2(T) sequential steps, but more operations.
LINEAR_SCAN = Choice("loop", "scan")


class MinGRU(charlm.RecurrentLayer):
  """h = (1 - z) h + z n, with z = sigmoid(W_z x + b_z) and n = W_n x + b_n."""

  def __init__(self, units: int, name: str | None = None) -> None:
    super().__init__(name=name)
    self.units = units

  def build(self, sequences_shape: Sequence[int | None]) -> None:
    """Makes the weights; Keras calls this."""
    columns = 2 * self.units  # of z, then of n
    self.kernel = self.add_weight([sequences_shape[-1], columns], name="kernel")
    self.bias = self.add_weight([columns], "zeros", name="bias")

  def call(
    self,
    sequences: tf.Tensor,
    initial_state: tf.Tensor | None = None,
    training: bool = False,
  ) -> tuple[tf.Tensor, tf.Tensor]:
    """Runs over a window `[B, T, D]`, as `RecurrentLayer` describes."""
    kept, added = self._gates(self.project(sequences))  # [B, T, H]
    if initial_state is None:
      initial_state = self.initial_state(tf.shape(sequences)[0])
    outputs = linear_recurrence(kept, added, initial_state)
    return outputs, outputs[:, -1]

  def project(self, inputs: tf.Tensor) -> tf.Tensor:
    """Returns z before its sigmoid, and n, `[..., 2H]`, of `[..., D]`."""
    kernel = tf.convert_to_tensor(self.kernel)
    return tf.tensordot(inputs, kernel, 1) + self.bias

  def step(
    self, projected: tf.Tensor, state: tf.Tensor
  ) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the next state `[B, H]` twice, since it is also the output."""
    kept, added = self._gates(projected)
    state = kept * state + added
    return state, state

  def matrices(self) -> list[tuple[keras.Variable, int]]:
    """Lists the kernel, which has two gates for Muon: z and n."""
    return [(self.kernel, 2)]

  def _gates(self, projected: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns 1 - z, which scales the state, and z n, which is added."""
    z, n = tf.split(projected, 2, axis=-1)
    return tf.sigmoid(-z), tf.sigmoid(z) * n


@tf.custom_gradient
def linear_recurrence(
  kept: tf.Tensor, added: tf.Tensor, state: tf.Tensor
) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple[tf.Tensor, ...]]]:
  """Returns the states h = kept * h + added, `[B, T, H]`.

  Takes kept and added `[B, T, H]`, and the state `[B, H]` before them. The
  gradient is the same recurrence, from the last time step to the first. The
  gradient of TensorFlow's loop would fill a `[B, T, H]` at each time step.
  """
  first = added[:, :1] + kept[:, :1] * state[:, tf.newaxis]
  states = _scan(kept, tf.concat([first, added[:, 1:]], axis=1))

  def gradient(d_states: tf.Tensor) -> tuple[tf.Tensor, ...]:
    """Returns the gradients of kept, added, and state."""
    later = tf.concat([kept[:, 1:], tf.zeros_like(kept[:, :1])], axis=1)
    from_last = _scan(tf.reverse(later, [1]), tf.reverse(d_states, [1]))
    d_added = tf.reverse(from_last, [1])
    before = tf.concat([state[:, tf.newaxis], states[:, :-1]], axis=1)
    return d_added * before, d_added, d_added[:, 0] * kept[:, 0]

  return states, gradient


def _scan(kept: tf.Tensor, added: tf.Tensor) -> tf.Tensor:
  """Returns the states `[B, T, H]`, starting from zeros."""
  if LINEAR_SCAN.here == "scan" and kept.shape[1] is not None:
    # At each position, (kept, added) is the map h -> kept h + added over the
    # last `length` time steps. Composed with the map of the steps before, it
    # covers twice as many.
    length = 1
    while length < kept.shape[1]:
      padding = [[0, 0], [length, 0], [0, 0]]
      added += kept * tf.pad(added[:, :-length], padding)
      kept *= tf.pad(kept[:, :-length], padding)
      length *= 2
    return added
  kept, added = (tf.transpose(x, [1, 0, 2]) for x in (kept, added))
  num_steps = tf.shape(added)[0]
  array = tf.TensorArray(added.dtype, num_steps, element_shape=added.shape[1:])

  def step(
    t: tf.Tensor, state: tf.Tensor, states: tf.TensorArray
  ) -> tuple[tf.Tensor, tf.Tensor, tf.TensorArray]:
    """Takes time step t."""
    state = kept[t] * state + added[t]
    return t + 1, state, states.write(t, state)

  _, _, array = tf.while_loop(
    lambda t, *_: t < num_steps,
    step,
    (0, tf.zeros_like(added[0]), array),
    parallel_iterations=1,
  )
  return tf.transpose(array.stack(), [1, 0, 2])
