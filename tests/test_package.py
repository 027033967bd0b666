import ast
import importlib
import os
import pathlib
import runpy
import shutil
import subprocess
import sys
import zipfile

import pytest
from helpers import ROOT

import charlm


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  tmp_path = tmp_path_factory.mktemp("wheel")
  command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
  command.append("--no-build-isolation")
  # From a copy, since an old build folder would go into the wheel.
  for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
    shutil.copy(ROOT / name, tmp_path)
  ignored = shutil.ignore_patterns("__pycache__")
  shutil.copytree(ROOT / "charlm", tmp_path / "charlm", ignore=ignored)
  subprocess.run([*command, "--wheel-dir", tmp_path, tmp_path], check=True)
  (path,) = tmp_path.glob("charlm-*.whl")
  return path


@pytest.mark.release
def test_the_wheel_contains_only_the_package(wheel: pathlib.Path) -> None:
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


@pytest.mark.release
def test_the_wheel_works_in_an_empty_folder(
  wheel: pathlib.Path, trained_run: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
  site = tmp_path / "site"
  subprocess.run(
    [*command, "--no-index", f"--target={site}", wheel], check=True
  )
  empty = tmp_path / "empty"
  empty.mkdir()
  code = (
    "import sys; sys.path.insert(0, sys.argv[1]); import charlm\n"
    "assert charlm.__file__.startswith(sys.argv[1])\n"
    "assert all(hasattr(charlm, name) for name in charlm.__all__)\n"
    "model = charlm.load(sys.argv[2])\n"
    "print(model, model.score(['the king'])[0].num_characters)\n"
    "import gc; assert not gc.get_freeze_count()"
  )
  result = subprocess.run(
    [sys.executable, "-c", code, site, trained_run],
    cwd=empty,
    capture_output=True,
    text=True,
    check=True,
  )
  assert result.stdout.startswith("LoadedModel(")
  assert result.stdout.endswith(" 7\n")
  assert not result.stderr
  assert not any(empty.iterdir())


def test_type_checkers_find_the_public_names() -> None:
  stub = pathlib.Path(charlm.__file__).with_suffix(".pyi")
  declared = {}
  for node in ast.parse(stub.read_text()).body[1:]:
    assert isinstance(node, ast.ImportFrom)
    declared |= {x.asname: (node.module, x.name) for x in node.names}
  assert sorted(declared) == sorted(charlm.__all__) == dir(charlm)
  for name, (module, original) in declared.items():
    expected = getattr(importlib.import_module(module), original)
    assert getattr(charlm, name) is expected


def test_keras_uses_tensorflow_whatever_the_environment_says(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  monkeypatch.setenv("KERAS_BACKEND", "jax")
  runpy.run_path(charlm.__file__)
  assert os.environ["KERAS_BACKEND"] == "tensorflow"


def test_xla_uses_512_bits_unless_the_environment_has_xla_flags(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  monkeypatch.delenv("XLA_FLAGS", raising=False)
  runpy.run_path(charlm.__file__)
  assert os.environ["XLA_FLAGS"] == "--xla_cpu_prefer_vector_width=512"
  monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=false")
  runpy.run_path(charlm.__file__)
  assert os.environ["XLA_FLAGS"] == "--xla_cpu_enable_fast_math=false"
