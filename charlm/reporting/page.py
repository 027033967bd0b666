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
from charlm.reporting.types import Difference, Numbers, Run, RunGroup

# One class per level: a style for each character would double the page.
_LEVELS = 8  # of loss, from 0 nats to `_MOST_NATS` and more
_MOST_NATS = 6.0
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
    # With a valid text, the eval text is scored once.
    scored = "valid" if run["curves"]["valid"] else "eval"
    for split, style in (("train", ":"), (scored, "-")):
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


def page(numbers: Numbers) -> str:
  """Returns the page of `report_numbers` as HTML that needs no other file."""
  groups = numbers["groups"]
  runs = [run for group in groups for run in group["runs"]]
  sections = {
    "Ranking": "".join(_ranking(group) for group in groups),
    "Is it better?": "".join(_comparison(group) for group in groups),
    "Learning curves": _curves(runs),
    "Scores": _scores(groups),
    "Baselines": _baselines(numbers),
    "Samples": _samples(runs, numbers),
    "Loss by character": _coloured(numbers),
  }
  body = "".join(
    f"<h2>{title}</h2>\n{section}" for title, section in sections.items()
  )
  # Inside of the page, which is mailed and archived without other files.
  style, script = (
    (_ASSETS / f"page.{kind}").read_text() for kind in ("css", "js")
  )
  return (
    '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
    f"<title>charlm report</title><style>{style}</style></head><body>"
    f"<h1>charlm report</h1>\n{body}<script>{script}</script></body></html>\n"
  )


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


def _ranking(group: RunGroup) -> str:
  unit = _unit_of(group["runs"])
  header = ["run", f"eval: nats per {unit}", "95 % interval"]
  header += [f"bits per {unit}", f"valid: nats (bits) per {unit}"]
  header += ["seed", "step", "weights"]
  rows = []
  for run in group["runs"]:
    stream, on_valid = run["scores"]["stream"], ""
    if valid := run["valid_score"]:
      bits = f"({valid['bits_per_character']:.4f})"
      on_valid = f"{valid['log_perplexity']:.4f} {bits}"
    rows.append(
      [
        run["name"],
        f"{stream['log_perplexity']:.4f}",
        _interval(stream["interval"]),
        f"{stream['bits_per_character']:.4f}",
        on_valid,
        str(run["seed"]),
        f"{run['step']:,} ({run['checkpoint']})",
        f"{run['num_weights']:,}",
      ]
    )
  text = "valid text, which all runs share"
  if group["ranked_by"] == "eval":
    text = "eval text, since there is no valid text that all runs share"
  return _table(header, rows) + _note(
    f"Ranked by the {text}. By the protocol stream: each prediction is made "
    "from all text before it. "
    f"The eval text has {group['num_characters']:,} predictions, and a SHA-256 "
    f"that begins with {group['eval_sha256'][:8]}. The interval is over this "
    "text. Runs with another eval text are not compared, nor, if the text is "
    "not ASCII, runs of bytes with runs of characters."
  )


def _comparison(group: RunGroup) -> str:
  """Returns what the settings of a group lost, and whether one is better."""
  if len(group["runs"]) < 2:
    return _note(
      f"{group['runs'][0]['name']} is not compared: no other run has its eval "
      "text."
    )
  unit = _unit_of(group["runs"])
  losses_header = ["setting", "text", "seeds", f"mean nats per {unit}"]
  losses_header += [f"bits per {unit}", "lowest to highest", "standard error"]
  header = ["setting", "text", f"difference to the best, nats per {unit}"]
  header += ["interval over seeds", "interval over the text"]
  header.append("more than the seeds'")
  losses_rows, rows = [], []
  for setting in group["settings"]:
    for part, losses in setting["losses"].items():
      name, error = ", ".join(setting["runs"]), losses["standard_error"]
      losses_rows.append(
        [
          name,
          part,
          str(len(setting["runs"])),
          f"{losses['mean']:.4f}",
          f"{losses['mean'] / math.log(2):.4f}",
          _interval((losses["lowest"], losses["highest"])),
          "" if error is None else f"{error:.4f}",
        ]
      )
      if difference := losses["difference_to_best"]:
        rows.append(
          [
            name,
            part,
            f"{difference['mean']:+.4f}",
            _interval(difference["seed_interval"], "+"),
            _interval(difference["text_interval"], "+"),
            _more_than_seeds(difference),
          ]
        )
  tables = _table(losses_header, losses_rows)
  if rows:
    tables += _table(header, rows)
  return tables + _note(
    "Runs that differ in the seed alone are one setting. Their losses differ, "
    "too: a difference that is smaller than that of two seeds is no "
    "difference. The interval over seeds (95 %, Welch's t) says what other "
    "seeds would give on the same text. If it includes 0, no difference is "
    "shown. The interval over the text (95 %, paired, prediction by "
    "prediction) says what these runs would give on other passages. "
    "It knows nothing of seeds: for two seeds of one setting it can exclude 0. "
    "If a setting has one seed, the difference may be the seed's: train each "
    "with two or more, by --seed."
  )


def _more_than_seeds(difference: Difference) -> str:
  """Returns whether a difference is more than what seeds make."""
  interval = difference["seed_interval"]
  if interval is None:
    return "one seed: may be the seed's"
  return "yes" if interval[0] > 0 or interval[1] < 0 else "not shown"


def _curves(runs: Sequence[Run]) -> str:
  # In HTML, since matplotlib reads $ in a name as mathematics and lacks some
  # letters.
  names = [
    f'<span style="color:{color_of(i)}">&#9473;</span> '
    f"{html.escape(run['name'])}"
    for i, run in enumerate(runs)
  ]
  return (
    f"<p>{', '.join(names)}. Dotted: the train text; solid: the run's valid "
    f"text or, without one, its eval text.</p>\n{draw_curves(runs)}"
  )


def _scores(groups: list[RunGroup]) -> str:
  header = ["run", "eval text", "protocol", "unit", "nats per unit"]
  header += ["95 % interval", "bits per unit", "bits per byte", "unknown"]
  rows = [
    (
      run["name"],
      group["eval_sha256"][:8],
      protocol,
      score["unit"],
      f"{score['log_perplexity']:.4f}",
      _interval(score["interval"]),
      f"{score['bits_per_character']:.4f}",
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
  return f'<div class="columns">{"".join(columns)}</div>\n'


def _coloured(numbers: Numbers) -> str:
  characters, spans = numbers["characters"], []
  for entry in characters:
    share = min(entry["nats"], _MOST_NATS) / _MOST_NATS
    level = min(int(share * _LEVELS), _LEVELS - 1)
    # One <i> a character: the script counts them.
    spans.append(f'<i class="l{level}">{html.escape(entry["character"])}</i>')
  data = json.dumps(characters).replace("<", "\\u003c")  # no end of a script
  return (
    _note(
      f"The first {len(characters):,} characters or bytes; the redder, the "
      f"higher the loss of {numbers['first']}: from 0 to {_MOST_NATS:g} nats "
      "and more. Point at one, or tap it, to see what the model expected."
    )
    + f'<pre id="text">{"".join(spans)}</pre>\n<div id="box" hidden></div>\n'
    f'<script type="application/json" id="characters">{data}</script>\n'
  )
