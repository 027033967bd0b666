"""What the benchmark's tables say of measurements."""

import dataclasses
from typing import Any

import pytest

from benchmarks import machine
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
