"""Writes the tables of results/README.md: what `benchmarks.trials` measured.

.venv/bin/python -m benchmarks.results
"""

import sys

from benchmarks.trials import ROOT, Table, to_markdown

_FOLDER = ROOT / "results"


def main() -> int:
  """Writes each table between its marks; returns the exit code."""
  tables = {x.stem: Table.read(x) for x in sorted(_FOLDER.glob("*.toml"))}
  page = _FOLDER / "README.md"
  text = page.read_text()
  for name, table in tables.items():
    text = _put(text, name, to_markdown(table))
  page.write_text(_put(text, "machines", _machines(tables)))
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


if __name__ == "__main__":
  sys.exit(main())
