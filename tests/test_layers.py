"""The rules of the house that a reader of one file cannot see."""

import ast
import io
import pathlib
import subprocess
import sys
import tokenize

import pytest
from conftest import ROOT

# Each module may import those of the rows above its own.
ROWS = [
  ["config", "files", "machine"],
  ["command", "vocabulary"],
  ["corpus", "dataset", "devices", "gru", "progress", "threefry"],
  ["model", "optimizer", "provenance"],
  ["imported"],
  ["training", "evaluation", "sampling", "run_dir"],
  ["checkpoints", "metrics", "dynamic", "linewise", "exported"],
  ["session", "reporting/analysis", "reporting/ngram"],
  ["reporting/page"],
]
MODULES = [name for row in ROWS for name in row]


def _imports(path: str) -> set[str]:
  imported = set()
  for node in ast.walk(ast.parse((ROOT / path).read_text())):
    if isinstance(node, ast.Import):
      imported |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      assert not node.level, "relative imports hide what is imported"
      imported |= {f"{node.module}.{alias.name}" for alias in node.names}
  return imported


def test_every_module_has_its_row() -> None:
  folder = ROOT / "charlm"
  files = {str(p.relative_to(folder)) for p in folder.rglob("*.py")}
  inits = {"__init__.py", "reporting/__init__.py"}
  assert files == {f"{name}.py" for name in MODULES} | inits


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_bottom_up(module: str) -> None:
  row = next(i for i, names in enumerate(ROWS) if module in names)
  below = {name for names in ROWS[:row] for name in names}
  imported = _imports(f"charlm/{module}.py")
  ours = {
    # `from charlm.reporting import analysis`, or a name of a module
    next(m for m in MODULES if f"{name}/".startswith(f"charlm/{m}/"))
    for name in (name.replace(".", "/") for name in imported)
    if name.startswith("charlm/")
  }
  assert ours <= below
  assert not any(name.startswith("absl") for name in imported)
  assert not any(
    name.split(".")[0] in ("train", "eval", "sample", "report", "export")
    for name in imported
  )


def test_what_checks_the_flags_imports_no_tensorflow() -> None:
  code = (
    "import sys, train, eval, sample, report, export\n"
    "slow = {'tensorflow', 'keras'} & set(sys.modules)\n"
    "sys.exit(f'imported: {slow}' if slow else 0)"
  )
  subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_no_function_is_over_60_lines() -> None:
  folders = [ROOT / name for name in ("charlm", "tests", "benchmarks")]
  paths = [*ROOT.glob("*.py"), *(p for f in folders for p in f.rglob("*.py"))]
  for path in paths:
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.FunctionDef):
        assert node.end_lineno - node.lineno < 60, f"{path}: {node.name}"


def _lines_of_code(path: pathlib.Path) -> int:
  """Counts the lines that hold more than a docstring or a comment."""
  text = path.read_text()
  words = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.ENDMARKER}
  words |= {tokenize.INDENT, tokenize.DEDENT}
  lines: set[int] = set()
  for token in tokenize.generate_tokens(io.StringIO(text).readline):
    if token.type not in words:
      lines |= {*range(token.start[0], token.end[0] + 1)}
  for node in ast.walk(ast.parse(text)):
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (
      ast.get_docstring(node)
    ):
      lines -= {*range(node.body[0].lineno, node.body[0].end_lineno + 1)}
  return len(lines)


def test_the_package_is_read_in_an_afternoon() -> None:
  # What trains, scores and samples; `reporting` only looks at finished runs.
  files = (ROOT / "charlm").glob("*.py")
  assert sum(map(_lines_of_code, files)) < 3100
