"""docs/sweeps.md goes from an empty folder to the page of a sweep."""

import json
import pathlib
import subprocess
import sys

import pytest
import tensorflow as tf
from helpers import ROOT, metrics, sweep_commands

import report as report_program


def test_the_sweep_ends_in_a_page_without_tensorflow(
  sweep: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  trainings = [x for x in sweep_commands() if x[0] == "train.py"]
  assert len(trainings) == len(list((sweep / "runs" / "rates").iterdir())) == 12
  reports = [x for x in sweep_commands() if x[0] == "report.py"]
  page, _, markdown = reports
  code = (
    "import sys, report; code = report.main(sys.argv[1:])\n"
    "sys.exit(code or 9 * ('tensorflow' in sys.modules))"
  )
  for command in (page, markdown):
    words = [x.replace("rates.html", f"{tmp_path}/a.html") for x in command]
    printed = subprocess.check_output(
      [sys.executable, "-c", code, *words],
      cwd=sweep,
      env={"PYTHONPATH": str(ROOT)},
      text=True,
    )
  # The two formats have the same rows.
  text = (tmp_path / "a.html").read_text()
  assert len(text) < 100_000
  header, _, *rows = printed.splitlines()[1:]
  assert header.startswith("| learning_rate | seeds | valid loss | spread |")
  assert len(rows) == 4
  losses = [row.split(" | ")[2] for row in rows]
  assert losses == sorted(losses)
  for row in rows:
    rate, seeds, loss, *_ = row.strip("| ").split(" | ")
    cells = "".join(f"<td>{x}</td>" for x in (rate, seeds, loss))
    assert seeds == "3"
    assert cells in text


def test_the_report_and_tensorboard_agree(
  sweep: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
  runs = sweep / "runs" / "rates"
  assert report_program.main(["report.py", str(runs), "--format=json"]) == 0
  (group,) = json.loads(capsys.readouterr().out)["groups"]
  assert group["sorted_by"] == "valid"
  assert len(group["runs"]) == 12
  for run in group["runs"]:
    folder = runs / run["name"]
    tags, shown = {}, {}
    for file in (folder / "summaries" / "valid").glob("events.*"):
      for event in tf.compat.v1.train.summary_iterator(str(file)):
        for value in event.summary.value:
          plugin = value.metadata.plugin_data
          if plugin.plugin_name == "hparams":
            shown[value.tag] = plugin.content
          elif value.tag == "best_loss":
            tags[event.step] = float(tf.make_ndarray(value.tensor))
    assert shown  # the page HParams has this run
    assert tags[max(tags)] == pytest.approx(run["valid_loss"], rel=1e-6)
    (last,) = metrics(folder, "eval")
    assert run["eval_loss"] == last["loss"]
  for row in group["rows"]:
    losses = [
      run["valid_loss"] for run in group["runs"] if run["name"] in row["runs"]
    ]
    assert row["loss"] == pytest.approx(sum(losses) / 3)
    assert (row["best"], len(row["runs"])) == (min(losses), 3)
