"""The picture of a report, as SVG in the colours of the page around it."""

import colorsys
import io
import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from charlm.reporting.types import Run


def color_of(index: int) -> str:
  """Returns the colour of a run, by its place in the report."""
  if index < 10:
    return to_hex(f"C{index}")
  # Hues a golden ratio apart stay different, however many there are.
  return to_hex(colorsys.hsv_to_rgb(index * 0.618034 % 1, 0.8, 0.7))


def label_losses(left: Axes, right: Axes, unit: str) -> None:
  """Labels one scale of losses: nats on the left, bits on the right."""
  left.set_ylabel(f"nats per {unit}")

  def to_bits(nats: Any) -> Any:
    """Converts losses of any shape from nats."""
    return nats / math.log(2)

  def to_nats(bits: Any) -> Any:
    """Converts losses of any shape from bits."""
    return bits * math.log(2)

  bits_axis = right.secondary_yaxis("right", functions=(to_bits, to_nats))
  bits_axis.set_ylabel(f"bits per {unit}")


def draw_curves(runs: Sequence[Run]) -> str:
  """Draws the losses of runs against what was seen and against wall time."""
  figure = Figure(figsize=(9, 4), layout="constrained")
  # One scale, so that a loss has the same height in both.
  left, right = figure.subplots(1, 2, sharey=True)
  _draw(left, runs, quantity="characters", divisor=1e6)
  left.set_xlabel("characters or bytes seen, millions")
  _draw(right, runs, quantity="seconds", divisor=60)
  right.set_xlabel("wall time in minutes")
  label_losses(left, right, "character or byte")
  losses = np.concatenate([np.asarray(line.get_ydata()) for line in left.lines])
  if len(losses):
    # The losses of the first steps would hide the others.
    left.set_ylim(losses.min() - 0.05, np.quantile(losses, 0.9) + 0.3)
  return _svg(figure)


def _draw(
  axes: Axes,
  runs: Sequence[Run],
  quantity: Literal["characters", "seconds"],
  divisor: float,
) -> None:
  for index, run in enumerate(runs):
    for split, style in (("train", ":"), ("eval", "-")):
      points = run["curves"][split]
      # Seconds that were not recorded become NaN, which draws nothing.
      x = np.array([point[quantity] for point in points], np.float64) / divisor
      losses = [point["loss"] for point in points]
      # A line has no length with one point.
      marker = "." if len(points) == 1 else ""
      axes.plot(x, losses, style, marker=marker, color=color_of(index))
  axes.grid(alpha=0.3)


def _svg(figure: Figure) -> str:
  file = io.StringIO()
  figure.savefig(file, format="svg", transparent=True)
  svg = file.getvalue()
  # Axes and letters are black, or have no colour, which is black, too.
  svg = svg[svg.index("<svg") :].replace("#000000", "currentColor")
  svg = svg.replace("<svg", '<svg fill="currentColor"', 1)
  return f'<div class="figure">{svg}</div>\n'
