"""The output layer in bounded memory, for large vocabularies.

Shapes: N characters, H units, V vocabulary size, C chunks of R characters.
"""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

MAX_LOGITS = 2**25  # that are held at a time: 128 MiB


@tf.custom_gradient
def chunked_nats(
  x: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor, targets: tf.Tensor
) -> tuple[tf.Tensor, Callable[..., Any]]:
  """Returns the targets' nats `[N]`, and the function for the gradients.

  Takes ids `[N]` as targets. The logits are x `[N, H]` times the kernel
  `[H, V]`, plus the bias `[V]`. They are computed a chunk at a time, and once
  more for the gradient.
  """
  num_targets, vocab_size = x.shape[0], kernel.shape[1]
  num_chunks = -(-num_targets * vocab_size // MAX_LOGITS)
  rows = -(-num_targets // num_chunks)

  def cut(values: tf.Tensor) -> tf.Tensor:  # [N, ...] to [C, R, ...]
    rest = [[0, 0]] * (values.shape.ndims - 1)
    filled = tf.pad(values, [[0, num_chunks * rows - num_targets], *rest])
    return tf.reshape(filled, [num_chunks, rows, *values.shape[1:]])

  def join(chunks: tf.TensorArray, *shape: int) -> tf.Tensor:
    return tf.reshape(chunks.stack(), [-1, *shape])[:num_targets]

  x_chunks, target_chunks = cut(x), cut(targets)

  def cross_entropy(i: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the nats `[R]` of a chunk, and the gradient of its logits."""
    return tf.raw_ops.SparseSoftmaxCrossEntropyWithLogits(
      features=tf.matmul(x_chunks[i], kernel) + bias, labels=target_chunks[i]
    )

  def gradient(d_nats: tf.Tensor) -> tuple[tf.Tensor | None, ...]:
    d_chunks = cut(d_nats)

    def step(i: tf.Tensor, d_x: tf.TensorArray, *sums: tf.Tensor) -> Any:
      _, d_logits = cross_entropy(i)
      d_logits *= d_chunks[i][:, None]  # zero for what fills up the last chunk
      d_x = d_x.write(i, tf.matmul(d_logits, kernel, transpose_b=True))
      d_kernel = tf.matmul(x_chunks[i], d_logits, transpose_a=True)
      d_bias = tf.reduce_sum(d_logits, axis=0)
      return i + 1, d_x, sums[0] + d_kernel, sums[1] + d_bias

    start = tf.zeros_like(kernel), tf.zeros_like(bias)
    d_x, *sums = _loop(step, num_chunks, x.dtype, *start)
    return join(d_x, x.shape[1]), *sums, None

  (nats,) = _loop(
    lambda i, nats: (i + 1, nats.write(i, cross_entropy(i)[0])),
    num_chunks,
    x.dtype,
  )
  return join(nats), gradient


def _loop(
  step: Callable[..., Any], num_chunks: int, dtype: tf.DType, *sums: tf.Tensor
) -> Any:
  """Runs a step for each chunk; returns the array that it writes, and sums."""
  # One at a time, or several chunks would be held.
  _, *results = tf.while_loop(
    lambda i, *_: i < num_chunks,
    step,
    (0, tf.TensorArray(dtype, num_chunks), *sums),
    parallel_iterations=1,
  )
  return results
