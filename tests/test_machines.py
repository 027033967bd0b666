"""The scripts in docs/machines.md."""

import os
import pathlib
import re
import subprocess

import pytest
from helpers import ROOT

from charlm.training.workers import find_workers

_TEXT = (ROOT / "docs" / "machines.md").read_text()


def _blocks(language: str) -> list[str]:
  return re.findall(rf"^```{language}\n(.*?)^```", _TEXT, re.M | re.DOTALL)


def test_the_example_tf_config_names_two_hosts(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  (line,) = re.findall(r"TF_CONFIG='([^']*\"host1[^']*)'", _TEXT)
  monkeypatch.setenv("TF_CONFIG", line)
  assert find_workers() == (["host0:12345", "host1:12345"], 0)


@pytest.mark.parametrize(
  ("exit_code", "restarts", "requeued"),
  [
    (0, 0, False),
    (2, 19, False),
    (3, 19, False),
    (4, 19, True),
    (137, 19, True),
    (143, 19, True),
    (4, 20, False),
  ],
)
def test_the_slurm_job_is_requeued_after_a_stop_or_a_lost_worker(
  exit_code: int, restarts: int, requeued: bool, tmp_path: pathlib.Path
) -> None:
  (script,) = (block for block in _blocks("sh") if "SBATCH" in block)
  for name, code in (("srun", exit_code), ("scontrol", 0)):
    path = tmp_path / name
    path.write_text(
      f"#!/bin/sh\necho {name} $@ >>{tmp_path}/log\nexit {code}\n"
    )
    path.chmod(0o755)
  env = {
    "PATH": f"{tmp_path}:{os.environ['PATH']}",
    "SLURM_JOB_ID": "17",
    "SLURM_RESTART_COUNT": str(restarts),
  }
  result = subprocess.run(["bash", "-eu", "-c", script], env=env)
  assert result.returncode == exit_code
  log = (tmp_path / "log").read_text()
  assert log.startswith("srun .venv/bin/python train.py --device=gpu")
  assert ("scontrol requeue 17" in log) == requeued
