import pathlib
import subprocess
import sys
import zipfile

from conftest import ROOT


def test_the_wheel_holds_the_package_alone(tmp_path: pathlib.Path) -> None:
  command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
  subprocess.run([*command, "--wheel-dir", tmp_path, ROOT], check=True)
  (wheel,) = tmp_path.glob("charlm-*.whl")
  with zipfile.ZipFile(wheel) as archive:
    names = set(archive.namelist())
    (metadata,) = (n for n in names if n.endswith("METADATA"))
    text = archive.read(metadata).decode()
  tops = {name.split("/")[0] for name in names}
  assert {top.split("-")[0] for top in tops} == {"charlm"}
  modules = {path.name for path in (ROOT / "charlm").iterdir() if path.suffix}
  assert {n.split("/")[1] for n in names if n.startswith("charlm/")} == modules
  for package in ("tensorflow", "keras", "numpy", "tensorboard", "absl-py"):
    assert f"Requires-Dist: {package}" in text
