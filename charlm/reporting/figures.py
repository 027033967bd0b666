"""The pictures of a report, as SVG in the colours of the page around them."""

import colorsys
import io
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from charlm.reporting.types import CONTEXT, Run


def color_of(index: int) -> str:
  """Returns the colour of a run, by its place in the report."""
  if index < 10:
    return to_hex(f"C{index}")
  # Hues a golden ratio apart stay different, however many there are.
  return to_hex(colorsys.hsv_to_rgb(index * 0.618034 % 1, 0.8, 0.7))


def unit_of(runs: Sequence[Run], ending: str = "") -> str:
  """Returns what the runs predict: character, byte, or both, joined by `or`.

  The ending comes after each: "s" for the plural.
  """
  units = dict.fromkeys(run["scores"]["stream"]["unit"] for run in runs)
  return " or ".join(unit + ending for unit in units)


def label_losses(left: Axes, right: Axes, unit: str) -> None:
  """Labels one scale of losses: nats on the left, bits on the right."""
  left.set_ylabel(f"nats per {unit}")
  both = (lambda nats: nats / math.log(2)), (lambda bits: bits * math.log(2))
  right.secondary_yaxis("right", functions=both).set_ylabel(f"bits per {unit}")


def draw_curves(runs: Sequence[Run], indices: Sequence[int]) -> str:
  """Draws the losses against what was seen and against wall time.

  `indices` are the runs' places in the report. Returns the empty string if no
  run has metrics.
  """
  figure = Figure(figsize=(9, 4), layout="constrained")
  # One scale, so that a loss has the same height in both.
  panels = figure.subplots(1, 2, sharey=True)
  quantities: dict[str, tuple[Literal["characters", "seconds"], float]] = {
    f"{unit_of(runs, 's')} seen, millions": ("characters", 1e6),
    "wall time in minutes": ("seconds", 60),
  }
  for axes, (label, (name, divisor)) in zip(
    panels, quantities.items(), strict=True
  ):
    recorded = False
    for run, index in zip(runs, indices, strict=True):
      for split, style in (("train", ":"), ("eval", "-")):
        points = run["curves"][split]
        # Where an earlier version wrote no seconds, NaN draws nothing.
        x = np.array([point[name] for point in points], np.float64) / divisor
        recorded |= bool(np.isfinite(x).any())
        losses = [point["loss"] for point in points]
        # A line has no length with one point.
        marker = "." if np.isfinite(x).sum() == 1 else ""
        axes.plot(x, losses, style, marker=marker, color=color_of(index))
    axes.set_xlabel(label if recorded else f"{label}: not recorded")
    axes.grid(alpha=0.3)
  label_losses(panels[0], panels[-1], unit_of(runs))
  if not any(any(run["curves"].values()) for run in runs):
    return ""
  _cut_highest(panels[0])
  return _svg(figure)


def draw_context(runs: Sequence[Run]) -> str:
  """Draws the loss by the number of units seen before."""
  figure = Figure(figsize=(9, 3.5), layout="constrained")
  axes = figure.subplots()
  # In the colours of the curves: this group's runs come first there, too.
  for index, run in enumerate(runs):
    groups = run["loss_by"][CONTEXT]
    axes.plot(
      [group["name"] for group in groups],
      [group["mean_nats"] for group in groups],
      "o-",
      color=color_of(index),
    )
  before = f"{unit_of(runs, 's')} before the predicted one, in its window"
  axes.set_xlabel(before)
  label_losses(axes, axes, unit_of(runs))
  axes.grid(alpha=0.3)
  return _svg(figure)


def _cut_highest(axes: Axes) -> None:
  """Cuts off the losses of the first steps, which would hide the others."""
  losses = np.concatenate([np.asarray(x.get_ydata()) for x in axes.lines])
  low, high = losses.min() - 0.05, np.quantile(losses, 0.9) + 0.3
  if low < high:  # rounding can make them equal where the losses are huge
    axes.set_ylim(low, high)


def _svg(figure: Figure) -> str:
  file = io.StringIO()
  figure.savefig(file, format="svg", transparent=True)
  svg = file.getvalue()
  # Axes and letters are black, or have no colour, which is black, too.
  svg = svg[svg.index("<svg") :].replace("#000000", "currentColor")
  svg = svg.replace("<svg", '<svg fill="currentColor"', 1)
  return f'<div class="figure">{svg}</div>\n'
