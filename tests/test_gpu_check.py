"""The check of GPU machines, on a CPU: its parts, and what it keeps."""

import json
import pathlib
import sys

import pytest

from benchmarks import gpu_check


def _found(folder: pathlib.Path, *flags: str) -> dict:
  output = f"--output={folder / 'page'}"
  flags = ("--toy", "--device=cpu", output, *flags)
  assert gpu_check.main(["gpu_check", *flags]) == 0
  return json.loads((folder / "page.json").read_text())["parts"]


@pytest.mark.release
def test_each_part_runs_on_a_cpu(tmp_path: pathlib.Path) -> None:
  parts = _found(tmp_path)
  assert [part["problem"] for part in parts.values()] == [""] * len(parts)
  assert all(part["rows"] for part in parts.values())
  rows = {name: value for name, value, _ in parts["resume"]["rows"]}
  assert rows["last loss, killed"] == rows["last loss, whole"]
  differences = [x for name, x, _ in parts["values"]["rows"] if "diff" in name]
  assert max(differences) < 1e-5


def test_a_part_that_hangs_or_crashes_loses_nothing(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  ends = {
    "devices": "time.sleep(60)",
    "values": "sys.exit('the first line\\n' + 9_000 * 'x' + 'no kernel')",
    "steps": "os.abort()",
    "cards": "pass",
  }

  def command_of(part: str, told: str) -> list[str]:
    row = f'print(\'["found", 7.0, "ms"]\', flush=True); {ends[part]}'
    return [sys.executable, "-c", f"import os, sys, time; {row}"]

  monkeypatch.setattr(gpu_check, "command_of", command_of)
  monkeypatch.setitem(gpu_check._PARTS, "devices", (gpu_check.devices, 1))
  parts = _found(tmp_path, f"--only={','.join(ends)}")
  assert [part["rows"] for part in parts.values()] == [
    [["found", 7.0, "ms"]]
  ] * 4
  problems = ["took more than 1 s", "exit code 1", "exit code -6", ""]
  assert [part["problem"] for part in parts.values()] == problems
  # The page has the end of a log, the JSON all of it.
  assert parts["values"]["log"].startswith("the first line")
  page = (tmp_path / "page.md").read_text()
  assert "xno kernel\n```" in page
  assert "the first line" not in page
