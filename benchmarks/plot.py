"""The results as pictures."""

import math
import pathlib
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from benchmarks.contestants import BOUND, scaling, scaling_curves
from benchmarks.task import Sizes

_COLORS = {
  "charlm": "tab:blue",
  "charlm_bfloat16": "tab:cyan",
  "keras": "tab:orange",
  "pytorch": "tab:red",
  "jax": "tab:green",
  "jax_table": "tab:olive",
  "jax_unrolled": "tab:purple",
  "pytorch_bfloat16": "tab:pink",
  "jax_bfloat16": "tab:brown",
}
_AXIS_LABELS = {
  "rnn_units": "units",
  "batch_size": "batch, windows",
  "seq_length": "window, characters",
  "num_layers": "layers",
}
_MIB = 2**20


def plot_results(results: dict[str, Any], path: pathlib.Path) -> None:
  """Draws step time, memory and, where they were measured, their scaling."""
  training = results["groups"].get("training")
  points = results.get("scaling")
  rows = [row for row in (training, points, points) if row]
  if not rows:
    return
  figure = Figure(figsize=(15, 4 * len(rows)), layout="constrained")
  parts = figure.subfigures(len(rows), squeeze=False)[:, 0]
  if training:
    time_axes, memory_axes = parts[0].subplots(1, 2)
    _draw_step_times(time_axes, training["contestants"])
    _draw_memory(memory_axes, training["contestants"])
  if points:
    for part, quantity in zip(parts[-2:], ("time", "memory"), strict=True):
      _draw_scaling(
        part.subplots(1, len(_AXIS_LABELS), sharey=True), points, quantity
      )
  figure.savefig(path)


def _draw_step_times(axes: Axes, contestants: dict[str, Any]) -> None:
  entries = _measured_steps(contestants)
  values = [entry["seconds"] * 1000 for entry in entries.values()]
  _draw_bars(axes=axes, entries=entries, values=values, text="{:.0f} ms")
  axes.set_xlabel("time of a training step, ms")
  if bound := contestants[BOUND].get("seconds"):
    axes.axvline(
      bound * 1000,
      color="black",
      linestyle="--",
      label=f"its products alone, in float32: {bound * 1000:.0f} ms",
    )
    # Above the bars, where no value is written.
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), frameon=False)


def _draw_memory(axes: Axes, contestants: dict[str, Any]) -> None:
  entries = _measured_steps(contestants)
  values = [entry["peak_bytes"] / _MIB for entry in entries.values()]
  _draw_bars(axes=axes, entries=entries, values=values, text="{:,.0f} MiB")
  axes.set_xlabel("peak memory of the training process, MiB")


def _measured_steps(contestants: dict[str, Any]) -> dict[str, Any]:
  return {
    name: entry
    for name, entry in contestants.items()
    if name != BOUND and "error" not in entry
  }


def _draw_bars(
  axes: Axes, entries: dict[str, Any], values: list[float], text: str
) -> None:
  bars = axes.barh(
    [entry["label"] for entry in entries.values()],
    values,
    color=[_COLORS[name] for name in entries],
  )
  axes.bar_label(
    bars,
    [text.format(value) for value in values],
    padding=4,
    # The bound's line may pass behind a number, not through it.
    bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
    zorder=3,
  )
  axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
  axes.margins(x=0.2)
  axes.invert_yaxis()
  axes.spines[["top", "right"]].set_visible(False)


def _draw_scaling(
  row: Any, points: list[dict[str, Any]], quantity: str
) -> None:
  """Draws a quantity against each factor: the axes of one row."""
  measured = {Sizes(**p["sizes"]): p["contestants"] for p in points}
  base = Sizes(points[0]["sizes"]["vocab_size"])
  curves = scaling_curves(base)
  for axes, (factor, curve) in zip(row, curves.items(), strict=True):
    for contestant in scaling(base).contestants:
      values = [
        _value(measured.get(sizes, {}).get(contestant.name), quantity)
        for sizes in curve
      ]
      axes.plot(
        [getattr(sizes, factor) for sizes in curve],
        values,
        marker="o",
        color=_COLORS[contestant.name],
        label=contestant.label,
      )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks([getattr(sizes, factor) for sizes in curve])
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
    for axis in (axes.xaxis, axes.yaxis):
      axis.set_major_formatter(StrMethodFormatter("{x:,g}"))
      axis.set_minor_formatter(NullFormatter())
    axes.tick_params(which="minor", length=0)
    axes.set_xlabel(_AXIS_LABELS[factor])
    axes.grid(alpha=0.3)
  is_time = quantity == "time"
  row[0].set_ylabel("training step, ms" if is_time else "peak memory, MiB")
  if is_time:
    row[-1].legend(loc="lower center")


def _value(entry: dict[str, Any] | None, quantity: str) -> float:
  """Returns ms or MiB; NaN, which leaves a gap, where none was measured."""
  if entry is None or "error" in entry:
    return math.nan
  if quantity == "time":
    return entry["seconds"] * 1000
  return entry["peak_bytes"] / _MIB
