"""Who runs against whom."""

import dataclasses
from typing import Any

from benchmarks.task import BLOCK_CHARS, SAMPLE_CHARS, Sizes

BOUND = "bound"


@dataclasses.dataclass(frozen=True)
class Contestant:
  """A way to do a piece of work."""

  name: str
  label: str
  builder: str  # see Task
  options: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Group:
  """Contestants that do the same work."""

  name: str
  title: str
  contestants: tuple[Contestant, ...]
  reference: str  # the contestant that the others are compared with
  characters: int  # in a unit of work


_CHARLM = Contestant(
  "charlm", "charlm float32", "ours.build_step", {"precision": "float32"}
)
_BFLOAT16 = Contestant(
  "charlm_bfloat16",
  "charlm bfloat16",
  "ours.build_step",
  {"precision": "bfloat16"},
)
_KERAS = Contestant("keras", "Keras fit (reference)", "reference.build_step")
_PYTORCH = Contestant("pytorch", "PyTorch nn.GRU", "pytorch.build_step")
_JAX = Contestant(
  "jax", "JAX scan", "jax_scan.build_step", {"use_table": False}
)
_JAX_TABLE = Contestant(
  "jax_table",
  "JAX scan, table lookup",
  "jax_scan.build_step",
  {"use_table": True},
)
_JAX_UNROLLED = Contestant(
  "jax_unrolled",
  "JAX scan, table lookup, unrolled by 10",
  "jax_scan.build_step",
  {"use_table": True, "unroll": 10},
)
_BFLOAT16_PEERS = (
  Contestant(
    "pytorch_bfloat16",
    "PyTorch nn.GRU, bfloat16",
    "pytorch.build_step",
    {"bfloat16": True},
  ),
  Contestant(
    "jax_bfloat16",
    "JAX scan, table lookup, bfloat16",
    "jax_scan.build_step",
    {"use_table": True, "bfloat16": True},
  ),
)
_PEERS = (_KERAS, _PYTORCH, _JAX, _JAX_TABLE, _JAX_UNROLLED)
_FACTORS = {
  "rnn_units": (128, 256, 512, 1024, 2048),
  "batch_size": (1, 2, 4, 8, 16, 32, 64, 128, 256, 512),
  "seq_length": (25, 50, 100, 200, 400),
  "num_layers": (1, 2),
}


def training(sizes: Sizes) -> Group:
  """The training step, and the bound of its matrix products."""
  bound = Contestant(BOUND, "matrix products alone", "bound.build_products")
  return Group(
    "training",
    "Training step",
    (_CHARLM, _BFLOAT16, *_PEERS, *_BFLOAT16_PEERS, bound),
    _KERAS.name,
    sizes.characters_per_step,
  )


def products(sizes: Sizes) -> Group:
  """The training step beside its products alone, each at its own speed."""
  alone = (
    Contestant(
      f"products_{precision}",
      f"its products alone, {precision}",
      "loops.build_step",
      {"precision": precision},
    )
    for precision in ("float32", "bfloat16")
  )
  return Group(
    "products",
    "Training step, and its products in their loops",
    (_CHARLM, _BFLOAT16, *alone, _KERAS),
    _KERAS.name,
    sizes.characters_per_step,
  )


def input_pipeline(sizes: Sizes) -> Group:
  """The gathering of a batch beside the step that waits for it."""
  gather = Contestant("input", "a batch gathered", "ours.build_input")
  return Group(
    "input",
    "Input, beside the fastest step",
    (gather, _BFLOAT16),
    _BFLOAT16.name,
    sizes.characters_per_step,
  )


def sampling(num_streams: int) -> Group:
  """Text in some streams at a time."""
  options = {"num_streams": num_streams}
  streams = "stream" if num_streams == 1 else "streams"
  # A single text is bounded by reading the weights, not by products.
  bound = Contestant(
    BOUND, "matrix products alone", "bound.build_sampling", options
  )
  return Group(
    f"sampling_{num_streams}",
    f"Sampling, {num_streams} {streams}",
    (
      Contestant("charlm", "charlm", "ours.build_sampling", options),
      Contestant(
        "keras",
        "a call a character (reference)",
        "reference.build_sampling",
        options,
      ),
      *[bound] * (num_streams > 1),
    ),
    "keras",
    num_streams * SAMPLE_CHARS,
  )


def evaluation() -> Group:
  """The score of the eval text."""
  return Group(
    "evaluation",
    "Evaluation",
    (
      Contestant("charlm", "charlm", "ours.build_evaluation"),
      Contestant("keras", "Keras predict", "reference.build_evaluation"),
    ),
    "keras",
    BLOCK_CHARS,
  )


def scaling(sizes: Sizes) -> Group:
  """The training step at other sizes."""
  return Group(
    "scaling",
    f"Scaling, units {sizes.rnn_units}, batch {sizes.batch_size}, "
    f"window {sizes.seq_length}, layers {sizes.num_layers}",
    (_CHARLM, *_PEERS),
    _KERAS.name,
    sizes.characters_per_step,
  )


def scaling_points(sizes: Sizes) -> list[Sizes]:
  """Returns the sizes with one factor changed at a time, cheapest first."""
  points = {
    point for curve in scaling_curves(sizes).values() for point in curve
  }
  return sorted(points, key=lambda point: point.flop_per_step)


def scaling_curves(sizes: Sizes) -> dict[str, list[Sizes]]:
  """Returns the points of each factor's curve, in order."""
  return {
    factor: [dataclasses.replace(sizes, **{factor: value}) for value in values]
    for factor, values in _FACTORS.items()
  }
