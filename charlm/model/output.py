"""The output layer in bounded memory, for large vocabularies.

Shapes: N characters, H units, V vocabulary size, R characters of a chunk.
"""

from collections.abc import Callable

import tensorflow as tf

# Above this many logits, nats are computed chunk by chunk.
MAX_LOGITS = 2**25  # 128 MiB


def chunked_nats(
  *, x: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor, targets: tf.Tensor
) -> tf.Tensor:
  """Returns the nats of targets `[N]`, computed chunk by chunk; N is static.

  The logits are x `[N, H]` times the kernel `[H, V]`, plus the bias `[V]`.
  """
  num_targets = x.shape[0]
  rows = max(1, MAX_LOGITS // kernel.shape[1])
  num_chunks = -(-num_targets // rows)
  rows = -(-num_targets // num_chunks)  # chunks of nearly equal size
  padding = num_chunks * rows - num_targets
  x = tf.pad(x, [[0, padding], [0, 0]])
  x = tf.reshape(x, [num_chunks, rows, x.shape[1]])
  # Not `tf.pad`, which has no GPU kernel for integers.
  targets = tf.concat([targets, tf.zeros([padding], targets.dtype)], axis=0)
  targets = tf.reshape(targets, [num_chunks, rows])
  nats = tf.map_fn(
    # In a graph, a custom gradient takes only positional arguments.
    lambda chunk: _nats(chunk[0], kernel, bias, chunk[1]),
    (x, targets),
    parallel_iterations=1,  # more would hold the logits of several chunks
    fn_output_signature=tf.TensorSpec([rows], x.dtype),
  )
  return tf.reshape(nats, [-1])[:num_targets]


@tf.custom_gradient
def _nats(
  x: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor, targets: tf.Tensor
) -> tuple[tf.Tensor, Callable[..., tuple[tf.Tensor | None, ...]]]:
  """Returns the nats `[R]` of a chunk; its gradient recomputes the logits."""

  def gradient(d_nats: tf.Tensor) -> tuple[tf.Tensor | None, ...]:
    """Returns the gradients of the arguments."""
    logits = tf.matmul(x, kernel) + bias
    with tf.GradientTape() as tape:
      tape.watch(logits)
      nats = _cross_entropy(logits, targets)
    d_logits = tape.gradient(nats, logits, output_gradients=d_nats)
    d_x = tf.matmul(d_logits, kernel, transpose_b=True)
    d_kernel = tf.matmul(x, d_logits, transpose_a=True)
    return d_x, d_kernel, tf.reduce_sum(d_logits, axis=0), None

  return _cross_entropy(tf.matmul(x, kernel) + bias, targets), gradient


def _cross_entropy(logits: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
  """Returns the nats `[R]` of targets, given logits `[R, V]`."""
  return tf.nn.sparse_softmax_cross_entropy_with_logits(targets, logits)
