"""The notebook's cells run, without Jupyter."""

import json
import pathlib
import shutil
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import pytest
from helpers import ROOT

NOTEBOOK = json.loads((ROOT / "docs" / "load.ipynb").read_text())

# Has characters that the small run does not know.
QUESTION = "To be, or not to be: that is the question"


@pytest.mark.usefixtures("quick_evaluations")
def test_its_cells_run_one_after_the_other(
  trained_run: pathlib.Path,
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture[str],
) -> None:
  shutil.copytree(trained_run, tmp_path / "runs" / "shakespeare")
  (tmp_path / "docs").mkdir()
  monkeypatch.chdir(tmp_path / "docs")
  matplotlib.use("agg")
  figures = []
  monkeypatch.setattr(plt, "show", lambda: figures.append(plt.gcf()))
  names: dict[str, Any] = {}
  for i, cell in enumerate(NOTEBOOK["cells"]):
    if cell["cell_type"] == "code":
      code = "".join(cell["source"]).replace(QUESTION, "the king of night")
      exec(compile(code, f"cell {i}", "exec"), names)
  plt.close("all")
  assert len(figures) == 2
  assert "ROMEO " in capsys.readouterr().out
  assert len(names["scores"]) == 3
