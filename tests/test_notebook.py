"""The notebooks, run without Jupyter."""

import json
import pathlib
import shutil
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import pytest
from helpers import ROOT

# Contains characters that the small run does not know.
QUESTION = "To be, or not to be: that is the question"


def run_cells(notebook: str, replaced: dict[str, str]) -> dict[str, Any]:
  """Runs a notebook of docs/ in the current folder; returns its variables.

  `replaced` maps strings in its code to replacements.
  """
  cells = json.loads((ROOT / "docs" / notebook).read_text())["cells"]
  variables: dict[str, Any] = {}
  for i, cell in enumerate(cells):
    if cell["cell_type"] == "code":
      assert cell["execution_count"], "no outputs are stored"
      code = "".join(cell["source"])
      for old, new in replaced.items():
        code = code.replace(old, new)
      exec(compile(code, f"cell {i}", "exec"), variables)
  return variables


@pytest.mark.usefixtures("quick_evaluations")
def test_the_notebook_on_loaded_models_runs(
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
  variables = run_cells("load.ipynb", {QUESTION: "the king of night"})
  plt.close("all")
  assert len(figures) == 3
  assert "ROMEO " in capsys.readouterr().out
  assert len(variables["scores"]) == 3


def test_the_notebook_for_the_course_runs(
  corpus_path: pathlib.Path,
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture[str],
) -> None:
  monkeypatch.chdir(tmp_path)
  replaced = {
    '"shakespeare"': repr(str(corpus_path)),
    "ROMEO ": "the king ",
    "1000": "9",
    "batch_size=64": "batch_size=2",
    "take(100)": "take(3)",
    "embedding_dim=256, rnn_units=512": "embedding_dim=4, rnn_units=8",
  }
  variables = run_cells("from-the-notebook.ipynb", replaced)
  assert variables["inputs"].shape == (2, 100)
  (loss,) = variables["history"].history["loss"]
  assert 0 < loss < 10
  for mine, copied in zip(
    variables["model"].get_weights(),
    variables["copy"].get_weights(),
    strict=True,
  ):
    assert (mine == copied).all()
  assert "the king " in capsys.readouterr().out
