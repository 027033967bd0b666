"""What the benchmark's tables say of measurements."""

import dataclasses
from typing import Any

import pytest

from benchmarks import machine
from benchmarks.contestants import BOUND
from benchmarks.tables import to_markdown
from benchmarks.task import Sizes

_SIZES = dataclasses.asdict(Sizes(82))


def _entry(label: str, *seconds: float, mib: int = 1) -> dict[str, Any]:
  return {
    "label": label,
    "seconds": sorted(seconds)[len(seconds) // 2],
    "seconds_of_rounds": seconds,
    "peak_bytes": mib * 2**20,
  }


def _cells(markdown: str, label: str) -> list[str]:
  (line,) = (x for x in markdown.splitlines() if x.startswith(f"| {label} |"))
  return [cell.strip() for cell in line.split("|")[2:-1]]


def test_shares_of_the_bounds() -> None:
  contestants = {"charlm": _entry("ours", 0.2), BOUND: _entry("products", 0.1)}
  group = {"title": "a", "characters": 100, "contestants": contestants}
  # 1.6 GFLOP of the look-up are 5 % of the 32.0 of a step.
  training = {"sizes": _SIZES}
  results = {"machine": machine.describe(), "skipped": []}
  text = to_markdown(results | {"groups": {"training": group | training}})
  # Milliseconds, characters a second, no speed-up, both shares, MiB.
  assert _cells(text, "ours") == ["200.0", "500", "", "50%", "53%", "1"]
  # The bound's memory is no contestant's.
  assert _cells(text, "products") == ["100.0", "1,000", "", "100%", "105%", ""]
  text = to_markdown(results | {"groups": {"sampling_64": group}})
  assert _cells(text, "ours") == ["500", "", "50%", "1"]
  del contestants[BOUND]
  text = to_markdown(results | {"groups": {"evaluation": group}})
  assert _cells(text, "ours") == ["500", "", "1"]


@pytest.mark.parametrize("with_fit", [True, False])
def test_ratios_to_the_fastest_other(with_fit: bool) -> None:
  entries = {
    "charlm": _entry("ours", 1, 2, 4, mib=3),
    "keras": _entry("fit", 3, 4, 8, mib=4),
    "jax": _entry("jax", 1.5, 3, 40),
    "pytorch": {"label": "pytorch", "error": "no memory"},
  }
  if not with_fit:
    entries["keras"] = {"label": "fit", "error": "no memory"}
  point = {"title": "a", "sizes": _SIZES, "contestants": entries}
  results = {"machine": machine.describe(), "groups": {}, "skipped": []}
  text = to_markdown(results | {"scaling": [point]})
  # The table of the windows; the others have no such row.
  (line,) = (x for x in text.splitlines() if x.startswith("| 64 |"))
  cells = [cell.strip() for cell in line.split("|")[1:-1]]
  # Within the rounds jax takes 1.5, 1.5 and 10 times as long.
  assert cells[-2:] == ["1.50", "0.75" if with_fit else "-"]
