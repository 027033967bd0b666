"""The scripts and manifests of docs/machines.md."""

import json
import os
import pathlib
import re
import subprocess

import kubernetes_validate
import pytest
import yaml
from helpers import ROOT

from charlm.system.cluster_config import read_config

_TEXT = (ROOT / "docs" / "machines.md").read_text()


def _blocks(language: str) -> list[str]:
  return re.findall(rf"^```{language}\n(.*?)^```", _TEXT, re.M | re.DOTALL)


def test_the_manifest_fits_the_schemas_of_kubernetes() -> None:
  (text,) = _blocks("yaml")
  service, job = yaml.safe_load_all(text)
  for resource in (service, job):
    version = kubernetes_validate.latest_version()
    kubernetes_validate.validate(resource, version, strict=True)
  # What makes the pods' names those in TF_CONFIG.
  name = job["metadata"]["name"]
  assert service["spec"]["selector"] == {"job-name": name}
  assert job["spec"]["template"]["spec"]["subdomain"] == name


@pytest.mark.parametrize("index", ["0", "1"])
def test_the_manifest_gives_each_pod_its_place(index: str) -> None:
  (text,) = _blocks("yaml")
  _, job = yaml.safe_load_all(text)
  (container,) = job["spec"]["template"]["spec"]["containers"]
  script = container["args"][0].partition("exec ")[0]
  command = [*container["command"], f'{script}printf %s "$TF_CONFIG"']
  env = {"JOB_COMPLETION_INDEX": index}
  config = subprocess.run(command, env=env, capture_output=True, check=True)
  addresses = ["charlm-0.charlm:12345", "charlm-1.charlm:12345"]
  found = read_config(config.stdout.decode())
  assert found == (addresses, int(index))
  assert job["spec"]["completions"] == len(addresses)


def test_the_config_by_hand_names_two_hosts() -> None:
  (line,) = re.findall(r"TF_CONFIG='([^']*\"host1[^']*)'", _TEXT)
  assert read_config(line) == (["host0:12345", "host1:12345"], 0)
  assert json.loads(line)["task"]["type"] == "worker"


@pytest.mark.parametrize(
  ("exit_code", "restarts", "requeued"),
  [(code, 0, False) for code in (0, 2, 3)]
  + [(code, 19, True) for code in (1, 4, 137, 138, 143)]
  + [(4, 20, False)],
)
def test_the_job_goes_on_after_a_stop_and_a_loss(
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
