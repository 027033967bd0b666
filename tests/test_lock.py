"""The locks pin, by hashes, all that `make train` and `make test` install."""

import configparser
import importlib.metadata
import os
import pathlib
import platform
import re
import subprocess
import sys
import tomllib

import pytest
from helpers import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

# A requirement, and below it a line for the hash of each of its files.
_PIN = re.compile(r"^([a-z].*?)((?: \\\n +--hash=\S+)*)$", re.MULTILINE)


def _pins(text: str) -> dict[str, tuple[Requirement, list[str]]]:
  """Returns the requirement and the hashes of each package, by its name."""
  found = {}
  for line, hashes in _PIN.findall(text):
    pin = Requirement(line)
    found[canonicalize_name(pin.name)] = (pin, hashes.split("--hash=")[1:])
  return found


NAMES = ("requirements.lock", "requirements-cuda.lock")
TEXTS = {name: (ROOT / name).read_text() for name in NAMES}
PINS, CUDA_PINS = (_pins(text) for text in TEXTS.values())


def _ranges() -> list[Requirement]:
  """Returns what charlm and its tests need, and what builds charlm."""
  setup = configparser.ConfigParser()
  setup.read(ROOT / "setup.cfg")
  lines = setup["options"]["install_requires"].split("\n")
  lines += setup["options.extras_require"]["test"].split("\n")
  project = tomllib.loads((ROOT / "pyproject.toml").read_text())
  lines += project["build-system"]["requires"]
  return [Requirement(line) for line in lines if line]


@pytest.mark.parametrize("wanted", _ranges(), ids=lambda wanted: wanted.name)
def test_the_lock_is_within_the_ranges(wanted: Requirement) -> None:
  pin, hashes = PINS[canonicalize_name(wanted.name)]
  assert hashes
  assert pin.marker is None
  (version,) = pin.specifier
  assert wanted.specifier.contains(version.version)


def test_the_lock_of_cuda_is_what_tensorflow_asks_for() -> None:
  lines = importlib.metadata.requires("tensorflow") or []
  asked = [Requirement(line) for line in lines if "and-cuda" in line]
  assert {wanted.name for wanted in asked} == set(CUDA_PINS)
  for wanted in asked:
    pin, hashes = CUDA_PINS[wanted.name]
    assert hashes
    (version,) = pin.specifier
    assert wanted.specifier.contains(version.version), pin


@pytest.mark.skipif(
  (sys.platform, platform.machine()) != ("linux", "x86_64"),
  reason="TensorFlow has no code for GPUs there",
)
@pytest.mark.parametrize("target", ["train", "bench"])
def test_a_changed_lock_of_cuda_is_installed_where_a_driver_is(
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
