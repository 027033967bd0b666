"""A report as one HTML page: runs side by side."""

import html
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from charlm.data.passages import MIN_LENGTH, FoundNumbers
from charlm.reporting.figures import (
  color_of,
  draw_context,
  draw_curves,
  unit_of,
)
from charlm.reporting.ngram import Baseline
from charlm.reporting.types import Numbers, Run, RunGroup

# One class per level: a style for each character would double the page.
_LEVELS = 8  # of loss, from 0 nats to `_MOST_NATS` and more
_MOST_NATS = 6.0
_ASSETS = Path(__file__).parent
# Pictures of control characters: HTML drops some, and takes others for a line's
# end.
_CONTROLS = {c: 0x2400 + c for c in range(32) if c not in b"\t\n"}


def page(numbers: Numbers) -> str:
  """Returns the page of `report_numbers` as HTML that needs no other file."""
  groups = numbers["groups"]
  runs = [run for group in groups for run in group["runs"]]
  sections = [
    ("Ranking", "".join(_ranking(group) for group in groups)),
    ("Learning curves", _curves(groups)),
    ("Scores", _scores(groups)),
    ("Baselines", _baselines(numbers)),
    ("Loss by kind of character, place and context", _loss_by(groups[0])),
    ("Samples", _samples(numbers)),
    ("Runs", "".join(_entry(run, i) for i, run in enumerate(runs))),
    ("Passages with the highest loss", _worst(numbers)),
    ("Loss by character", _coloured(numbers)),
  ]
  body = "".join(f"<h2>{title}</h2>\n{text}" for title, text in sections)
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


def _escape(text: str) -> str:
  return html.escape(text.translate(_CONTROLS))


def _pre(text: str) -> str:
  # A browser drops a newline at the beginning.
  return f"<pre>\n{_escape(text)}</pre>"


def _note(text: str) -> str:
  return f'<p class="note">{html.escape(text)}</p>\n'


def _interval(interval: Sequence[float] | None, sign: str = "") -> str:
  if interval is None:
    return ""
  low, high = interval
  return f"{low:{sign}.4f} to {high:{sign}.4f}"


def _ranking(group: RunGroup) -> str:
  unit = unit_of(group["runs"])
  header = ["run", f"nats per {unit}", "95 % interval", f"bits per {unit}"]
  header += ["difference to the best", "95 % interval", "excludes 0"]
  rows = []
  for run in group["runs"]:
    stream, difference = run["scores"]["stream"], run["difference_to_best"]
    cells = [run["name"], f"{stream['log_perplexity']:.4f}"]
    cells.append(_interval(stream["interval"]))
    cells.append(f"{stream['bits_per_character']:.4f}")
    if difference:
      cells += [f"{difference['mean']:+.4f}"]
      cells += [_interval(difference["interval"], "+")]
      cells += ["yes" if difference["excludes_0"] else "no"]
    rows.append([*cells, *[""] * (len(header) - len(cells))])
  return _table(header, rows) + _note(
    "By the protocol stream (each prediction is made from all text before it), "
    f"over {group['num_characters']:,} predictions in the {_text_of(group)}. "
    "Runs with another eval text are not compared, nor, if the text is not "
    "ASCII, runs of bytes with runs of characters. A difference is in nats, "
    "and paired, prediction by prediction. Its interval is over the text, not "
    "over seeds: two runs that differ in the seed alone can exclude 0, too."
  )


def _text_of(group: RunGroup) -> str:
  return f"eval text whose SHA-256 begins with {group['eval_sha256'][:8]}"


def _curves(groups: list[RunGroup]) -> str:
  """Returns the curves of each group, since losses of two texts differ."""
  parts, first = [], 0
  for group in groups:
    indices = range(first, first := first + len(group["runs"]))
    # In HTML, since matplotlib reads $ in a name as mathematics and lacks some
    # letters.
    names = [
      f'<span style="color:{color_of(i)}">&#9473;</span> '
      f"{html.escape(run['name'])}"
      for i, run in zip(indices, group["runs"], strict=True)
    ]
    svg = draw_curves(group["runs"], indices) or _note("No run has metrics.")
    parts.append(
      f"<p>{', '.join(names)}. Dotted: train; solid: eval, of the "
      f"{_text_of(group)}.</p>\n{svg}"
    )
  return "".join(parts)


def _scores(groups: list[RunGroup]) -> str:
  header = ["run", "eval text", "protocol", "unit", "nats per unit"]
  header += ["95 % interval", "bits per unit", "bits per byte"]
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
    )
    for group in groups
    for run in group["runs"]
    for protocol, score in run["scores"].items()
  ]
  return _table(header, rows) + _note(
    "stream: each unit is predicted from all before it. windows: from those of "
    "its window. lines: from those of its line, and the mean is that of the "
    "lines' means."
  )


