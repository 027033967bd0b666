"""Renders a report as one HTML page: settings, their curves, and details.

`page.js` draws the curves.
"""

import html
import itertools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from charlm.data.passages import MIN_LENGTH
from charlm.evaluation.ngram import cells_of
from charlm.reporting.rows import table
from charlm.reporting.tables import cell_text
from charlm.reporting.types import Group, HeatMap, Numbers, Run, Scored
from charlm.system.pages import html_page, json_for_script

_ASSETS = Path(__file__).parent
_SHOWN_AXES = 3  # in pairs; with more, the rows are no grid


def page(numbers: Numbers, *, reloads: bool = False) -> str:
  """Renders a report as a self-contained page, which may reload itself."""
  groups = numbers["groups"]
  parts = [_group(group, i, len(groups)) for i, group in enumerate(groups)]
  if numbers["left_out"]:
    parts.append(_note("Left out: " + "; ".join(numbers["left_out"]) + "."))
  if "baselines" in numbers:
    parts.append("<h2>Baselines</h2>" + _baselines(numbers))
  if numbers["scored"]:
    if "baselines" not in numbers:
      parts.append(_note("With --corpus, n-grams are scored, too."))
    parts.append("<h2>Samples</h2>" + _samples(numbers["scored"]))
  if "heat_map" in numbers:
    parts.append("<h2>Loss by character</h2>" + _heat_map(numbers["heat_map"]))
  parts.append(_data([_drawn(group) for group in groups], "curves"))
  style, script = (
    (_ASSETS / f"page.{kind}").read_text() for kind in ("css", "js")
  )
  if reloads:  # the page, while --follow writes it anew
    script += "setTimeout(() => location.reload(), 10_000);\n"
  return html_page(
    title="charlm report", style=style, script=script, body="\n".join(parts)
  )


def _data(value: object, name: str) -> str:
  """Embeds JSON for the script."""
  text = json_for_script(json.dumps(value, separators=(",", ":")))
  return f'<script type="application/json" id="{name}">{text}</script>\n'


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
  """Returns a table of cells, which are HTML."""
  lines = [
    "".join(f"<{tag}>{cell}</{tag}>" for cell in cells)
    for tag, cells in [("th", header), *(("td", row) for row in rows)]
  ]
  body = "".join(f"<tr>{line}</tr>\n" for line in lines[1:])
  # In a box of its own, which scrolls on narrow screens.
  return (
    f"<div><table><thead><tr>{lines[0]}</tr></thead>\n"
    f"<tbody>{body}</tbody></table></div>\n"
  )


def _note(text: str) -> str:
  return f'<p class="note">{html.escape(text)}</p>\n'


def _group(group: Group, index: int, num_groups: int) -> str:
  """Shows the settings that share an eval text: table, curves and runs."""
  escape = html.escape
  title = "Settings"
  if num_groups > 1:
    text = f"{group['runs'][0]['corpus']}, eval text {group['eval_sha256'][:8]}"
    title = f"Settings on {text}"
  rows = table(group)
  left_out = {"difference", "from", "to", "pairs", "p"}
  columns = [
    name
    for name in (rows[0] if rows else ())
    if name not in left_out and any(row[name] is not None for row in rows)
  ]
  titles = {"verdict": f"compared with {group['baseline']}"}
  cells = [[_cell(name, row[name]) for name in columns] for row in rows]
  several = len(rows) > 1
  shown = _table(
    ["", *(_breaking(_cell(n, titles.get(n, n))) for n in columns)],
    [['<span class="key"></span>', *row] for row in cells],
  )
  return (
    f'<section data-group="{index}"><h2>{escape(title)}</h2>\n'
    f"<p><strong>{escape(group['summary'])}</strong></p>\n"
    f'<div class="settings">{shown if rows else ""}</div>'
    + "".join(map(_note, _notes(group) if several else group["notes"]))
    + '<div class="charts"></div>\n'
    + _pairs_of_axes(group)
    + _runs(group)
    + "</section>\n"
  )


def _cell(column: str, value: Any) -> str:
  text = html.escape(cell_text(column, value))
  # Words take several lines.
  return f'<span class="words">{text}</span>' if column == "verdict" else text


def _breaking(name: str) -> str:
  """Lets a flag's name take several lines on narrow screens."""
  return name.replace("_", "_<wbr>")


def _notes(group: Group) -> list[str]:
  """Says how to read the table."""
  compared = sum(bool(row["difference"]) for row in group["rows"])
  corrected = ""
  if compared > 1:
    corrected = f" {compared} settings are compared: Holm's correction decides."
  return [
    *group["notes"],
    f"Losses are in nats per {group['unit']}, lower is better: the mean over "
    "seeds, the standard deviation as spread, and the best. Differences are of "
    "pairs with the same seed; the interval is for other seeds on the same "
    f"text, not for other texts.{corrected} The best of many settings was "
    "probably lucky: train the best two with new seeds.",
  ]


