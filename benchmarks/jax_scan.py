"""JAX's contestants: `lax.scan` under `jit`, with Adam written out."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.task import LEARNING_RATE, Run, Sizes, Text, timed
from charlm.data.batches import Batches

_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-7

Params = dict[str, jax.Array]


def build_step(sizes: Sizes, text: Text, use_table: bool) -> Run:
  """Training steps.

  Args:
    sizes: of the model and the batches.
    text: to train on.
    use_table: project each character of the vocabulary once a step, and look
      the projections up, instead of projecting each character of the batch.
  """
  batches = Batches(text.train_ids, sizes.seq_length, sizes.batch_size)
  params = _init(sizes)
  state = params, *(jax.tree.map(jnp.zeros_like, params) for _ in range(2))
  step = 0

  def take_steps(num_steps: int) -> None:
    nonlocal state, step
    for _ in range(num_steps):
      windows = jnp.asarray(batches.batch(step), jnp.int32)
      state, loss = _train_step(state, step, windows, use_table)
      step += 1
    loss.block_until_ready()

  return timed(take_steps)


def _init(sizes: Sizes) -> Params:
  v, d, h = sizes.vocab_size, sizes.embedding_dim, sizes.rnn_units
  keys = jax.random.split(jax.random.key(0), 4)
  glorot = jax.nn.initializers.glorot_uniform()
  return {
    "embeddings": jax.random.uniform(
      keys[0], [v, d], minval=-0.05, maxval=0.05
    ),
    "kernel": glorot(keys[1], [d, 3 * h]),
    "recurrent_kernel": jax.nn.initializers.orthogonal()(keys[2], [h, 3 * h]),
    "bias": jnp.zeros([3 * h]),
    "recurrent_bias": jnp.zeros([3 * h]),
    "dense_kernel": glorot(keys[3], [h, v]),
    "dense_bias": jnp.zeros([v]),
  }


@partial(jax.jit, static_argnums=3, donate_argnums=0)
def _train_step(
  state: tuple[Params, Params, Params],
  step: int,
  windows: jax.Array,
  use_table: bool,
) -> tuple[tuple[Params, Params, Params], jax.Array]:
  params, means, squares = state
  loss, gradients = jax.value_and_grad(_loss)(params, windows, use_table)
  means = jax.tree.map(
    lambda m, g: _BETA1 * m + (1 - _BETA1) * g, means, gradients
  )
  squares = jax.tree.map(
    lambda s, g: _BETA2 * s + (1 - _BETA2) * g**2, squares, gradients
  )
  scale1 = 1 / (1 - _BETA1 ** (step + 1))
  scale2 = 1 / (1 - _BETA2 ** (step + 1))
  params = jax.tree.map(
    lambda p, m, s: (
      p - LEARNING_RATE * m * scale1 / (jnp.sqrt(s * scale2) + _EPSILON)
    ),
    params,
    means,
    squares,
  )
  return (params, means, squares), loss


def _loss(params: Params, windows: jax.Array, use_table: bool) -> jax.Array:
  """Mean nats per character of the windows `[B, T + 1]`."""
  inputs, targets = windows[:, :-1].T, windows[:, 1:].T  # [T, B]
  if use_table:
    table = params["embeddings"] @ params["kernel"] + params["bias"]
    projected = table[inputs]  # [T, B, 3H]
  else:
    x = params["embeddings"][inputs]
    projected = x @ params["kernel"] + params["bias"]
  units = params["recurrent_kernel"].shape[0]

  def advance(h: jax.Array, x: jax.Array) -> tuple[jax.Array, Any]:
    recurrent = h @ params["recurrent_kernel"] + params["recurrent_bias"]
    z, r = jnp.split(
      jax.nn.sigmoid(x[:, : 2 * units] + recurrent[:, : 2 * units]), 2, axis=1
    )
    n = jnp.tanh(x[:, 2 * units :] + r * recurrent[:, 2 * units :])
    h = z * h + (1 - z) * n
    return h, h

  start = jnp.zeros([windows.shape[0], units])
  _, outputs = jax.lax.scan(advance, start, projected)
  logits = outputs @ params["dense_kernel"] + params["dense_bias"]
  log_probs = jax.nn.log_softmax(logits)
  chosen = jnp.take_along_axis(log_probs, targets[..., None], axis=2)
  return -chosen.mean()
