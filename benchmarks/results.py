"""Writes the tables of results/README.md: what `benchmarks.trials` measured.

.venv/bin/python -m benchmarks.results
"""

import pathlib
import sys

from charlm.system.process import import_quietly

import_quietly("tensorflow", "keras")
from matplotlib.figure import Figure

from benchmarks.trials import ROOT, Table, to_markdown

_FOLDER = ROOT / "results"
_SIZES = {"k": 1e3, "M": 1e6}


def main() -> int:
  """Writes the tables and the picture; returns the exit code."""
  tables = {x.stem: Table.read(x) for x in sorted(_FOLDER.glob("*.toml"))}
  page = _FOLDER / "README.md"
  text = page.read_text()
  for name, table in tables.items():
    text = _put(text, name, to_markdown(table))
  text = _put(text, "machines", _machines(tables))
  page.write_text(text)
  _plot_sizes([tables["auto"], tables["large"]], _FOLDER / "sizes.svg")
  return 0


def _put(page: str, name: str, text: str) -> str:
  """Returns the page with a new text between two marks."""
  before, rest = page.split(f"<!-- {name} -->\n")
  _, after = rest.split("<!-- end -->\n", 1)
  return f"{before}<!-- {name} -->\n\n{text}\n\n<!-- end -->\n{after}"


def _machines(tables: dict[str, Table]) -> str:
  """Returns a line for each machine, with the tables that it measured."""
  names: dict[str, list[str]] = {}
  for name, table in tables.items():
    for record in table.records():
      if "machine" in record:
        names.setdefault(record["machine"], []).append(f"`{name}`")
  return "\n".join(
    f"- {machine}: {', '.join(dict.fromkeys(found))}"
    for machine, found in names.items()
  )


def _plot_sizes(tables: list[Table], path: pathlib.Path) -> None:
  """Draws each text's losses over its size, as differences to n-grams.

  The sizes of a text have different eval texts, so the losses themselves cannot
  be compared.
  """
  losses: dict[tuple[str, str], list[float]] = {}
  for record in [record for table in tables for record in table.records()]:
    name = "n-grams" if "Kneser" in record["setting"] else record["setting"]
    if record.get("scores"):
      key = (record["text"], name)
      losses.setdefault(key, []).append(record["scores"]["stream"])
  means = {key: sum(found) / len(found) for key, found in losses.items()}
  figure = Figure(figsize=(9, 5), layout="constrained")
  axes = figure.subplots()
  kinds = dict.fromkeys(text.partition("-")[0] for text, _ in means)
  for i, kind in enumerate(kinds):
    for setting, style in {"auto": "o-", "english": "x--"}.items():
      points = [
        (_size(text), loss - means[text, "n-grams"])
        for (text, name), loss in means.items()
        if name == setting
        and text.startswith(f"{kind}-")
        and (text, "n-grams") in means
      ]
      label = kind if setting == "auto" else None
      axes.plot(
        [size for size, _ in points],
        [difference for _, difference in points],
        style,
        color=f"C{i}",
        label=label,
      )
  axes.axhline(0, color="gray", linewidth=1)
  axes.set_xscale("log")
  axes.set_xlabel("characters of the train text")
  axes.set_ylabel("nats per character above the best n-grams")
  axes.set_title("from random weights: solid; from English: dashed")
  axes.legend()
  figure.savefig(path)


def _size(text: str) -> float:
  """Returns the characters that a text's name tells."""
  size = text.rpartition("-")[2]
  return float(size[:-1]) * _SIZES[size[-1]]


if __name__ == "__main__":
  sys.exit(main())
