"""The contestants, and the groups in which they compete."""

import dataclasses
from typing import Any

from benchmarks.task import CHUNK_CHARS, SAMPLE_CHARS, Sizes


@dataclasses.dataclass(frozen=True)
class Contestant:
  """One implementation of a unit of work."""

  name: str
  label: str
  builder: str  # see Task
  options: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Group:
  """Contestants that do the same unit of work."""

  name: str
  title: str
  contestants: tuple[Contestant, ...]
  reference: str  # name of the contestant that the others are compared with
  characters: int  # per unit of work


_CHARLM = Contestant(
  name="charlm",
  label="charlm float32",
  builder="ours.build_step",
  options={"precision": "float32"},
)
_BFLOAT16 = Contestant(
  name="charlm_bfloat16",
  label="charlm bfloat16",
  builder="ours.build_step",
  options={"precision": "bfloat16"},
)
_KERAS = Contestant("keras", "Keras fit (reference)", "reference.build_step")
_PYTORCH = Contestant("pytorch", "PyTorch", "pytorch.build_step")
_JAX = Contestant(
  name="jax",
  label="JAX scan",
  builder="jax_scan.build_step",
  options={"use_table": False},
)
_JAX_TABLE = Contestant(
  name="jax_table",
  label="JAX scan, table lookup",
  builder="jax_scan.build_step",
  options={"use_table": True},
)
_JAX_UNROLLED = Contestant(
  name="jax_unrolled",
  label="JAX scan, table lookup, unrolled by 10",
  builder="jax_scan.build_step",
  options={"use_table": True, "unroll": 10},
)
_BFLOAT16_PEERS = (
  Contestant(
    name="pytorch_bfloat16",
    label="PyTorch, bfloat16",
    builder="pytorch.build_step",
    options={"bfloat16": True},
  ),
  Contestant(
    name="jax_bfloat16",
    label="JAX scan, table lookup, bfloat16",
    builder="jax_scan.build_step",
    options={"use_table": True, "bfloat16": True},
  ),
)
_PEERS = (_KERAS, _PYTORCH, _JAX, _JAX_TABLE, _JAX_UNROLLED)
_FACTORS: dict[str, tuple[Any, ...]] = {
  "rnn_units": (128, 256, 512, 1024, 2048),
  "batch_size": (1, 2, 4, 8, 16, 32, 64, 128, 256, 512),
  "seq_length": (25, 50, 100, 200, 400),
  "num_layers": (1, 2),
}


def training(sizes: Sizes) -> Group:
  """The training step."""
  return Group(
    name="training",
    title="Training step",
    contestants=(_CHARLM, _BFLOAT16, *_PEERS, *_BFLOAT16_PEERS),
    reference=_KERAS.name,
    characters=sizes.characters_per_step,
  )


def input_pipeline(sizes: Sizes) -> Group:
  """Gathering a batch, beside the step that waits for it."""
  gather = Contestant("input", "a batch gathered", "ours.build_input")
  return Group(
    name="input",
    title="Input, beside the fastest step",
    contestants=(gather, _BFLOAT16),
    reference=_BFLOAT16.name,
    characters=sizes.characters_per_step,
  )


def sampling(num_streams: int) -> Group:
  """Sampling `num_streams` texts at a time."""
  options = {"num_streams": num_streams}
  streams = "stream" if num_streams == 1 else "streams"
  return Group(
    name=f"sampling_{num_streams}",
    title=f"Sampling, {num_streams} {streams}",
    contestants=(
      Contestant(
        name="charlm",
        label="charlm",
        builder="ours.build_sampling",
        options=options,
      ),
      Contestant(
        name="keras",
        label="a call a character (reference)",
        builder="reference.build_sampling",
        options=options,
      ),
    ),
    reference="keras",
    characters=num_streams * SAMPLE_CHARS,
  )


def evaluation() -> Group:
  """Scoring the eval text."""
  return Group(
    name="evaluation",
    title="Evaluation",
    contestants=(
      Contestant("charlm", "charlm", "ours.build_evaluation"),
      Contestant("keras", "Keras predict", "reference.build_evaluation"),
    ),
    reference="keras",
    characters=CHUNK_CHARS,
  )


def scaling(sizes: Sizes) -> Group:
  """The training step at other sizes."""
  return Group(
    name="scaling",
    title=f"Scaling, units {sizes.rnn_units}, batch {sizes.batch_size}, "
    f"window {sizes.seq_length}, layers {sizes.num_layers}",
    contestants=(_CHARLM, *_PEERS),
    reference=_KERAS.name,
    characters=sizes.characters_per_step,
  )


def scaling_points(sizes: Sizes) -> list[Sizes]:
  """Returns the sizes with one factor changed at a time, cheapest first."""
  points = {
    point for curve in scaling_curves(sizes).values() for point in curve
  }
  return sorted(
    points,
    key=lambda p: p.num_layers * p.characters_per_step * p.rnn_units**2,
  )


def scaling_curves(sizes: Sizes) -> dict[str, list[Sizes]]:
  """Returns the points of each factor's curve, in order."""
  return {
    factor: [dataclasses.replace(sizes, **{factor: value}) for value in values]
    for factor, values in _FACTORS.items()
  }
