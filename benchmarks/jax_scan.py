"""JAX's contestants: `lax.scan` under `jit`, with a hand-written Adam.

They use charlm's XLA_FLAGS (512-bit vectors), which importing charlm sets.
"""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.task import LEARNING_RATE, Run, Sizes, Text, timed
from charlm.data.batches import Batches

_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-7

Params = dict[str, Any]  # a tree of arrays


@dataclasses.dataclass(frozen=True)
class Variant:
  """How the step is implemented.

  Attributes:
    use_table: project the whole vocabulary once per step and look projections
      up, instead of projecting each character of the batch.
    unroll: time steps per iteration of the loop.
    bfloat16: compute the layers' products and their gradients in bfloat16.
    lstm: use an LSTM instead of a GRU.
  """

  use_table: bool
  unroll: int = 1
  bfloat16: bool = False
  lstm: bool = False


def build_step(
  sizes: Sizes,
  text: Text,
  *,
  use_table: bool,
  unroll: int = 1,
  bfloat16: bool = False,
) -> Run:
  """Training steps of a `Variant`."""
  variant = Variant(
    use_table=use_table,
    unroll=unroll,
    bfloat16=bfloat16,
    lstm=sizes.layer == "lstm",
  )
  batches = Batches(text.train_ids, sizes.seq_length, sizes.batch_size)
  params = _init(sizes)
  state = params, *(jax.tree.map(jnp.zeros_like, params) for _ in range(2))
  step = 0

  def take_steps(num_steps: int) -> None:
    nonlocal state, step
    for _ in range(num_steps):
      windows = jnp.asarray(batches.batch(step), jnp.int32)
      state, loss = _train_step(
        state=state, step=step, windows=windows, variant=variant
      )
      step += 1
    loss.block_until_ready()

  return timed(take_steps)


def _init(sizes: Sizes) -> Params:
  v, d, h = sizes.vocab_size, sizes.embedding_dim, sizes.rnn_units
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
  variant: Variant,
) -> tuple[tuple[Params, Params, Params], jax.Array]:
  params, means, squares = state
  loss, gradients = jax.value_and_grad(_loss)(params, windows, variant)
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


def _loss(params: Params, windows: jax.Array, variant: Variant) -> jax.Array:
  """Returns the loss of windows `[B, T + 1]`."""
  inputs, targets = windows[:, :-1].T, windows[:, 1:].T  # [T, B]
  first, *others = params["layers"]
  if variant.use_table:
    table = _project(params["embeddings"], first, variant)
    projected = table[inputs]  # [T, B, 3H]
  else:
    x = params["embeddings"][inputs]
    projected = _project(x, first, variant)
  outputs = _scan(first, projected, variant)
  for layer in others:
    projected = _project(outputs, layer, variant)
    outputs = _scan(layer, projected, variant)
  logits = outputs @ params["dense"]["kernel"] + params["dense"]["bias"]
  log_probs = jax.nn.log_softmax(logits)
  chosen = jnp.take_along_axis(log_probs, targets[..., None], axis=2)
  return -chosen.mean()


def _product(x: jax.Array, kernel: jax.Array, variant: Variant) -> jax.Array:
  if not variant.bfloat16:
    return x @ kernel
  # Cast back outside the product, so its gradients are computed in bfloat16.
  product = x.astype(jnp.bfloat16) @ kernel.astype(jnp.bfloat16)
  return product.astype(jnp.float32)


def _project(x: jax.Array, layer: Params, variant: Variant) -> jax.Array:
  return _product(x, layer["kernel"], variant) + layer["bias"]


def _scan(layer: Params, projected: jax.Array, variant: Variant) -> jax.Array:
  """Runs a layer over projected inputs; returns its outputs `[T, B, H]`."""
  units = layer["recurrent_kernel"].shape[0]

  def advance(h: jax.Array, x: jax.Array) -> tuple[jax.Array, Any]:
    recurrent = _product(h, layer["recurrent_kernel"], variant)
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
    gates = x + _product(h, layer["recurrent_kernel"], variant)
    gates += layer["recurrent_bias"]
    i, f, g, o = jnp.split(gates, 4, axis=1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    h = jax.nn.sigmoid(o) * jnp.tanh(c)
    return (h, c), h

  start = jnp.zeros([projected.shape[1], units])
  if variant.lstm:
    return jax.lax.scan(
      advance_lstm, (start, start), projected, unroll=variant.unroll
    )[1]
  return jax.lax.scan(advance, start, projected, unroll=variant.unroll)[1]
