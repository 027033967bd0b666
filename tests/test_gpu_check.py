"""The check of GPU machines, on a CPU."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
from helpers import ROOT

from benchmarks import gpu_check


@pytest.mark.release
def test_each_part_runs_on_a_cpu(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.chdir(tmp_path)
  assert gpu_check.main(["gpu_check", "--device=cpu"]) == 0
  parts = json.loads(pathlib.Path("gpu-check.json").read_text())["parts"]
  assert [part["problem"] for part in parts.values()] == [""] * len(parts)
  rows = dict(parts["resume"]["rows"])
  assert rows["exit code of the kill"] == -signal.SIGKILL
  assert rows["their difference"] == 0
  differences = [x for name, x in parts["values"]["rows"] if "diff" in name]
  assert max(differences) < 1e-5


@pytest.mark.release
def test_ctrl_c_keeps_the_measurements(tmp_path: pathlib.Path) -> None:
  command = [sys.executable, "-m", "benchmarks.gpu_check", "--device=cpu"]
  for only, code in (("hardware", 0), ("values,hardware", 130)):
    with subprocess.Popen(
      [*command, f"--only={only}"],
      cwd=tmp_path,
      env=os.environ | {"PYTHONPATH": str(ROOT)},
      stderr=subprocess.PIPE,
      text=True,
    ) as process:
      assert process.stderr
      if "values" in process.stderr.readline():
        time.sleep(1)  # until the part's process has started
        process.send_signal(signal.SIGINT)
      process.stderr.read()
    assert process.returncode == code
  parts = json.loads((tmp_path / "gpu-check.json").read_text())["parts"]
  problems = {name: part["problem"] for name, part in parts.items()}
  assert problems == {"hardware": "", "values": "interrupted"}


@pytest.mark.parametrize(
  ("end", "problem"),
  [
    ("time.sleep(60)", "took more than 1 s"),
    (
      "sys.exit('the first line\\n' + 9_000 * 'x' + 'no kernel')",
      "exit code 1",
    ),
    ("os.abort()", "exit code -6"),
    ("sys.stdout.buffer.write(b'caf\\xe9')", ""),
  ],
)
def test_a_part_that_hangs_or_crashes_keeps_its_rows_and_log(
  end: str, problem: str
) -> None:
  row = "print('[\"ms a step\", [7.0, 8.0]]', flush=True)"
  code = f"import os, sys, time; {row}; {end}"
  part = gpu_check.run_part([sys.executable, "-c", code], 1)
  assert part["rows"] == [["ms a step", [7.0, 8.0]]]
  assert part["problem"] == problem
  page = gpu_check.to_markdown({"steps": part})
  assert "| ms a step | 7, 8 |" in page
  if part["log"]:  # whole in the JSON; only its end is on the page
    assert part["log"].startswith("the first line")
    assert "xno kernel\n```" in page
    assert "the first line" not in page
