"""Renders a report as one HTML page: runs side by side."""

import html
import io
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

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
_MOST_CURVES = 10  # of the best settings: with more, colours look alike


def color_of(index: int) -> str:
  """Returns the colour of the setting at an index of the report."""
  return to_hex(f"C{index}")


def label_losses(left: Axes, right: Axes, unit: str) -> None:
  """Labels the loss axis: nats on the left, bits on the right."""
  left.set_ylabel(f"nats per {unit}")
  bit = math.log(2)
  functions = (lambda nats: nats / bit, lambda bits: bits * bit)
  right.secondary_yaxis("right", functions=functions).set_ylabel(
    f"bits per {unit}"
  )


def draw_curves(settings: Sequence[Sequence[Run]], unit: str) -> str:
  """Draws a curve for each setting: the mean and the range of its runs."""
  figure = Figure(figsize=(9, 4), layout="constrained")
  axes = figure.subplots()
  for index, runs in enumerate(settings):
    # With a valid text, the eval text is scored only once, at the end.
    scored = "valid" if runs[0]["curves"]["valid"] else "eval"
    for split, style in (("train", ":"), (scored, "-")):
      curves = [{p["step"]: p for p in run["curves"][split]} for run in runs]
      steps = sorted(set.intersection(*map(set, curves)))
      seen = [curves[0][step]["characters"] / 1e6 for step in steps]
      losses = np.array([[each[s]["loss"] for s in steps] for each in curves])
      # With a single point, there is no line to see.
      marker, color = "." if len(steps) == 1 else "", color_of(index)
      axes.plot(seen, losses.mean(axis=0), style, marker=marker, color=color)
      if len(runs) > 1:
        low, high = losses.min(axis=0), losses.max(axis=0)
        axes.fill_between(seen, low, high, color=color, alpha=0.15, linewidth=0)
  axes.grid(alpha=0.3)
  axes.set_xlabel(f"{unit}s seen, millions")
  label_losses(axes, axes, unit)
  drawn = np.concatenate([np.asarray(line.get_ydata()) for line in axes.lines])
  # The losses of the first steps would flatten the rest.
  axes.set_ylim(drawn.min() - 0.05, np.quantile(drawn, 0.9) + 0.3)
  return _svg(figure)


def _svg(figure: Figure) -> str:
  file = io.StringIO()
  figure.savefig(file, format="svg", transparent=True)
  svg = file.getvalue()
  # Axes and letters are black, either explicitly or by default.
  svg = svg[svg.index("<svg") :].replace("#000000", "currentColor")
  svg = svg.replace("<svg", '<svg fill="currentColor"', 1)
  return f'<div class="figure">{svg}</div>\n'


