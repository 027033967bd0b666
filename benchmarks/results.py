"""Writes the records of `benchmarks.trials` as tables into results/README.md.

.venv/bin/python -m benchmarks.results
"""

import sys

from benchmarks.trials import ROOT, Table, to_markdown
from charlm.system.files import write_atomically

_FOLDER = ROOT / "results"


def main() -> int:
  """Replaces each table between its marks; returns the exit code."""
  tables = {x.stem: Table.read(x) for x in sorted(_FOLDER.glob("*.toml"))}
  page = _FOLDER / "README.md"
  text = page.read_text()
  for name, table in tables.items():
    text = _put(text, name, to_markdown(table))
  text = _put(text, "machines", _machines(tables))
  write_atomically(page, [text.encode()])
  return 0


def _put(page: str, name: str, text: str) -> str:
  """Replaces the text between a table's marks; returns the page."""
  before, rest = page.split(f"<!-- {name} -->\n")
  old, after = rest.split("<!-- end -->\n", 1)
  if "<!--" in old:
    raise ValueError(f"the table {name} has no mark of its end")
  return f"{before}<!-- {name} -->\n\n{text}\n\n<!-- end -->\n{after}"


def _machines(tables: dict[str, Table]) -> str:
  """Lists the machines, each with the tables it has records in."""
  names: dict[str, list[str]] = {}
  for name, table in tables.items():
    for record in table.records():
      if "machine" in record:
        names.setdefault(record["machine"], []).append(f"`{name}`")
  return "\n".join(
    f"- {machine}: {', '.join(dict.fromkeys(measured))}"
    for machine, measured in names.items()
  )


if __name__ == "__main__":
  sys.exit(main())
