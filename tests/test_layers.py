"""Rules for imports that span several files."""

import ast
import pathlib
import subprocess
import sys

import pytest
from helpers import ROOT

# Components of the package. Each imports only from earlier rows.
ROWS = [
  {"errors"},
  {"options"},
  {"config"},
  {"system"},
  {"data", "model"},
  {"evaluation", "sampling", "runs"},
  {"training", "export", "loaded", "reporting"},
]
MODULES = sorted((ROOT / "charlm").rglob("*.py"))


def _component(path: str) -> str:
  """Returns `name` for `charlm/name/module.py` or `charlm/name.py`."""
  return path.split("/")[1].removesuffix(".py")


def _imports(path: pathlib.Path) -> set[str]:
  imported = set()
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      imported |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      assert not node.level, "relative imports hide what is imported"
      imported |= {f"{node.module}.{alias.name}" for alias in node.names}
  return imported


@pytest.mark.parametrize(
  "path", MODULES, ids=lambda path: str(path.relative_to(ROOT))
)
def test_a_component_imports_only_from_earlier_rows(
  path: pathlib.Path,
) -> None:
  component = _component(str(path.relative_to(ROOT)))
  imported = _imports(path)
  outside = {"train", "eval", "sample", "report", "export"}
  outside |= {"tests", "benchmarks"}
  assert not {name.split(".")[0] for name in imported} & outside
  absl = any(name.startswith("absl") for name in imported)
  assert absl == (path.name == "flags.py")
  if component == "__init__":
    return
  row = next(i for i, components in enumerate(ROWS) if component in components)
  allowed = {component}.union(*ROWS[:row])
  ours = {name.replace(".", "/") for name in imported}
  ours = {_component(name) for name in ours if name.startswith("charlm/")}
  assert ours <= allowed


def test_the_trainer_imports_neither_file_access_nor_evaluation() -> None:
  imported = _imports(ROOT / "charlm" / "training" / "trainer.py")
  components = {name.split(".")[1] for name in imported if "charlm." in name}
  assert not components & {"evaluation", "runs"}
  modules = {name.split(".")[0] for name in imported}
  assert not modules & {"os", "pathlib", "io", "shutil", "tempfile"}


def test_programs_and_plain_names_do_not_import_tensorflow() -> None:
  code = (
    "import sys, train, eval, sample, report, export, charlm\n"
    "charlm.Config, charlm.load_lines\n"
    "slow = {'tensorflow', 'keras'} & set(sys.modules)\n"
    "sys.exit(f'imported: {slow}' if slow else 0)"
  )
  subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