def _pairs_of_axes(group: Group) -> str:
  """Draws a heat map for each pair of settings that vary."""
  rows = group["rows"]
  values = {
    name: sorted({row["settings"][name] for row in rows}, key=_order)
    for name in (rows[0]["settings"] if rows else ())
  }
  axes = [n for n in values if len(values[n]) < len(rows)]
  if not 2 <= len(axes) == len(values) <= _SHOWN_AXES:
    return ""
  losses = sorted(row["loss"] for row in rows)
  # Losses far above the median would flatten the other colours.
  low, middle = losses[0], losses[len(losses) // 2]
  scale = min(losses[-1], low + 3 * (middle - low)) - low or 1
  maps = ""
  for one, other in itertools.combinations(axes, 2):
    cells = []
    for value in values[one]:
      line = [f"<b>{html.escape(value)}</b>"]
      for column in values[other]:
        fitting = [
          row
          for row in rows
          if (row["settings"][one], row["settings"][other]) == (value, column)
        ]
        if not fitting:
          line.append("")
          continue
        best = min(fitting, key=lambda row: row["loss"])
        share = max(0, 1 - (best["loss"] - low) / scale)
        line.append(
          f'<span style="--share:{60 * share:.0f}%" '
          f'title="{html.escape(best["name"])}">{best["loss"]:.4f}</span>'
        )
      cells.append(line)
    header = [f"{one} \u2193 {other} \u2192", *values[other]]
    maps += _table([_breaking(html.escape(x)) for x in header], cells)
  return f'<div class="axes">{maps}</div>' + _note(
    f"{group['sorted_by'].title()} loss by two settings, of the best "
    "row: the stronger the colour, the lower."
  )


def _order(value: str) -> tuple[float, str]:
  """Sorts numbers by size, and other values behind them."""
  try:
    return float(value), ""
  except ValueError:
    return float("inf"), value


def _runs(group: Group) -> str:
  """Lists the runs of a group, with a sample of each."""
  header = ["run", "setting", "seed", "step", "valid loss", "eval loss"]
  header += ["minutes", "state"]
  names = {name: row["name"] for row in group["rows"] for name in row["runs"]}
  rows = []
  for run in group["runs"]:
    name = html.escape(run["name"])
    if run["sample"]:
      # Browsers drop the first newline.
      sample = f"<pre>\n{html.escape(run['sample'])}</pre>"
      name = f"<details><summary>{name}</summary>{sample}</details>"
    last = (
      f" of {run['last_step']:,}"
      if run["state"] != "finished" and run["last_step"]
      else ""
    )
    rows.append(
      [
        name,
        html.escape(names.get(run["name"], "")),
        str(run["seed"]),
        f"{run['step']:,}{last}",
        cell_text("", run["valid_loss"]),
        cell_text("", run["eval_loss"]),
        cell_text("minutes", run["minutes"]),
        run["state"],
      ]
    )
  number = len(rows)
  opened = " open" if number <= 3 else ""
  noun = "run, with its sample" if number == 1 else "runs, with their samples"
  return (
    f"<details{opened}><summary>{number} {noun}</summary>"
    f'<div class="runs">{_table(header, rows)}</div></details>\n'
  )


def _drawn(group: Group) -> dict[str, object]:
  """Returns what the script draws of a group."""
  part = group["sorted_by"]
  runs: dict[str, Run] = {run["name"]: run for run in group["runs"]}
  return {
    "unit": group["unit"],
    "part": part,
    "rows": [
      {
        "name": row["name"],
        "settings": row["settings"],
        "loss": row["loss"],
        "finished": row["finished"],
        "runs": [
          {
            "name": name,
            "loss": runs[name][f"{part}_loss"],  # type: ignore[literal-required]
            "perStep": runs[name]["characters_per_step"],
            # The eval text may be scored only once, at the end.
            "scored": runs[name]["curves"][
              "valid" if runs[name]["curves"]["valid"]["steps"] else "eval"
            ],
            "train": runs[name]["curves"]["train"],
          }
          for name in row["runs"]
        ],
      }
      for row in group["rows"]
    ],
  }


def _baselines(numbers: Numbers) -> str:
  unit = numbers["groups"][0]["unit"]
  header = ("model", f"nats per {unit}", f"bits per {unit}", "storage, MiB")
  rows = (map(html.escape, cells_of(x)) for x in numbers["baselines"])
  return _table(header, map(list, rows)) + _note(
    f"Share of the eval text in passages of {MIN_LENGTH} {unit}s or more that "
    f"also occur in the train text: {numbers['memorised']:.2%}."
  )


def _samples(scored: Sequence[Scored]) -> str:
  columns = []
  for run in scored:
    # Browsers drop the first newline.
    texts = [f"<pre>\n{html.escape(text)}</pre>" for text in run["samples"]]
    score = run["eval_score"]
    about = (
      f"Step {run['step']:,} ({run['checkpoint']}): eval loss "
      f"{score['log_perplexity']:.4f}, {score['bits_per_byte']:.4f} bits per "
      f"byte, {score['num_unknown']:,} [UNK] of {score['num_characters']:,}."
    )
    columns.append(
      f"<section><h3>{html.escape(run['name'])}</h3>{_note(about)}"
      f"{''.join(texts)}</section>"
    )
  note = "Scored now, by the checkpoint; each sample starts a line."
  return f'{_note(note)}<div class="columns">{"".join(columns)}</div>\n'


def _heat_map(heat_map: HeatMap) -> str:
  shown, runs = len(heat_map["text"]), heat_map["runs"]
  of_all = f" of {heat_map['num_characters']:,}"
  options = "".join(
    f'<option value="{i}">{html.escape(run["run"])}</option>'
    for i, run in enumerate(runs)
  )
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
    + _data(heat_map, "heat-map")
  )
