"""What is found out about CUDA without TensorFlow."""

import ctypes
import importlib
import importlib.metadata
import pathlib

import pytest

from charlm.system import cuda
from charlm.system.process import import_quietly


@pytest.mark.parametrize(
  ("version", "opens"), [("2.21.1", True), ("2.22.0rc0", False)]
)
def test_cusolver_is_preloaded_only_for_tensorflow_2_21(
  version: str,
  opens: bool,
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  info = tmp_path / f"tensorflow-{version}.dist-info"
  info.mkdir()
  text = f"Metadata-Version: 2.1\nName: tensorflow\nVersion: {version}\n"
  (info / "METADATA").write_text(text)
  monkeypatch.syspath_prepend(tmp_path)
  done: list[str] = []
  monkeypatch.setattr(ctypes, "CDLL", done.append)
  monkeypatch.setattr(importlib, "import_module", done.append)
  import_quietly("tensorflow")
  library = f"{tmp_path}/nvidia/cusolver/lib/libcusolver.so.11"
  assert done == [library] * opens + ["tensorflow"]


# Of NVIDIA's own module and of the open one.
@pytest.mark.parametrize("module", ["x86_64 Kernel", "Open Kernel x86_64"])
def test_versions_come_from_driver_wheels_and_build_information(
  module: str, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
  def version(wheel: str) -> str:
    if wheel != "nvidia-nccl-cu12":
      raise importlib.metadata.PackageNotFoundError(wheel)
    return "2.32.3"

  monkeypatch.setattr(importlib.metadata, "version", version)
  built_for = {"cuda_version": "12.5.1"}
  expected = {"cuda": "12.5.1 or later", "cudnn": "unknown", "nccl": "2.32.3"}
  monkeypatch.setattr(cuda, "_DRIVER", tmp_path / "version")
  assert cuda.versions(built_for) == {"driver": "unknown", **expected}
  (tmp_path / "version").write_text(
    f"NVRM version: NVIDIA UNIX {module} Module  570.86.10  Release Build\n"
    "GCC version:  gcc version 12.3.0 (Ubuntu 12.3.0-1ubuntu1~22.04)\n"
  )
  assert cuda.versions(built_for) == {"driver": "570.86.10", **expected}
