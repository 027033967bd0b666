"""Formats the results as Markdown tables."""

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks import machine
from benchmarks.contestants import scaling, scaling_curves
from benchmarks.task import Sizes

_MIB = 2**20


def to_markdown(results: dict[str, Any]) -> str:
  """Returns all tables, then a list of missing measurements."""
  parts = [machine.in_words(results["machine"])]
  for name, group in results["groups"].items():
    describe = _training if name == "training" else _rates
    parts.append(f"### {group['title']}\n\n{describe(group)}")
  if scaling := results.get("scaling"):
    parts.append(f"### Scaling\n\n{_scaling(scaling)}")
  if missing := _missing(results):
    parts.append("### Not measured\n\n" + "\n".join(missing))
  return "\n\n".join(parts) + "\n"


def _training(group: dict[str, Any]) -> str:
  sizes, contestants = Sizes(**group["sizes"]), group["contestants"]
  rows = [
    (
      entry["label"],
      f"{entry['seconds'] * 1000:.1f}",
      f"{group['characters'] / entry['seconds']:,.0f}",
      _times(entry),
      f"{entry['peak_bytes'] / _MIB:,.0f}",
    )
    for entry in contestants.values()
    if "error" not in entry
  ]
  header = ("", "ms", "characters/s", "speed-up", "peak MiB")
  text = (
    f"Batch {sizes.batch_size} x {sizes.seq_length}, embedding "
    f"{sizes.embedding_dim}, {sizes.rnn_units} units, vocabulary "
    f"{sizes.vocab_size}, Adam."
  )
  return f"{text}\n\n{table(header, rows)}"


def _rates(group: dict[str, Any]) -> str:
  rows = [
    (
      entry["label"],
      f"{group['characters'] / entry['seconds']:,.0f}",
      _times(entry),
      f"{entry['peak_bytes'] / _MIB:,.0f}",
    )
    for entry in group["contestants"].values()
    if "error" not in entry
  ]
  return table(("", "characters/s", "speed-up", "peak MiB"), rows)


def _scaling(points: list[dict[str, Any]]) -> str:
  measured = {Sizes(**p["sizes"]): p["contestants"] for p in points}
  base = Sizes(points[0]["sizes"]["vocab_size"])
  labels = {c.name: c.label for c in scaling(base).contestants}
  tables = [
    "Step in ms, peak memory in MiB; then the time of the fastest other one, "
    "and charlm's memory, both as a ratio: to charlm's time, and to `fit`'s "
    "memory."
  ]
  for factor, curve in scaling_curves(base).items():
    rows = [
      (
        str(getattr(sizes, factor)),
        *(_cell(measured.get(sizes, {}).get(name)) for name in labels),
        *_ratios(measured.get(sizes, {})),
      )
      for sizes in curve
    ]
    header = (factor, *labels.values(), "fastest / charlm", "charlm / fit")
    tables.append(table(header, rows))
  return "\n\n".join(tables)


def _ratios(entries: dict[str, Any]) -> tuple[str, str]:
  """Returns the fastest other's time and charlm's memory, as ratios."""
  valid = {k: entry for k, entry in entries.items() if "error" not in entry}
  ours, fit = valid.pop("charlm", None), valid.get("keras")
  if not ours or not valid:
    return "-", "-"
  # Within each round, so that the machine's drift cancels.
  ratios = [
    statistics.median(
      theirs / mine
      for theirs, mine in zip(
        entry["seconds_of_rounds"], ours["seconds_of_rounds"], strict=True
      )
    )
    for entry in valid.values()
  ]
  memory = f"{ours['peak_bytes'] / fit['peak_bytes']:.2f}" if fit else "-"
  return f"{min(ratios):.2f}", memory


def _cell(entry: dict[str, Any] | None) -> str:
  if entry is None or "error" in entry:
    return "-"
  ms, mib = entry["seconds"] * 1000, entry["peak_bytes"] / _MIB
  return f"{ms:.{0 if ms >= 100 else 1}f}, {mib:,.0f}"


def _missing(results: dict[str, Any]) -> list[str]:
  groups = [*results["groups"].values(), *results.get("scaling", ())]
  lines = [
    f"- {group['title']}: {entry['label']}: {entry['error']}"
    for group in groups
    for entry in group["contestants"].values()
    if "error" in entry
  ]
  return lines + [f"- {text}" for text in results["skipped"]]


def _times(entry: dict[str, Any]) -> str:
  return f"{entry['speedup']:.2f}" if "speedup" in entry else ""


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
  """Returns a Markdown table; all columns but the first are right-aligned."""
  lines = [header, ("---", *["---:"] * (len(header) - 1)), *rows]
  return "\n".join(f"| {' | '.join(line)} |" for line in lines)
