"""Gumbel-max draws, and the limits top_k, top_p and min_p on them."""

import math
from collections.abc import Sequence

import tensorflow as tf

from charlm.data.vocabulary import NUM_SPECIAL
from charlm.sampling.request import Limits


def draw(
  log_probs: tf.Tensor,
  temperature: float | tf.Tensor,
  limits: Limits,
  noise: tf.Tensor | None = None,
) -> tf.Tensor:
  """Draws ids of characters from log-probabilities `[B, V]`, within limits.

  `temperature`, `noise` and the result are as in `temperature_random_sampling`.
  """
  # Ids that stand for no character are impossible.
  impossible = tf.fill([tf.shape(log_probs)[0], NUM_SPECIAL], -float("inf"))
  log_probs = tf.concat([impossible, log_probs[:, NUM_SPECIAL:]], axis=1)
  log_probs = limit(log_probs, temperature, limits)
  return temperature_random_sampling(log_probs, temperature, noise)


def temperature_random_sampling(
  log_probs: tf.Tensor,
  temperature: float | tf.Tensor = 1.0,
  noise: tf.Tensor | None = None,
) -> tf.Tensor:
  """Draws from softmax(log_probs / temperature) by the Gumbel-max trick.

  Args:
    log_probs: `[..., V]`, V static; all of them can be drawn.
    temperature: 0 is greedy.
    noise: `gumbel_noise` shaped like `log_probs`; of numbers from TensorFlow's
      global generator if None.

  Returns ids `[...]`, int64.
  """
  if noise is None:
    noise = gumbel_noise(tf.random.uniform(tf.shape(log_probs)))
  scores = log_probs + temperature * noise
  best = tf.reduce_max(scores, axis=-1, keepdims=True)
  # The smallest id of the highest score; XLA does not vectorise `tf.argmax`.
  ids = tf.range(scores.shape[-1], dtype=tf.int64)
  return tf.reduce_min(tf.where(scores < best, ids.dtype.max, ids), axis=-1)


def numbers_of_texts(
  seed: int, texts: range, position: int, shape: Sequence[int]
) -> tf.Tensor:
  """Returns uniform numbers in [0, 1), `[B, *shape]`, for B texts in a row.

  Those of text i are a function of (seed, i, position, shape) alone. Philox
  (Salmon et al. 2011) computes four of them from a key and a counter: the key
  is the seed, and the counter has the position and, for each text, a range.

  Do not call it in what XLA compiles: LLVM can take the generator's XORs for a
  checksum, and then its search does not end.

  Args:
    seed: below 2^64.
    texts: the numbers of the texts, in steps of 1.
    position: of the first character in its text.
    shape: characters, a multiple of 4, and numbers for each.
  """
  num_counters = math.prod(shape) // 4  # of a text
  return tf.raw_ops.StatelessRandomUniformV2(
    shape=[len(texts), *shape],
    key=tf.constant([seed], tf.uint64),
    counter=tf.constant([texts.start * num_counters, position], tf.uint64),
    # Without a name, another device would take another algorithm.
    alg=tf.random.Algorithm.PHILOX.value,
  )


def gumbel_noise(uniform: tf.Tensor) -> tf.Tensor:
  """Turns uniform numbers in [0, 1) into standard Gumbel noise.

  It lies between -2.63 and 13.82: an id whose log-probability is lower than
  the largest by more than 16.45 times the temperature is never drawn.
  """
  u = 1e-6 + uniform * (1 - 2e-6)  # log(0) and log(-log(1)) are not finite
  return -tf.math.log(-tf.math.log(u))


def limit(
  log_probs: tf.Tensor, temperature: float | tf.Tensor, limits: Limits
) -> tf.Tensor:
  """Makes all ids beyond the limits impossible, `[B, V]` to `[B, V]`.

  Probabilities are those after the division by the temperature. `top_p` is
  nucleus sampling (Holtzman et al. 2020), `min_p` is that of Nguyen et al.
  (2024). The most likely id is always within the limits.

  Args:
    log_probs: `[B, V]`; `-inf` for impossible ids.
    temperature: 0 stands for 1 here, since greedy draws need no limits.
    limits: what to keep.
  """
  top_k, top_p, min_p = limits
  if limits == Limits():
    return log_probs
  # Equal ones stay in the order of their ids.
  order = tf.argsort(log_probs, direction="DESCENDING", stable=True)
  ordered = tf.gather(log_probs, order, batch_dims=1)
  # The largest is subtracted first: after the division by a low temperature,
  # the difference of two large numbers would be inexact.
  divisor = tf.where(temperature > 0, temperature, 1.0)
  probs = tf.nn.softmax((ordered - ordered[:, :1]) / divisor)
  keep = probs > 0
  if top_k:
    keep &= tf.range(tf.shape(probs)[1]) < top_k
  if top_p < 1:
    # top_p is a share of the probability that top_k leaves.
    left = tf.where(keep, probs, 0.0)
    total = tf.reduce_sum(left, axis=1, keepdims=True)
    keep &= tf.cumsum(left, axis=1, exclusive=True) < top_p * total
  if min_p:
    keep &= probs >= min_p * probs[:, :1]
  keep = tf.gather(keep, tf.argsort(order), batch_dims=1)  # of each id
  return tf.where(keep, log_probs, -float("inf"))
