"""The rows of a report as CSV, LaTeX and Markdown, for papers."""

import csv
import io
import re
from collections.abc import Sequence
from typing import Any

from charlm.reporting.rows import table
from charlm.reporting.types import Group

_FORMATS = {"minutes": ".1f", "characters/s": ",.0f", "p": ".3f"}
# Without the words, which need more room than a column has.
_NOT_PRINTED = ("pairs", "verdict")
_LATEX = {c: f"\\{c}" for c in "&%$#_{}"} | {
  "\\": r"\textbackslash{}",
  "~": r"\textasciitilde{}",
  "^": r"\textasciicircum{}",
}


def cell_text(column: str, value: Any) -> str:
  """Returns a cell of `table` as people read it."""
  if value is None:
    return ""
  if isinstance(value, float):
    return f"{value:{_FORMATS.get(column, '.4f')}}"
  return f"{value:,}" if isinstance(value, int) else value


def to_csv(groups: Sequence[Group]) -> str:
  """Returns all rows with their numbers unrounded; `text` tells groups apart.

  The first columns are the same in all reports.
  """
  rows = [
    {"text": group["eval_sha256"][:8], "sorted by": group["sorted_by"], **row}
    for group in groups
    for row in table(group)
  ]
  file = io.StringIO()
  columns = list(dict.fromkeys(name for row in rows for name in row))
  writer = csv.DictWriter(file, columns or ["text"], lineterminator="\n")
  writer.writeheader()
  writer.writerows(rows)
  return file.getvalue()


def to_latex(groups: Sequence[Group]) -> str:
  """Returns a `tabular` environment for each text."""
  return "".join(map(_latex, groups))


def _latex(group: Group) -> str:
  columns, rows = _printed(group)
  lines = [
    " & ".join(re.sub(r"[\\&%$#_{}~^]", lambda m: _LATEX[m[0]], x) for x in row)
    + r" \\"
    for row in (columns, *rows)
  ]
  named = len(group["rows"][0]["settings"]) if rows else 0
  align = "l" * named + "r" * (len(columns) - named)
  return "\n".join(
    [
      f"% charlm report: {group['summary']}",
      rf"\begin{{tabular}}{{{align}}}",
      r"\hline",
      lines[0],
      r"\hline",
      *lines[1:],
      r"\hline",
      r"\end{tabular}",
      "",
    ]
  )


def to_markdown(groups: Sequence[Group]) -> str:
  """Returns a table for each text."""
  return "\n".join(map(_markdown, groups))


def _markdown(group: Group) -> str:
  columns, rows = _printed(group)
  rule = ["---"] * len(columns)
  escaped = [[x.replace("|", r"\|") for x in row] for row in (columns, *rows)]
  lines = ["| " + " | ".join(row) + " |" for row in escaped]
  lines.insert(1, f"|{'|'.join(rule)}|")
  return "\n".join(["<!-- charlm report -->", *lines, ""])


def _printed(group: Group) -> tuple[list[str], list[list[str]]]:
  """Returns the header and the rows that have room on paper."""
  rows = table(group)
  columns = [
    name
    for name in (rows[0] if rows else ())
    if name not in _NOT_PRINTED and any(row[name] is not None for row in rows)
  ]
  return columns, [[cell_text(n, row[n]) for n in columns] for row in rows]
