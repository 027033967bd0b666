"""The lock pins, by hashes, all that `make train` and `make test` install."""

import configparser
import importlib.metadata
import pathlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator

import pytest
from helpers import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

TEXT = (ROOT / "requirements.lock").read_text()
# A requirement, and below it a line for the hash of each of its files.
_PIN = re.compile(r"^([a-z].*?)((?: \\\n +--hash=\S+)*)$", re.MULTILINE)


def _pins() -> Iterator[tuple[str, Requirement, list[str]]]:
  """Yields the name, the requirement and the hashes of each package."""
  for line, hashes in _PIN.findall(TEXT):
    pin = Requirement(line)
    yield canonicalize_name(pin.name), pin, hashes.split("--hash=")[1:]


PINS = {name: (pin, hashes) for name, pin, hashes in _pins()}


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
  pin, _ = PINS[canonicalize_name(wanted.name)]
  assert pin.marker is None
  (version,) = pin.specifier
  assert wanted.specifier.contains(version.version)


def test_each_version_is_exact_and_has_hashes() -> None:
  for pin, hashes in PINS.values():
    assert re.fullmatch(r"==[^*,]+", str(pin.specifier)), pin
    assert hashes, pin
    for value in hashes:
      assert re.match(r"sha256:[0-9a-f]{64}\b", value), pin


def test_the_lock_names_no_host_and_no_path() -> None:
  lines = [re.sub(r" \\$", "", line) for line in TEXT.splitlines()]
  others = [line for line in lines if not line.startswith("    --hash=")]
  comments = [line for line in others if line.lstrip().startswith("#")]
  assert len(others) == len(comments) + len(PINS)
  assert not re.search(r"[/@]", TEXT)


def test_what_make_installed_is_what_the_lock_says() -> None:
  made = (
    pathlib.Path(sys.prefix) == ROOT / ".venv"
    and not subprocess.run(
      ["make", "--silent", "--question", "-C", ROOT, ".venv/installed"]
    ).returncode
  )
  if not made or sys.platform != "linux":
    pytest.skip("this environment was not made from the lock")
  for name, (pin, _) in PINS.items():
    if pin.marker is None or pin.marker.evaluate():
      assert pin.specifier.contains(importlib.metadata.version(name)), pin
