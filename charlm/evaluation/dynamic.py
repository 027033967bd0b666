"""Dynamic evaluation: the model learns from what it was just scored on.

After Krause et al., Dynamic Evaluation of Neural Sequence Models (2018): their
RMS rule, with a decay towards the trained weights.
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

_SEGMENT = 32  # characters that are scored, then learned from
# The search begins in the middle.
_LEARNING_RATES = [2e-4 * 2.0**i for i in range(-5, 6)]
# After each segment a weight moves back towards its trained value by a fraction
# of the distance. The fraction grows with the weight's usual gradient; its mean
# over a variable's weights is this.
_DECAY = 1e-3
_MAX_VALID = 5_000  # characters; tuning passes over them four times or more
# The first segment is scored before anything is learned: with it alone, all
# rates have the same loss; with few, the losses differ by chance.
_MIN_VALID = 10 * _SEGMENT


class DynamicEvaluator:
  """Scores texts with a model that adapts to each of them afresh."""

  def __init__(self, model: LanguageModel, valid_ids: np.ndarray) -> None:
    """Takes a model and the valid text `[N]`.

    Its last `_MAX_VALID` characters give the mean squared gradient of each
    weight, and the learning rate.
    """
    self._model = model
    self._weights = [v.value for v in model.trainable_variables]
    self._trained = [tf.identity(weight) for weight in self._weights]
    self.mean_squares = [tf.Variable(tf.zeros_like(w)) for w in self._weights]
    xla = xla_compiles_scores(model.fast_with_xla)
    self._compiled_step = tf.function(self._step, jit_compile=xla)
    valid_ids = valid_ids[-_MAX_VALID:]
    # A rate of 0 takes no step, and sums the squares of the gradients.
    self._pass(valid_ids, learning_rate=0.0)
    num_segments = -(-(len(valid_ids) - 1) // _SEGMENT)
    for squares in self.mean_squares:
      squares.assign(squares / num_segments)
    self.learning_rate = self._choose(valid_ids)

  def stream(self, ids: np.ndarray) -> np.ndarray:
    """Scores all characters but the first, learning from each segment."""
    return self._pass(ids, self.learning_rate)

  def _choose(self, ids: np.ndarray) -> float:
    """Returns the first learning rate whose neighbours are not better."""

    @functools.cache  # each pass is made once
    def loss(index: int) -> float:
      """Returns the nats per character at a rate; infinity if it diverges."""
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
      for start in range(0, len(nats), _SEGMENT):
        piece = ids[start : start + _SEGMENT + 1]
        # The last one is padded, since each shape is compiled anew.
        segment = np.full([1, _SEGMENT + 1], PADDING_ID, np.int32)
        segment[0, : len(piece)] = piece
        found, states = self._compiled_step(segment, states, rate)
        nats[start : start + _SEGMENT] = found.numpy()[: len(piece) - 1]
    finally:
      for weight, trained in zip(self._weights, self._trained, strict=True):
        weight.assign(trained)
    return nats

  def _step(
    self, segment: tf.Tensor, states: State, rate: tf.Tensor
  ) -> tuple[tf.Tensor, State]:
    """Scores a segment `[1, T + 1]`, then learns from it.

    Returns nats `[T]`, and the state after the segment.
    """
    with tf.GradientTape() as tape:
      inputs, targets = segment[:, :-1], segment[:, 1:]
      nats, states = self._model.nats(inputs, targets, states)
      nats = tf.where(targets == PADDING_ID, 0.0, nats)
    gradients = tape.gradient(nats, self._weights)
    for weight, trained, squares, gradient in zip(
      self._weights, self._trained, self.mean_squares, gradients, strict=True
    ):
      gradient = tf.convert_to_tensor(gradient)
      if rate == 0:  # a tensor: AutoGraph makes a condition of this
        squares.assign_add(tf.square(gradient))
      else:
        scale = tf.sqrt(squares)
        mean = tf.reduce_mean(scale)
        # The mean bounds the step of a weight whose gradient was always 0, such
        # as a rare character's. It is 0 itself where all of the variable's
        # gradients were: then no step is taken.
        step = tf.math.divide_no_nan(rate * gradient, scale + mean)
        back = tf.minimum(tf.math.divide_no_nan(_DECAY * scale, mean), 1)
        weight.assign_add(back * (trained - weight) - step)
    return nats[0], states


def score_dynamic(
  model: LanguageModel, vocab: list[str], text: Text, valid: Text
) -> tuple[Score, str]:
  """Scores a text by dynamic evaluation, along its stream.

  Args:
    model: is left as it was.
    vocab: the model's.
    text: the text.
    valid: the valid text, on which the learning rate is chosen.

  Returns the score, and the protocol in words.

  Raises InputError: a text or valid text that is too short, or a diverged
    model.
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