def _baselines(numbers: Numbers) -> str:
  if "baselines" not in numbers:
    return _note(
      "Not computed: report.py was run without --corpus, the corpus of "
      f"{numbers['first']}."
    )
  models = [Baseline(**model) for model in numbers["baselines"]]
  unit = unit_of([_first(numbers)])
  header = ("model", f"nats per {unit}", f"bits per {unit}", "MiB")
  return _table(header, [model.cells() for model in models]) + _note(
    f"{numbers['memorised']['eval_text']:.2%} of the eval text is in passages "
    f"of {MIN_LENGTH} {unit}s or more that stand in the train text, too."
  )


def _loss_by(group: RunGroup) -> str:
  runs, unit = group["runs"], unit_of(group["runs"])
  parts = [_note(f"Mean nats per {unit}; a nat is 1.4427 bits.")]
  for title in runs[0]["loss_by"]:
    columns = [run["loss_by"][title] for run in runs]
    rows = [
      (
        row[0]["name"],
        f"{row[0]['num_characters']:,}",
        *(f"{cell['mean_nats']:.3f}" for cell in row),
      )
      for row in zip(*columns, strict=True)
    ]
    header = (title, "number", *(run["name"] for run in runs))
    parts.append(_table(header, rows))
  return "".join(parts) + draw_context(runs)


def _samples(numbers: Numbers) -> str:
  found = numbers.get("memorised", {}).get("samples", [])
  columns = []
  for group in numbers["groups"]:
    for run in group["runs"]:
      parts = [f"<h3>{html.escape(run['name'])}</h3>"]
      for i, text in enumerate(run["samples"]):
        parts.append(_pre(text))
        # Its corpus was given, and no other run's.
        if run["name"] == numbers["first"] and i < len(found):
          parts.append(_memorised(found[i], unit_of([run])))
      columns.append(f"<section>{''.join(parts)}</section>")
  return f'<div class="columns">{"".join(columns)}</div>\n'


def _memorised(found: FoundNumbers, unit: str) -> str:
  passages = [
    f"{passage['length']:,} {unit}s that begin at its {unit} "
    f"{passage['place']:,}"
    for passage in found["passages"]
  ]
  colon = ": " if passages else ""
  return _note(
    f"{found['share']:.1%} is in passages of {MIN_LENGTH} {unit}s or more "
    f"of the train text{colon}{', '.join(passages)}."
  )


def _entry(run: Run, index: int) -> str:
  """Returns what there is to say of one run."""
  stream = run["scores"]["stream"]
  facts = (
    f"{run['num_weights']:,} weights, step {run['step']:,}; "
    f"{stream['num_characters']:,} {stream['unit']}s scored, "
    f"{stream['num_unknown']:,} of them unknown."
  )
  return (
    f"<h3>{html.escape(run['name'])}</h3>{_note(facts)}"
    f"{draw_curves([run], [index])}"
  )


def _worst(numbers: Numbers) -> str:
  unit = unit_of([_first(numbers)])
  parts = [_note(f"By the loss of {numbers['first']}; none overlap.")]
  for passage in numbers["passages_with_the_highest_loss"]:
    parts.append(
      f"<p>{passage['mean_nats']:.2f} nats ("
      f"{passage['mean_nats'] / math.log(2):.2f} bits) per {unit}, from {unit} "
      f"{passage['start']:,}</p>{_pre(passage['text'])}\n"
    )
  return "".join(parts)


def _coloured(numbers: Numbers) -> str:
  characters, spans = numbers["characters"], []
  unit = unit_of([_first(numbers)])
  for entry in characters:
    share = min(entry["nats"], _MOST_NATS) / _MOST_NATS
    level = min(int(share * _LEVELS), _LEVELS - 1)
    # One <i> a character: the script counts them.
    spans.append(f'<i class="l{level}">{_escape(entry["character"])}</i>')
  data = json.dumps(characters).replace("<", "\\u003c")  # no end of a script
  return (
    _note(
      f"The first {len(characters):,} {unit}s; the redder, the higher the "
      f"loss of {numbers['first']}: from 0 to {_MOST_NATS:g} nats and more. "
      f"Point at a {unit}, or tap it, to see what the model expected."
    )
    + f'<pre id="text">{"".join(spans)}</pre>\n<div id="box" hidden></div>\n'
    f'<script type="application/json" id="characters">{data}</script>\n'
  )


def _first(numbers: Numbers) -> Run:
  runs = [run for group in numbers["groups"] for run in group["runs"]]
  return next(run for run in runs if run["name"] == numbers["first"])
