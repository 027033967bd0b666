import pathlib
import shutil
import subprocess
import sys
import zipfile

from helpers import ROOT


def test_the_wheel_holds_the_package_alone(tmp_path: pathlib.Path) -> None:
  command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
  command.append("--no-build-isolation")
  # From a copy, since a build folder from before would go into the wheel.
  for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
    shutil.copy(ROOT / name, tmp_path)
  ignored = shutil.ignore_patterns("__pycache__")
  shutil.copytree(ROOT / "charlm", tmp_path / "charlm", ignore=ignored)
  subprocess.run([*command, "--wheel-dir", tmp_path, tmp_path], check=True)
  (wheel,) = tmp_path.glob("charlm-*.whl")
  with zipfile.ZipFile(wheel) as archive:
    names = set(archive.namelist())
    (metadata,) = (n for n in names if n.endswith("METADATA"))
    text = archive.read(metadata).decode()
  tops = {name.split("/")[0] for name in names}
  assert {top.split("-")[0] for top in tops} == {"charlm"}
  files = (ROOT / "charlm").rglob("*.*")
  expected = {str(p.relative_to(ROOT)) for p in files if p.suffix != ".pyc"}
  assert {name for name in names if name.startswith("charlm/")} == expected
  for package in ("tensorflow", "keras", "numpy", "tensorboard", "absl-py"):
    assert f"Requires-Dist: {package}" in text
