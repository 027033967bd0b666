"""Runs side by side on one page: curves, scores, baselines, passages."""

import dataclasses
import html
import io
import itertools
import pathlib
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from charlm.data.corpus import Split
from charlm.data.vocabulary import encode
from charlm.evaluation.score import confidence_interval
from charlm.reporting import analysis
from charlm.reporting.ngram import Baseline, baselines
from charlm.reporting.result import WINDOW, Result

_MAX_COLOURED = 20_000  # characters
_LEVELS = 8  # of loss, from 0 nats to `_MOST_NATS` and more
_MOST_NATS = 6.0
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem;
  margin: 2rem auto; padding: 0 1rem; color: #222; }
h2 { margin-top: 2.5rem; border-bottom: 1px solid #ccc; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { padding: .2rem .7rem; text-align: right;
  font-variant-numeric: tabular-nums; }
th { border-bottom: 1px solid #999; font-weight: 600; }
th:first-child, td:first-child { text-align: left; }
pre { white-space: pre-wrap; line-height: 1.45; }
svg { max-width: 100%; height: auto; }
p.note { color: #555; }
"""


def page(results: list[Result], split: Split | None, vocab: list[str]) -> str:
  """Returns the page as HTML that needs no other file.

  Args:
    results: of the runs; those whose text is not the first one's are only
      compared by their curves and scores.
    split: the corpus of the first run; without it, whatever needs the training
      text is left out.
    vocab: the first run's vocabulary.
  """
  short = _short_names([result.name for result in results])
  results = [
    dataclasses.replace(result, name=name)
    for result, name in zip(results, short, strict=True)
  ]
  first = results[0]
  same = [result for result in results if result.text == first.text]
  sections = [
    ("Runs", _runs(results)),
    ("Learning curves", _curves(results)),
    ("Scores", _scores(results)),
    ("Differences", _differences(same)),
    ("Baselines", _baselines(first, split, vocab)),
    ("Loss by kind of character, place and context", _groups(same)),
    ("Passages with the highest loss", _worst(first)),
    ("Loss by character", _coloured(first)),
  ]
  body = "".join(f"<h2>{title}</h2>\n{text}" for title, text in sections)
  return (
    '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
    f"<title>charlm report</title><style>{_STYLE}</style></head><body>"
    f"<h1>charlm report</h1>\n{body}</body></html>\n"
  )


def _short_names(paths: list[str]) -> list[str]:
  """Returns the last parts of each path, as few as tell them apart."""
  parts = [pathlib.PurePath(path).parts for path in paths]
  for depth in range(1, max(map(len, parts)) + 1):
    names = [str(pathlib.PurePath(*path[-depth:])) for path in parts]
    if len(set(names)) == len(names):
      return names
  return paths


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
  def row(cells: Sequence[str], tag: str) -> str:
    cells = "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in cells)
    return f"<tr>{cells}</tr>\n"

  body = "".join(row(cells, "td") for cells in rows)
  return f"<table>{row(header, 'th')}{body}</table>\n"


def _note(text: str) -> str:
  return f'<p class="note">{html.escape(text)}</p>\n'


def _runs(results: list[Result]) -> str:
  header = ("run", "weights", "step", "characters scored", "unknown")
  rows = []
  for result in results:
    score = result.scores["stream"]
    numbers = [result.num_weights, result.step]
    numbers += [score.num_characters, score.num_unknown]
    rows.append((result.name, *(f"{number:,}" for number in numbers)))
  return _table(header, rows)


def _curves(results: list[Result]) -> str:
  figure = Figure(figsize=(9, 4.5), layout="constrained")
  axes = figure.subplots()
  names = []
  for i, result in enumerate(results):
    # matplotlib reads $ in a name as mathematics, and lacks some letters.
    color = to_hex(f"C{i}")
    name = html.escape(result.name)
    names.append(f'<span style="color:{color}">&#9473;</span> {name}')
    for split, style in (("train", ":"), ("eval", "-")):
      chosen = [r for r in result.records if r["split"] == split]
      points = [(r["step"], r["loss"]) for r in chosen]
      if points:
        axes.plot(*zip(*points, strict=True), style, color=color)
  if not axes.lines:
    return _note("No run has metrics.")
  axes.set_xlabel("step")
  axes.set_ylabel("nats per character")
  # The first steps would hide all others.
  losses = np.concatenate([line.get_ydata() for line in axes.lines])
  low, high = losses.min() - 0.05, np.quantile(losses, 0.9) + 0.3
  if low < high:  # rounding can make them equal where the losses are huge
    axes.set_ylim(low, high)
  axes.grid(alpha=0.3)
  svg = io.StringIO()
  figure.savefig(svg, format="svg")
  legend = f"<p>{', '.join(names)}. Dotted: train; solid: eval.</p>\n"
  return legend + svg.getvalue()[svg.getvalue().index("<svg") :]


def _scores(results: list[Result]) -> str:
  header = ["run", "protocol", "nats per character", "95 % interval", "bits"]
  header.append("bits per byte")
  rows = []
  for result in results:
    for protocol, score in result.scores.items():
      low, high = score.interval
      rows.append(
        (
          result.name,
          protocol,
          f"{score.log_perplexity:.4f}",
          f"{low:.4f} to {high:.4f}",
          f"{score.bits_per_character:.4f}",
          f"{score.bits_per_byte:.4f}",
        )
      )
  return _table(header, rows) + _note(
    "stream: each character is predicted from all before it. windows: from "
    "those of its window. lines: from those of its line, and the mean is that "
    "of the lines' means."
  )


def _differences(results: list[Result]) -> str:
  rows = []
  for one, other in itertools.combinations(results, 2):
    nats = [r.scores["stream"].nats.astype(np.float64) for r in (one, other)]
    difference = nats[0] - nats[1]
    low, high = confidence_interval(difference)
    rows.append(
      (
        f"{one.name} - {other.name}",
        f"{difference.mean():+.4f}",
        f"{low:+.4f} to {high:+.4f}",
        "yes" if low > 0 or high < 0 else "no",
      )
    )
  if not rows:
    return _note("Give several runs with the same eval text.")
  header = ("stream, nats per character", "mean", "95 % interval", "excludes 0")
  return _table(header, rows)


def _baselines(first: Result, split: Split | None, vocab: list[str]) -> str:
  if split is None:
    return _note("Give the corpus of the first run as --corpus.")
  nats = first.scores["stream"].log_perplexity
  models = [
    *baselines(str(split.train), first.text, vocab),
    Baseline(first.name, nats, 4 * first.num_weights),
  ]
  rows = [model.cells() for model in models]
  header = ("model", "nats per character", "bits", "MiB")
  share = analysis.verbatim_share(
    encode(str(split.train), vocab), encode(first.text, vocab)
  )
  return _table(header, rows) + _note(
    f"{share:.2%} of the scored text lies in passages of 50 characters or more "
    "that the training text holds too."
  )


def _groups(results: list[Result]) -> str:
  windows = f"windows of {WINDOW}"
  tables: list[tuple[str, Callable[[Result], list[analysis.Group]]]] = [
    ("character", lambda r: _by(analysis.by_class, r)),
    ("letter of a word", lambda r: _by(analysis.by_position_in_word, r)),
    (
      "characters seen before it",
      lambda r: analysis.by_context_length(r.scores[windows].nats, WINDOW),
    ),
  ]
  parts = []
  for title, groups in tables:
    columns = [groups(result) for result in results]
    rows = [
      (
        row[0].name,
        f"{row[0].num_characters:,}",
        *(f"{group.mean_nats:.3f}" for group in row),
      )
      for row in zip(*columns, strict=True)
    ]
    header = (title, "number", *(result.name for result in results))
    parts.append(_table(header, rows))
  return "".join(parts)


def _by(
  group: Callable[[str, np.ndarray], list[analysis.Group]], result: Result
) -> list[analysis.Group]:
  return group(result.text[1:], result.scores["stream"].nats)


def _worst(first: Result) -> str:
  parts = [_note(f"100 characters each, by the loss of {first.name}.")]
  for start, mean in analysis.worst_passages(first.scores["stream"].nats):
    passage = html.escape(first.text[start + 1 : start + 101])
    parts.append(
      f"<p>{mean:.2f} nats per character, from character {start + 1:,}</p>"
      f"<pre>{passage}</pre>\n"
    )
  return "".join(parts)


def _coloured(first: Result) -> str:
  nats = first.scores["stream"].nats[:_MAX_COLOURED]
  shares = np.minimum(nats, _MOST_NATS) / _MOST_NATS
  levels = np.minimum(shares * _LEVELS, _LEVELS - 1).astype(int)
  chars = zip(first.text[1:], levels.tolist(), strict=False)
  spans = []
  for level, group in itertools.groupby(chars, key=lambda pair: pair[1]):
    text = html.escape("".join(char for char, _ in group))
    # From white to a red on which black text can still be read.
    lightness = 100 - 40 * level // (_LEVELS - 1)
    spans.append(
      f'<span style="background:hsl(10 90% {lightness}%)">{text}</span>'
    )
  return (
    _note(
      f"The first {len(nats):,} characters; the redder, the higher the loss "
      f"of {first.name}: from 0 to {_MOST_NATS:g} nats and more."
    )
    + f"<pre>{''.join(spans)}</pre>\n"
  )
