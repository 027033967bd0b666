"""Text from a model: Gumbel-max sampling.

Every sample has its own stream of random numbers, a function of (seed, sample,
position), so a text depends neither on how many are drawn beside it nor on the
device.
"""

import concurrent.futures

import numpy as np
import tensorflow as tf

from charlm.machine import num_cores
from charlm.model import GRULM, State
from charlm.vocabulary import (
  NUM_SPECIAL,
  decode,
  encode,
  line_to_tensor,
  text_from_ids,
)

# Products of one row, and of more than 32, round differently, which can flip a
# near-tie: no graph call has fewer or more rows than these.
_MIN_ROWS, _MAX_ROWS = 2, 32
_MIN_BUFFER = 1024


def temperature_random_sampling(
  log_probs: tf.Tensor,
  temperature: float | tf.Tensor = 1.0,
  uniform: tf.Tensor | None = None,
) -> tf.Tensor:
  """Draws from softmax(log_probs / temperature) by the Gumbel-max trick.

  Args:
    log_probs: `[..., V]`; all of them can be drawn.
    temperature: 0 is greedy.
    uniform: numbers in [0, 1) shaped like `log_probs`; drawn from TensorFlow's
      global generator if None.

  Returns Ids `[...]`, int64.
  """
  if uniform is None:
    uniform = tf.random.uniform(tf.shape(log_probs))
  u = 1e-6 + uniform * (1 - 2e-6)
  gumbel = -tf.math.log(-tf.math.log(u))
  return tf.argmax(log_probs + temperature * gumbel, axis=-1)


class GenerativeModel:
  """Generates text; `[UNK]` and padding are never drawn."""

  def __init__(
    self, model: GRULM, vocab: list[str], temperature: float = 1.0
  ) -> None:
    """Takes a trained model.

    Raises ValueError: a negative temperature.
    """
    if not 0 <= temperature < float("inf"):
      raise ValueError(
        f"temperature is {temperature}: give 0 (greedy) or a positive number"
      )
    self._model = model
    self._vocab = vocab
    self._temperature = temperature
    self._generate = tf.function(self._generate, jit_compile=True)

  def generate_one_step(
    self, inputs: tf.Tensor | list[str], states: State | None = None
  ) -> tuple[tf.Tensor, State]:
    """Draws the next character of each text, from TensorFlow's generator.

    It takes strings `[B]` of one length and the states that it returned for
    them, None at the start of a text. Returns characters `[B]` and the states.
    """
    ragged = line_to_tensor(inputs, self._vocab)
    ids = ragged.to_tensor()
    if tf.size(ids) != tf.size(ragged.flat_values):
      raise ValueError(
        "the inputs differ in length: give strings of one length"
      )
    log_probs, states = self._model(ids, states, return_state=True)
    log_probs = _without_special(log_probs[:, -1])
    chosen = temperature_random_sampling(log_probs, self._temperature)
    return text_from_ids(chosen[:, tf.newaxis], self._vocab), states

  def generate_n_chars(self, num_chars: int, prefix: str, seed: int = 0) -> str:
    """Returns the prefix and `num_chars` characters after it."""
    return prefix + self.sample(num_chars, prefix, 1, seed)[0]

  def sample(
    self, num_chars: int, prefix: str, num_samples: int = 1, seed: int = 0
  ) -> list[str]:
    """Continues a prefix, in one graph call for each 32 samples.

    Sample i depends neither on `num_samples` nor on what came before. The seed
    is below 2**64, the prefix not empty, and not part of the samples.
    """
    if not prefix:
      raise ValueError("an empty prefix: give a newline to start a line")
    prefix_ids = encode(prefix, self._vocab)
    length = len(prefix_ids) + num_chars
    # XLA compiles for each shape: a power of two makes them few.
    size = max(_MIN_BUFFER, 1 << (length - 1).bit_length())
    known = np.zeros(size, np.int32)
    known[: len(prefix_ids)] = prefix_ids

    def generate(first: int) -> np.ndarray:
      num_rows = min(max(num_samples - first, _MIN_ROWS), _MAX_ROWS)
      return self._generate(
        known,
        tf.range(first, first + num_rows),
        tf.constant([len(prefix_ids), length]),
        tf.constant([seed & 0xFFFFFFFF, seed >> 32], tf.uint32),
        tf.constant(self._temperature, tf.float32),
      ).numpy()

    # One call keeps little more than one core busy.
    with concurrent.futures.ThreadPoolExecutor(num_cores()) as pool:
      blocks = pool.map(generate, range(0, num_samples, _MAX_ROWS))
      rows = [row for block in blocks for row in block][:num_samples]
    return [decode(row[len(prefix_ids) : length], self._vocab) for row in rows]

  def _generate(
    self,
    known: tf.Tensor,
    samples: tf.Tensor,
    lengths: tf.Tensor,
    seed: tf.Tensor,
    temperature: tf.Tensor,
  ) -> tf.Tensor:
    """Returns ids `[B, size]`, of which as many as `lengths[1]` count.

    The first `lengths[0]` of the ids `[size]` are known, the others are drawn.
    """
    size, batch = known.shape[0], samples.shape[0]
    ids = tf.TensorArray(tf.int32, size, element_shape=[batch])
    ids = ids.unstack(tf.tile(known[:, tf.newaxis], [1, batch]))
    step, states = self._model.step_fn(), self._model.initial_states(batch)
    last = ids.read(0)
    for i in tf.range(1, lengths[1]):
      log_probs, states = step(last, states)
      uniform = _uniform(seed, samples, i - lengths[0], len(self._vocab))
      drawn = temperature_random_sampling(
        _without_special(log_probs), temperature, uniform
      )
      last = tf.where(i < lengths[0], ids.read(i), tf.cast(drawn, tf.int32))
      ids = ids.write(i, last)
    return tf.transpose(ids.stack())


