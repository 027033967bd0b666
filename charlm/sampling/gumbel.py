"""Gumbel-max sampling with the limits top_k and top_p."""

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
  """Draws character ids from log-probabilities `[B, V]`, within the limits.

  `temperature`, `noise` and the result are as in `temperature_random_sampling`.
  """
  # Ids that stand for no character are never drawn.
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
    log_probs: `[..., V]`, V static; any id can be drawn.
    temperature: 0 is greedy.
    noise: `gumbel_noise` shaped like `log_probs`; by default it comes from
      TensorFlow's global generator.

  Returns ids `[...]`, int64.
  """
  if noise is None:
    noise = gumbel_noise(tf.random.uniform(tf.shape(log_probs)))
  scores = log_probs + temperature * noise
  best = tf.reduce_max(scores, axis=-1, keepdims=True)
  # The smallest id with the best score. XLA does not vectorise `tf.argmax`.
  ids = tf.range(scores.shape[-1], dtype=tf.int64)
  return tf.reduce_min(tf.where(scores < best, ids.dtype.max, ids), axis=-1)


def numbers_of_texts(
  seed: int, texts: range, position: int, shape: Sequence[int]
) -> tf.Tensor:
  """Returns uniform numbers in [0, 1), `[B, *shape]`, for B consecutive texts.

  Those of text i depend only on (seed, i, position, shape). Philox (Salmon et
  al. 2011) computes four numbers from a key and a counter. The key is the seed;
  the counter holds the position, and each text has a range of its own in it.

  Do not let XLA compile this: LLVM can mistake the generator's XORs for a
  checksum, and then its search never ends.

  Args:
    seed: below 2^64.
    texts: the indices of the texts, in steps of 1.
    position: the first character's position in its text.
    shape: number of characters, a multiple of 4, and of numbers for each.
  """
  num_counters = math.prod(shape) // 4  # for each text
  return tf.raw_ops.StatelessRandomUniformV2(
    shape=[len(texts), *shape],
    key=tf.constant([seed], tf.uint64),
    counter=tf.constant([texts.start * num_counters, position], tf.uint64),
    # By default, the algorithm depends on the device.
    alg=tf.random.Algorithm.PHILOX.value,
  )


def gumbel_noise(uniform: tf.Tensor) -> tf.Tensor:
  """Turns uniform numbers in [0, 1) into standard Gumbel noise.

  It lies between -2.63 and 13.82. So an id is never drawn if its
  log-probability is more than 16.45 times the temperature below the largest.
  """
  u = 1e-6 + uniform * (1 - 2e-6)  # log(0) and log(-log(1)) are not finite
  return -tf.math.log(-tf.math.log(u))


def limit(
  log_probs: tf.Tensor, temperature: float | tf.Tensor, limits: Limits
) -> tf.Tensor:
  """Masks all ids beyond the limits with `-inf`, `[B, V]` to `[B, V]`.

  The limits apply to probabilities after the division by the temperature.
  `top_p` is nucleus sampling (Holtzman et al. 2020). The most likely id is
  always kept.

  Args:
    log_probs: `[B, V]`; `-inf` for impossible ids.
    temperature: 0 counts as 1 here, since greedy sampling needs no limits.
    limits: the limits.
  """
  top_k, top_p = limits
  if limits == Limits():
    return log_probs
  # Ties stay in the order of their ids.
  order = tf.argsort(log_probs, direction="DESCENDING", stable=True)
  ordered = tf.gather(log_probs, order, batch_dims=1)
  # Subtracts the largest first: a low temperature makes the numbers large, and
  # their difference would be inexact.
  divisor = tf.where(temperature > 0, temperature, 1.0)
  probs = tf.nn.softmax((ordered - ordered[:, :1]) / divisor)
  keep = probs > 0
  if top_k:
    keep &= tf.range(tf.shape(probs)[1]) < top_k
  if top_p < 1:
    # top_p is a share of the probability that top_k leaves.
    kept = tf.where(keep, probs, 0.0)
    total = tf.reduce_sum(kept, axis=1, keepdims=True)
    keep &= tf.cumsum(kept, axis=1, exclusive=True) < top_p * total
  keep = tf.gather(keep, tf.argsort(order), batch_dims=1)  # back in id order
  return tf.where(keep, log_probs, -float("inf"))
