"""Dynamic evaluation: the model learns from each chunk once it is scored.

The update is the RMS rule with a decay towards the trained weights of Krause et
al., Dynamic Evaluation of Neural Sequence Models (2018).
"""

import functools

import numpy as np
import tensorflow as tf

from charlm.data.text import Text
from charlm.data.vocabulary import PADDING_ID
from charlm.errors import InputError, all_finite
from charlm.evaluation.evaluator import xla_compiles_scores
from charlm.evaluation.score import Score
from charlm.model.language_model import LanguageModel, State

_CHUNK = 32  # characters between two updates
# The search starts in the middle.
_LEARNING_RATES = [2e-4 * 2.0**i for i in range(-5, 6)]
# After each chunk, a weight moves back towards its trained value by a fraction
# of the distance. The fraction grows with the weight's usual gradient; this is
# its mean over the weights of a variable.
_DECAY = 1e-3
_MAX_VALID = 5_000  # characters; tuning passes over them four times or more
# The first chunk is scored before any update, so a single chunk gives all rates
# the same loss. With few chunks, the losses differ by chance.
_MIN_VALID = 10 * _CHUNK


class DynamicEvaluator:
  """Scores texts with a model that adapts to each of them from scratch."""

  def __init__(self, model: LanguageModel, valid_ids: np.ndarray) -> None:
    """Tunes the rule on the last `_MAX_VALID` characters of a valid text `[N]`.

    They give the mean squared gradient of each weight, and the learning rate.
    """
    self._model = model
    self._weights = [v.value for v in model.trainable_variables]
    self._trained = [tf.identity(weight) for weight in self._weights]
    self.mean_squares = [tf.Variable(tf.zeros_like(w)) for w in self._weights]
    xla = xla_compiles_scores(model.fast_with_xla)
    self._compiled_step = tf.function(self._step, jit_compile=xla)
    valid_ids = valid_ids[-_MAX_VALID:]
    # A rate of 0 makes no updates, but sums the squares of the gradients.
    self._pass(valid_ids, learning_rate=0.0)
    num_chunks = -(-(len(valid_ids) - 1) // _CHUNK)
    for squares in self.mean_squares:
      squares.assign(squares / num_chunks)
    self.learning_rate = self._choose(valid_ids)

  def stream(self, ids: np.ndarray) -> np.ndarray:
    """Scores all characters but the first, learning from each chunk."""
    return self._pass(ids, self.learning_rate)

  def _choose(self, ids: np.ndarray) -> float:
    """Returns the first learning rate whose neighbours are not better."""

    @functools.cache
    def loss(index: int) -> float:
      """Returns the loss at a rate, infinity if the model diverges."""
      mean = self._pass(ids, _LEARNING_RATES[index]).mean()
      return mean if np.isfinite(mean) else np.inf

    last = len(_LEARNING_RATES) - 1
    best = last // 2
    while best and loss(best) == np.inf:
      best -= 1
    for step in (1, -1):
      while 0 <= best + step <= last and loss(best + step) < loss(best):
        best += step
    return _LEARNING_RATES[best]

  def _pass(self, ids: np.ndarray, learning_rate: float) -> np.ndarray:
    """Scores a text `[N]`, learning as it goes, then restores the weights.

    Returns nats `[N - 1]`.
    """
    states, rate = self._model.initial_states(1), tf.constant(learning_rate)
    nats = np.empty(len(ids) - 1, np.float32)
    try:
      for start in range(0, len(nats), _CHUNK):
        chunk = ids[start : start + _CHUNK + 1]
        # The last chunk is padded, since each new shape is compiled again.
        padded = np.full([1, _CHUNK + 1], PADDING_ID, np.int32)
        padded[0, : len(chunk)] = chunk
        scored, states = self._compiled_step(padded, states, rate)
        nats[start : start + _CHUNK] = scored.numpy()[: len(chunk) - 1]
    finally:
      for weight, trained in zip(self._weights, self._trained, strict=True):
        weight.assign(trained)
    return nats

  def _step(
    self, chunk: tf.Tensor, states: State, rate: tf.Tensor
  ) -> tuple[tf.Tensor, State]:
    """Scores a chunk `[1, T + 1]`, then learns from it.

    Returns nats `[T]`, and the state after the chunk.
    """
    with tf.GradientTape() as tape:
      inputs, targets = chunk[:, :-1], chunk[:, 1:]
      nats, states = self._model.nats(inputs, targets, states)
      nats = tf.where(targets == PADDING_ID, 0.0, nats)
    gradients = tape.gradient(nats, self._weights)
    for weight, trained, squares, gradient in zip(
      self._weights, self._trained, self.mean_squares, gradients, strict=True
    ):
      gradient = tf.convert_to_tensor(gradient)
      if rate == 0:  # a tensor: AutoGraph converts this to `tf.cond`
        squares.assign_add(tf.square(gradient))
      else:
        scale = tf.sqrt(squares)
        mean = tf.reduce_mean(scale)
        # The mean bounds the update of a weight whose gradient was always 0, as
        # for a rare character. It is 0 itself if all gradients of the variable
        # were: then the variable keeps its values.
        step = tf.math.divide_no_nan(rate * gradient, scale + mean)
        back = tf.minimum(tf.math.divide_no_nan(_DECAY * scale, mean), 1)
        weight.assign_add(back * (trained - weight) - step)
    return nats[0], states


def score_dynamic(
  model: LanguageModel, vocab: list[str], text: Text, valid: Text
) -> tuple[Score, str]:
  """Scores a text by dynamic evaluation, as a stream.

  Args:
    model: the model; its weights are restored afterwards.
    vocab: its vocabulary.
    text: the text to score.
    valid: the valid text, on which the learning rate is chosen.

  Returns the score, and a description of the protocol.

  Raises InputError: the valid text is too short, or the model has diverged.
  """
  if len(valid) < _MIN_VALID:
    raise InputError(
      "dynamic evaluation chooses its learning rate on a valid text of "
      f"{_MIN_VALID} characters or more: train a run with more --valid_lines "
      "or --valid_chars"
    )
  evaluator = DynamicEvaluator(model, valid.ids_in(vocab))
  ids = text.ids_in(vocab)
  score = Score.of(text, nats=evaluator.stream(ids), ids=ids[1:])
  if not all_finite(score.log_perplexity):
    raise InputError(
      "the model has diverged: leave out --dynamic, or give another "
      "--checkpoint"
    )
  protocol = (
    f"stream, dynamic at a learning rate of {evaluator.learning_rate:g}"
  )
  return score, protocol
