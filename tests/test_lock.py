"""make installs the locked CUDA libraries if there is a driver."""

import os
import pathlib
import platform
import subprocess
import sys

import pytest
from helpers import ROOT


@pytest.mark.skipif(
  (sys.platform, platform.machine()) != ("linux", "x86_64"),
  reason="TensorFlow has no GPU code for this platform",
)
@pytest.mark.parametrize("target", ["train", "bench"])
def test_make_installs_a_changed_cuda_lock_if_there_is_a_driver(
  target: str, tmp_path: pathlib.Path
) -> None:
  (tmp_path / "nvidia-smi").touch(mode=0o755)
  env = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
  command = ["make", "-n", "-C", ROOT, "-W", "requirements-cuda.lock", target]
  for setting, installs in (("", True), ("CUDA=0", False)):
    plan = subprocess.run(
      [*command, *setting.split()],
      env=env,
      capture_output=True,
      text=True,
      check=True,
    ).stdout
    assert ("--requirement requirements-cuda.lock" in plan) == installs
    assert ("4.2 GB (CUDA=0 leaves" in plan) == installs
