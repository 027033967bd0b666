"""A report as one HTML page: runs side by side."""

import colorsys
import html
import io
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from charlm.data.passages import MIN_LENGTH
from charlm.evaluation.ngram import cells_of
from charlm.reporting.result import SAMPLES
from charlm.reporting.types import (
  HeatMap,
  Numbers,
  Part,
  Run,
  RunGroup,
  Setting,
)
from charlm.system.pages import html_page, json_for_script

_ASSETS = Path(__file__).parent


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


def draw_curves(settings: Sequence[Sequence[Run]]) -> str:
  """Draws the curves of settings: the mean and the range of their runs."""
  figure = Figure(figsize=(9, 4), layout="constrained")
  # One scale, so that a loss has the same height in both.
  left, right = figure.subplots(1, 2, sharey=True)
  _draw(left, settings, quantity="characters", divisor=1e6)
  left.set_xlabel("characters or bytes seen, millions")
  _draw(right, settings, quantity="seconds", divisor=60)
  right.set_xlabel("wall time in minutes")
  label_losses(left, right, "character or byte")
  losses = np.concatenate([np.asarray(line.get_ydata()) for line in left.lines])
  if len(losses):
    # The losses of the first steps would hide the others.
    left.set_ylim(losses.min() - 0.05, np.quantile(losses, 0.9) + 0.3)
  return _svg(figure)


def _draw(
  axes: Axes,
  settings: Sequence[Sequence[Run]],
  quantity: Literal["characters", "seconds"],
  divisor: float,
) -> None:
  for index, runs in enumerate(settings):
    # With a valid text, the eval text is scored once.
    scored = "valid" if runs[0]["curves"]["valid"] else "eval"
    for split, style in (("train", ":"), (scored, "-")):
      curves = [{p["step"]: p for p in run["curves"][split]} for run in runs]
      steps = sorted(set.intersection(*map(set, curves)))
      # Seconds that were not recorded become NaN, which draws nothing.
      x, losses = (
        np.array(
          [[each[s][name] for s in steps] for each in curves], np.float64
        )
        for name in (quantity, "loss")
      )
      x = x.mean(axis=0) / divisor
      # A line has no length with one point.
      marker, color = "." if len(steps) == 1 else "", color_of(index)
      axes.plot(x, losses.mean(axis=0), style, marker=marker, color=color)
      if len(runs) > 1:
        low, high = losses.min(axis=0), losses.max(axis=0)
        axes.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)
  axes.grid(alpha=0.3)


def _svg(figure: Figure) -> str:
  file = io.StringIO()
  figure.savefig(file, format="svg", transparent=True)
  svg = file.getvalue()
  # Axes and letters are black, or have no colour, which is black, too.
  svg = svg[svg.index("<svg") :].replace("#000000", "currentColor")
  svg = svg.replace("<svg", '<svg fill="currentColor"', 1)
  return f'<div class="figure">{svg}</div>\n'


def page(numbers: Numbers) -> str:
  """Returns the page of `report_numbers` as HTML that needs no other file."""
  groups = numbers["groups"]
  runs = [run for group in groups for run in group["runs"]]
  sections = {
    "Settings": "".join(map(_settings, groups)),
    "Runs": "".join(map(_runs, groups)),
    "Scores of the eval text": _scores(groups),
    "Baselines": _baselines(numbers),
    "Samples": _samples(runs, numbers),
    "Loss by character": _heat_map(numbers["heat_map"]),
  }
  body = "".join(
    f"<h2>{title}</h2>\n{section}" for title, section in sections.items()
  )
  style, script = (
    (_ASSETS / f"page.{kind}").read_text() for kind in ("css", "js")
  )
  return html_page(title="charlm report", style=style, script=script, body=body)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
  def row(cells: Sequence[str], tag: str) -> str:
    """Returns a row of `td` or `th` cells."""
    cells = "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in cells)
    return f"<tr>{cells}</tr>\n"

  body = "".join(row(cells, "td") for cells in rows)
  # In a box of its own, which scrolls where the screen is narrow.
  return f"<div><table>{row(header, 'th')}{body}</table></div>\n"


def _note(text: str) -> str:
  return f'<p class="note">{html.escape(text)}</p>\n'


def _interval(interval: Sequence[float] | None, sign: str = "") -> str:
  if interval is None:
    return ""
  low, high = interval
  return f"{low:{sign}.4f} to {high:{sign}.4f}"


def _unit_of(runs: Sequence[Run]) -> str:
  """Returns what the runs predict: character, byte, or both."""
  units = dict.fromkeys(run["scores"]["stream"]["unit"] for run in runs)
  return " or ".join(units)


def _settings(group: RunGroup) -> str:
  """Compares settings on one eval text, and draws their curves."""
  settings, part = group["settings"], group["ranked_by"]
  unit = _unit_of(group["runs"])
  text = f"<p><strong>{html.escape(group['summary'])}</strong></p>\n"
  if len(settings) > 1:
    header = ["setting", "seeds", f"{part} loss", "lowest to highest"]
    header += ["above the best", "with other seeds", "on other passages"]
    header += ["eval loss"]
    text += _table(header, [_setting_row(each, part) for each in settings])
    text += _note(
      f"Losses are in nats per {unit}, the mean of the seeds. The last two "
      "columns are 95 % intervals of the difference to the best: if the seeds "
      "were others, and if the text were other passages from nearby. Where "
      "one has 0 in it, seeds or passages could explain the difference. "
      "Other chapters or authors may differ by more."
    )
  if not any(
    curve for run in group["runs"] for curve in run["curves"].values()
  ):
    return text
  by_name = {run["name"]: run for run in group["runs"]}
  runs = [[by_name[name] for name in x["runs"]] for x in settings]
  # In HTML, since matplotlib reads $ in a name as mathematics and lacks some
  # letters.
  names = [
    f'<span style="color:{color_of(i)}">&#9473;</span> '
    f"{html.escape(setting['name'])}"
    for i, setting in enumerate(settings)
  ]
  return (
    f"{text}<p>{', '.join(names)}. Solid: the loss on the valid text or, "
    "without one, on the eval text, and its range over the seeds; dotted: on "
    f"the train text.</p>\n{draw_curves(runs)}"
  )


