"""Dynamic evaluation: the model learns from what it was just scored on.

After Krause et al., Dynamic Evaluation of Neural Sequence Models (2018): their
RMS rule, with a decay towards the trained weights.
"""

import functools
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from charlm.data.text import Text
from charlm.data.vocabulary import PADDING_ID
from charlm.errors import InputError
from charlm.evaluation.score import Score, Tally, refuse_diverged, refuse_short
from charlm.model.language_model import GRULM, State
from charlm.system.choices import XLA_FOR_SCORES

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

  def __init__(self, model: GRULM, valid_ids: np.ndarray) -> None:
    """Takes a model and the valid text `[N]`.

    Its last `_MAX_VALID` characters give the mean squared gradient of each
    weight, and the learning rate.

    Raises InputError: fewer than two characters.
    """
    refuse_short(valid_ids, "the valid text")
    self._model = model
    self._weights = [v.value for v in model.trainable_variables]
    self._trained = [tf.identity(weight) for weight in self._weights]
    self.mean_squares = [tf.Variable(tf.zeros_like(w)) for w in self._weights]
    self._compiled = tf.function(self._learn, jit_compile=XLA_FOR_SCORES.here)
    valid_ids = valid_ids[-_MAX_VALID:]
    # A rate of 0 takes no step, and sums the squares of the gradients.
    self._loss(valid_ids, 0.0)
    num_segments = -(-(len(valid_ids) - 1) // _SEGMENT)
    for squares in self.mean_squares:
      squares.assign(squares / num_segments)
    self.learning_rate = self._choose(valid_ids)

  def stream(self, ids: np.ndarray) -> Score:
    """Scores all characters but the first, learning from each segment.

    Raises InputError: fewer than two characters.
    """
    refuse_short(ids)
    tally, start = Tally(len(ids) - 1), 1
    for nats in self._pass(ids, self.learning_rate):
      tally.add(nats, ids[start : start + len(nats)])
      start += len(nats)
    return tally.score()

  def _loss(self, ids: np.ndarray, learning_rate: float) -> float:
    """Returns the mean nats of a pass; infinity where it diverged."""
    mean = np.concatenate([*self._pass(ids, learning_rate)]).mean()
    return mean if np.isfinite(mean) else np.inf

  def _choose(self, ids: np.ndarray) -> float:
    """Returns the first learning rate whose neighbours are not better."""
    last = len(_LEARNING_RATES) - 1
    # Each pass is made once.
    loss = functools.cache(lambda i: self._loss(ids, _LEARNING_RATES[i]))
    best = last // 2
    while best and loss(best) == np.inf:
      best -= 1
    for step in (1, -1):
      while 0 <= best + step <= last and loss(best + step) < loss(best):
        best += step
    return _LEARNING_RATES[best]

  def _pass(
    self, ids: np.ndarray, learning_rate: float
  ) -> Iterator[np.ndarray]:
    """Yields the nats of each segment, then restores the model's weights."""
    states, rate = self._model.initial_states(1), tf.constant(learning_rate)
    try:
      for start in range(0, len(ids) - 1, _SEGMENT):
        piece = ids[start : start + _SEGMENT + 1]
        # The last one is padded, since each shape is compiled anew.
        segment = np.full([1, _SEGMENT + 1], PADDING_ID, np.int32)
        segment[0, : len(piece)] = piece
        nats, states = self._compiled(segment, states, rate)
        yield nats.numpy()[: len(piece) - 1]
    finally:
      for weight, trained in zip(self._weights, self._trained, strict=True):
        weight.assign(trained)

  def _learn(
    self, segment: tf.Tensor, states: State, rate: tf.Tensor
  ) -> tuple[tf.Tensor, State]:
    """Scores a segment `[1, T + 1]` and takes a step; returns `[T]` nats."""
    with tf.GradientTape() as tape:
      inputs, targets = segment[:, :-1], segment[:, 1:]
      nats, states = self._model.nats(inputs, targets, states)
      nats = tf.where(targets == PADDING_ID, 0.0, nats)
    gradients = tape.gradient(nats, self._weights)
    lists = self._weights, self._trained, self.mean_squares, gradients
    for weight, trained, squares, gradient in zip(*lists, strict=True):
      gradient = tf.convert_to_tensor(gradient)
      if rate == 0:  # a tensor: AutoGraph makes a condition of this
        squares.assign_add(tf.square(gradient))
      else:
        scale = tf.sqrt(squares)
        mean = tf.reduce_mean(scale)
        # The mean bounds the step of a weight whose gradient was always 0, such
        # as a rare character's. The mean itself is 0 for the recurrent kernel
        # if the valid text has two characters (`score_dynamic` asks for more):
        # it has only seen the zero state, and takes no step.
        step = tf.math.divide_no_nan(rate * gradient, scale + mean)
        back = tf.minimum(tf.math.divide_no_nan(_DECAY * scale, mean), 1)
        weight.assign_add(back * (trained - weight) - step)
    return nats[0], states


def score_dynamic(
  model: GRULM, vocab: list[str], text: Text, valid: Text
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
  words = f"stream, dynamic at a learning rate of {evaluator.learning_rate:g}"
  score = evaluator.stream(text.ids_in(vocab))
  refuse_diverged(score.log_perplexity)
  return score.with_size_of(text), words