def page(numbers: Numbers) -> str:
  """Renders the data of `report_numbers` as a self-contained HTML page."""
  groups = numbers["groups"]
  runs = [run for group in groups for run in group["runs"]]
  sections = {
    "Settings": "".join(map(_settings, groups)),
    "Runs": "".join(map(_runs, groups)),
    "Baselines": _baselines(numbers),
    "Samples": _samples(runs),
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
  # In a box of its own, which scrolls on narrow screens.
  return f"<div><table>{row(header, 'th')}{body}</table></div>\n"


def _note(text: str) -> str:
  return f'<p class="note">{html.escape(text)}</p>\n'


def _interval(interval: Sequence[float] | None, sign: str = "") -> str:
  if interval is None:
    return ""
  low, high = interval
  return f"{low:{sign}.4f} to {high:{sign}.4f}"


def _unit_of(runs: Sequence[Run]) -> str:
  """Returns the unit that the runs predict: character, byte, or both."""
  units = dict.fromkeys(run["eval_score"]["unit"] for run in runs)
  return " or ".join(units)


def _settings(group: RunGroup) -> str:
  """Compares settings on one eval text, and draws their curves."""
  settings, part = group["settings"], group["ranked_by"]
  unit = _unit_of(group["runs"])
  text = f"<p><strong>{html.escape(group['summary'])}</strong></p>\n"
  if len(settings) > 1:
    header = ["setting", "seeds", f"{part} loss", "range over seeds"]
    header += ["difference from the best", "95 % interval over seeds"]
    header += ["eval loss"] * (part == "valid")
    text += _table(header, [_setting_row(each, part) for each in settings])
    text += _note(
      f"Losses are in nats per {unit}, averaged over the seeds. The interval "
      "is for the difference from the best. If it contains 0, the seeds could "
      "explain the difference. It covers neither other passages, authors or "
      "chapters, nor the luck of the best of many settings."
    )
  if not any(
    curve for run in group["runs"] for curve in run["curves"].values()
  ):
    return text
  by_name = {run["name"]: run for run in group["runs"]}
  runs = [[by_name[name] for name in x["runs"]] for x in settings]
  # In HTML, since matplotlib reads $ as mathematics and lacks some letters.
  names = [
    f'<span class="name"><span style="color:{color_of(i)}">&#9473;</span> '
    f"{html.escape(setting['name'])}</span>"
    for i, setting in enumerate(settings[:_MOST_CURVES])
  ]
  return (
    f"{text}<p>{', '.join(names)}. Solid: the loss on the valid text (or, "
    "without one, on the eval text), with its range over the seeds. Dotted: "
    "the loss on the train text, with dropout if the run uses it."
    f"</p>\n{draw_curves(runs[:_MOST_CURVES], unit)}"
  )


def _setting_row(setting: Setting, part: Part) -> list[str]:
  losses, num_seeds = setting["losses"][part], len(setting["runs"])
  seeds = (losses["lowest"], losses["highest"]) if num_seeds > 1 else None
  above, of_seeds = "", ""
  eval_loss = [f"{setting['losses']['eval']['mean']:.4f}"] * (part == "valid")
  if difference := losses["difference_to_best"]:
    above = f"{difference['mean']:.4f}"
    of_seeds = _interval(difference["seed_interval"], "+") or "needs two seeds"
  return [
    setting["name"],
    str(num_seeds),
    f"{losses['mean']:.4f}",
    _interval(seeds),
    above,
    of_seeds,
    *eval_loss,
  ]


def _runs(group: RunGroup) -> str:
  """Lists the runs of a group."""
  header = ["run", "setting", "seed", "step", "weights"]
  header += ["valid loss", "eval loss", "bits per byte", "[UNK]"]
  settings = {
    name: setting["name"]
    for setting in group["settings"]
    for name in setting["runs"]
  }
  rows = []
  for run in group["runs"]:
    valid, score = run["valid_score"], run["eval_score"]
    rows.append(
      [
        run["name"],
        settings.get(run["name"], "same setting and seed"),
        str(run["seed"]),
        f"{run['step']:,} ({run['checkpoint']})",
        f"{run['num_weights']:,}",
        f"{valid['log_perplexity']:.4f}" if valid else "",
        f"{score['log_perplexity']:.4f}",
        f"{score['bits_per_byte']:.4f}",
        f"{score['num_unknown']:,}",
      ]
    )
  return _table(header, rows) + _note(
    f"All are scored on the same {group['num_characters']:,} "
    f"{_unit_of(group['runs'])}s of the eval text, each predicted from all "
    "before it. Runs with another eval text are not compared with these."
  )


def _baselines(numbers: Numbers) -> str:
  if "baselines" not in numbers:
    return _note(
      f"To see them, give the corpus of {numbers['first']} as --corpus."
    )
  unit = _unit_of(numbers["groups"][0]["runs"])
  header = ("model", f"nats per {unit}", f"bits per {unit}", "storage, MiB")
  return _table(header, map(cells_of, numbers["baselines"])) + _note(
    f"Share of the eval text in passages of {MIN_LENGTH} {unit}s or more that "
    f"also occur in the train text: {numbers['memorised']:.2%}."
  )


def _samples(runs: Sequence[Run]) -> str:
  columns = []
  for run in runs:
    # Browsers drop the first newline.
    texts = [f"<pre>\n{html.escape(text)}</pre>" for text in run["samples"]]
    name = html.escape(run["name"])
    columns.append(f"<section><h3>{name}</h3>{''.join(texts)}</section>")
  note = f"Each starts a line; temperature {SAMPLES.temperature}."
  return f'{_note(note)}<div class="columns">{"".join(columns)}</div>\n'


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
      f"The first {shown:,}{of_all} characters of {heat_map['name']}. The "
      "redder, the higher the loss, from 0 to 6 nats. Compared with another "
      "run: blue where the first run is better, red where the other one is, up "
      "to 3 nats. Point at a character, tap it, or use the arrow keys to see "
      "what the run expected. The first character is not predicted."
    )
    + f'<p><label>Loss of <select id="one">{options}</select></label> '
    '<label>compared with <select id="other"><option value="">none</option>'
    f"{options}</select></label></p>\n"
    '<pre id="text"></pre>\n<div id="box" class="box" hidden></div>\n'
    f'<script type="application/json" id="heat-map">{data}</script>\n'
  )