def _setting_row(setting: Setting, part: Part) -> list[str]:
  losses, num_seeds = setting["losses"][part], len(setting["runs"])
  seeds = (losses["lowest"], losses["highest"]) if num_seeds > 1 else None
  above, of_seeds, of_text = "", "", ""
  if difference := losses["difference_to_best"]:
    above = f"{difference['mean']:.4f}"
    of_text = _interval(difference["text_interval"], "+")
    of_seeds = _interval(difference["seed_interval"], "+") or "needs two seeds"
  return [
    setting["name"],
    str(num_seeds),
    f"{losses['mean']:.4f}",
    _interval(seeds),
    above,
    of_seeds,
    of_text,
    f"{setting['losses']['eval']['mean']:.4f}",
  ]


def _runs(group: RunGroup) -> str:
  """Lists the runs of one eval text."""
  header = ["run", "setting", "seed", "step", "weights"]
  header += ["valid loss", "eval loss", "95 % interval"]
  settings = {
    name: setting["name"]
    for setting in group["settings"]
    for name in setting["runs"]
  }
  rows = []
  for run in group["runs"]:
    valid, score = run["valid_score"], run["scores"]["stream"]
    rows.append(
      [
        run["name"],
        settings.get(run["name"], "a copy"),
        str(run["seed"]),
        f"{run['step']:,} ({run['checkpoint']})",
        f"{run['num_weights']:,}",
        f"{valid['log_perplexity']:.4f}" if valid else "",
        f"{score['log_perplexity']:.4f}",
        _interval(score["interval"]),
      ]
    )
  return _table(header, rows) + _note(
    f"All are scored on the same {group['num_characters']:,} "
    f"{_unit_of(group['runs'])}s; the interval is for other passages. Runs "
    "with another eval text are not compared with these."
  )


def _scores(groups: list[RunGroup]) -> str:
  header = ["run", "protocol", "nats", "95 % interval", "bits", "unit"]
  header += ["bits per byte", "unknown"]
  rows = [
    (
      run["name"],
      protocol,
      f"{score['log_perplexity']:.4f}",
      _interval(score["interval"]),
      f"{score['bits_per_character']:.4f}",
      score["unit"],
      f"{score['bits_per_byte']:.4f}",
      f"{score['num_unknown']:,}",
    )
    for group in groups
    for run in group["runs"]
    for protocol, score in run["scores"].items()
  ]
  return _table(header, rows) + _note(
    "stream: each unit is predicted from all before it. windows: from those of "
    "its window. lines: from those of its line, and the mean is that of the "
    "lines' means. unknown: units that the model does not know."
  )


def _baselines(numbers: Numbers) -> str:
  if "baselines" not in numbers:
    return _note(
      "Not computed: report.py was run without --corpus, the corpus of "
      f"{numbers['first']}."
    )
  unit = _unit_of(numbers["groups"][0]["runs"])
  header = ("model", f"nats per {unit}", f"bits per {unit}", "MiB")
  share = numbers["memorised"]["eval_text"]
  return _table(header, map(cells_of, numbers["baselines"])) + _note(
    f"Share of the eval text {_in_passages(unit)}: {share:.2%}."
  )


def _in_passages(unit: str) -> str:
  return (
    f"in passages of {MIN_LENGTH} {unit}s or more that stand in the train "
    "text, too"
  )


def _samples(runs: Sequence[Run], numbers: Numbers) -> str:
  columns = []
  for run in runs:
    parts = [f"<h3>{html.escape(run['name'])}</h3>"]
    # A browser drops a newline at the beginning.
    parts += [f"<pre>\n{html.escape(text)}</pre>" for text in run["samples"]]
    # Its corpus was given, and no other run's.
    if run["name"] == numbers["first"] and "memorised" in numbers:
      found = numbers["memorised"]["samples"]
      shares = ", ".join(f"{sample['share']:.1%}" for sample in found)
      passages = _in_passages(_unit_of([run]))
      parts.append(_note(f"Share of each sample {passages}: {shares}."))
    columns.append(f"<section>{''.join(parts)}</section>")
  begin = f"At temperature {SAMPLES.temperature}, as after a newline."
  return f'{_note(begin)}<div class="columns">{"".join(columns)}</div>\n'


def _heat_map(heat_map: HeatMap) -> str:
  shown, runs = len(heat_map["text"]), heat_map["runs"]
  of_all = f" of {heat_map['num_characters']:,}"
  options = "".join(
    f'<option value="{i}">{html.escape(run["run"])}</option>'
    for i, run in enumerate(runs)
  )
  data = json_for_script(json.dumps(heat_map))
  return (
    _note(
      f"{heat_map['name']}, {shown:,}{of_all} characters. The redder, the "
      "higher the loss, from 0 to 6 nats. Compared with another run: blue "
      "where the first one knows more, red where the other does. Point at a "
      "character, or tap it, to see what was expected."
    )
    + f'<p>Loss of <select id="one">{options}</select> compared with <select '
    f'id="other"><option value="">no other</option>{options}</select></p>\n'
    '<pre id="text"></pre>\n<div id="box" class="box" hidden></div>\n'
    f'<script type="application/json" id="heat-map">{data}</script>\n'
  )