def _without_special(log_probs: tf.Tensor) -> tf.Tensor:
  """Makes the ids that stand for no character impossible, `[B, V]`."""
  impossible = tf.fill([tf.shape(log_probs)[0], NUM_SPECIAL], -float("inf"))
  return tf.concat([impossible, log_probs[:, NUM_SPECIAL:]], axis=1)


def _uniform(
  seed: tf.Tensor, samples: tf.Tensor, position: tf.Tensor, size: int
) -> tf.Tensor:
  """Returns numbers in [0, 1) `[B, size]`, a function of all arguments."""
  samples = tf.cast(samples, tf.uint32)
  keys = _threefry(seed[0], seed[1], samples, tf.zeros_like(samples))
  keys = [key[:, tf.newaxis] for key in keys]
  position = tf.cast(position, tf.uint32)
  lanes = tf.cast(tf.range(size), tf.uint32)[tf.newaxis]
  bits, _ = _threefry(*keys, tf.fill([1, size], position), lanes)
  # 24 bits: as many as a float32 holds.
  bits = tf.cast(
    tf.bitwise.right_shift(bits, tf.constant(8, tf.uint32)), tf.int32
  )
  return tf.cast(bits, tf.float32) * 2.0**-24


def _threefry(
  key0: tf.Tensor, key1: tf.Tensor, x0: tf.Tensor, x1: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
  """Threefry-2x32 with 20 rounds (Salmon et al. 2011), all uint32.

  TensorFlow's own stateless generators give other numbers under XLA, and one
  row's numbers would depend on how many rows there are.
  """
  parity = tf.constant(0x1BD11BDA, tf.uint32)
  key2 = tf.bitwise.bitwise_xor(tf.bitwise.bitwise_xor(key0, key1), parity)
  keys = (key0, key1, key2)
  x0, x1 = x0 + key0, x1 + key1
  for i in range(5):
    for rotation in ((13, 15, 26, 6), (17, 29, 16, 24))[i % 2]:
      x0 = x0 + x1
      left = tf.bitwise.left_shift(x1, tf.constant(rotation, tf.uint32))
      right = tf.bitwise.right_shift(x1, tf.constant(32 - rotation, tf.uint32))
      x1 = tf.bitwise.bitwise_xor(x0, tf.bitwise.bitwise_or(left, right))
    x0 = x0 + keys[(i + 1) % 3]
    x1 = x1 + keys[(i + 2) % 3] + tf.constant(i + 1, tf.uint32)
  return x0, x1
