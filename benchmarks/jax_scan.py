"""JAX's contestant: `lax.scan` under `jit`, with a hand-written Adam.

It projects the whole vocabulary once per step and looks projections up, which
is faster than to project each character of the batch. It uses charlm's
XLA_FLAGS (512-bit vectors), which importing charlm sets.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.task import LEARNING_RATE, Run, Sizes, Text, timed
from charlm.data.batches import Batches

_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-7

Params = dict[str, Any]  # a tree of arrays


def build_step(sizes: Sizes, text: Text) -> Run:
  """Training steps, with the layers' products in float32 or bfloat16."""
  batches = Batches(text.train_ids, sizes.seq_length, sizes.batch_size)
  params = _init(sizes, len(text.vocab))
  state = params, *(jax.tree.map(jnp.zeros_like, params) for _ in range(2))
  step = 0

  def take_steps(num_steps: int) -> None:
    nonlocal state, step
    for _ in range(num_steps):
      windows = jnp.asarray(batches.batch(step), jnp.int32)
      state, loss = _train_step(
        state=state, step=step, windows=windows, sizes=sizes
      )
      step += 1
    loss.block_until_ready()

  return timed(take_steps)


def _init(sizes: Sizes, vocab_size: int) -> Params:
  v, d, h = vocab_size, sizes.embedding_dim, sizes.rnn_units
  keys = jax.random.split(jax.random.key(0), 2 + sizes.num_layers)
  glorot = jax.nn.initializers.glorot_uniform()
  embeddings = jax.random.uniform(keys[0], [v, d], minval=-0.05, maxval=0.05)
  columns = h * (4 if sizes.layer == "lstm" else 3)
  layers = [
    _init_layer(key, d if i == 0 else h, h, columns)
    for i, key in enumerate(keys[2:])
  ]
  dense = {"kernel": glorot(keys[1], [h, v]), "bias": jnp.zeros([v])}
  return {"embeddings": embeddings, "layers": layers, "dense": dense}


def _init_layer(
  key: jax.Array, num_features: int, h: int, columns: int
) -> Params:
  keys = jax.random.split(key)
  glorot = jax.nn.initializers.glorot_uniform()
  return {
    "kernel": glorot(keys[0], [num_features, columns]),
    "recurrent_kernel": jax.nn.initializers.orthogonal()(keys[1], [h, columns]),
    "bias": jnp.zeros([columns]),
    "recurrent_bias": jnp.zeros([columns]),
  }


@partial(jax.jit, static_argnums=3, donate_argnums=0)
def _train_step(
  state: tuple[Params, Params, Params],
  step: int,
  windows: jax.Array,
  sizes: Sizes,
) -> tuple[tuple[Params, Params, Params], jax.Array]:
  params, means, squares = state
  loss, gradients = jax.value_and_grad(_loss)(params, windows, sizes)
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


def _loss(params: Params, windows: jax.Array, sizes: Sizes) -> jax.Array:
  """Returns the loss of windows `[B, T + 1]`."""
  inputs, targets = windows[:, :-1].T, windows[:, 1:].T  # [T, B]
  first, *others = params["layers"]
  table = _project(params["embeddings"], first, sizes)
  outputs = _scan(first, table[inputs], sizes)
  for layer in others:
    projected = _project(outputs, layer, sizes)
    outputs = _scan(layer, projected, sizes)
  logits = outputs @ params["dense"]["kernel"] + params["dense"]["bias"]
  log_probs = jax.nn.log_softmax(logits)
  chosen = jnp.take_along_axis(log_probs, targets[..., None], axis=2)
  return -chosen.mean()


def _product(x: jax.Array, kernel: jax.Array, sizes: Sizes) -> jax.Array:
  if sizes.precision == "float32":
    return x @ kernel
  # Cast back outside the product, so its gradients are computed in bfloat16.
  product = x.astype(jnp.bfloat16) @ kernel.astype(jnp.bfloat16)
  return product.astype(jnp.float32)


def _project(x: jax.Array, layer: Params, sizes: Sizes) -> jax.Array:
  return _product(x, layer["kernel"], sizes) + layer["bias"]


def _scan(layer: Params, projected: jax.Array, sizes: Sizes) -> jax.Array:
  """Runs a layer over projected inputs; returns its outputs `[T, B, H]`."""
  units = layer["recurrent_kernel"].shape[0]

  def advance(h: jax.Array, x: jax.Array) -> tuple[jax.Array, Any]:
    recurrent = _product(h, layer["recurrent_kernel"], sizes)
    recurrent += layer["recurrent_bias"]
    z, r = jnp.split(
      jax.nn.sigmoid(x[:, : 2 * units] + recurrent[:, : 2 * units]), 2, axis=1
    )
    n = jnp.tanh(x[:, 2 * units :] + r * recurrent[:, 2 * units :])
    h = z * h + (1 - z) * n
    return h, h

  def advance_lstm(
    state: tuple[jax.Array, jax.Array], x: jax.Array
  ) -> tuple[Any, jax.Array]:
    h, c = state
    gates = x + _product(h, layer["recurrent_kernel"], sizes)
    gates += layer["recurrent_bias"]
    i, f, g, o = jnp.split(gates, 4, axis=1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    h = jax.nn.sigmoid(o) * jnp.tanh(c)
    return (h, c), h

  start = jnp.zeros([projected.shape[1], units])
  if sizes.layer == "lstm":
    return jax.lax.scan(advance_lstm, (start, start), projected)[1]
  return jax.lax.scan(advance, start, projected)[1]
