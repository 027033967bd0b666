"""Diagnoses of GPU problems, with fake drivers and libraries."""

import ctypes
import importlib
import importlib.metadata
import os
import pathlib

import pytest

from charlm.system import cuda
from charlm.system.process import import_quietly

_SAYS_NO = "no CUDA-capable device is detected"


class Driver:
  """A fake `libcuda.so.1`."""

  def __init__(self, version: int = 12040, status: int = 0) -> None:
    self._version, self._status = version, status

  def cuDriverGetVersion(self, reference: object) -> None:
    reference._obj.value = self._version

  def cuInit(self, flags: int) -> int:
    return self._status

  def cuGetErrorString(self, status: int, reference: object) -> None:
    reference._obj.value = _SAYS_NO.encode()


class Machine:
  """A fake machine with a driver and libraries; records loaded libraries."""

  def __init__(self, site: pathlib.Path) -> None:
    self.driver: Driver | None = Driver()
    self.system = set(cuda._LIBRARIES.values())
    self.site = site
    self.opened: list[str] = []

  def install_tensorflow(self, version: str) -> None:
    info = self.site / f"tensorflow-{version}.dist-info"
    info.mkdir()
    text = f"Metadata-Version: 2.1\nName: tensorflow\nVersion: {version}\n"
    (info / "METADATA").write_text(text)

  def install_wheel(self, folder: str) -> pathlib.Path:
    path = self.site / "nvidia" / folder / "lib" / cuda._LIBRARIES[folder]
    path.parent.mkdir(parents=True)
    path.write_text("a library")
    return path

  def open(self, name: str) -> Driver | None:
    """Replaces `ctypes.CDLL`."""
    if name == "libcuda.so.1" and self.driver:
      return self.driver
    path = pathlib.Path(name)
    if not path.exists() and name not in self.system:
      raise OSError(f"{name}: cannot open shared object file")
    self.opened.append(name)
    return None


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> Machine:
  machine = Machine(tmp_path)
  monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
  monkeypatch.syspath_prepend(tmp_path)
  monkeypatch.setattr(ctypes, "CDLL", machine.open)
  return machine


@pytest.mark.parametrize(
  ("version", "opens"), [("2.21.1", True), ("2.22.0rc0", False)]
)
def test_cusolver_is_preloaded_only_for_tensorflow_2_21(
  version: str, opens: bool, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
  machine.install_tensorflow(version)
  library = str(machine.install_wheel("cusolver"))
  opened_before_import = []

  def note(name: str) -> None:
    opened_before_import.extend(machine.opened)

  monkeypatch.setattr(importlib, "import_module", note)
  import_quietly("tensorflow")
  assert opened_before_import == [library] * opens


def test_without_a_missing_library_the_driver_is_to_be_checked(
  machine: Machine,
) -> None:
  machine.install_tensorflow("2.21.0")
  path = machine.install_wheel("cudnn")
  assert "no library is missing" in cuda.reason_for_no_gpu()
  wheels, system = {str(path)}, machine.system - {"libcudnn.so.9"}
  assert set(machine.opened) == wheels | system


@pytest.mark.parametrize(
  ("driver", "reason"),
  [
    (None, "libcuda.so.1: cannot open shared object file: install NVIDIA's"),
    (
      Driver(version=11080),
      "supports CUDA 11.8, but 12 is needed: install NV",
    ),
    (
      Driver(status=100),
      f"'{_SAYS_NO}' (error 100, with CUDA_VISIBLE_DEV",
    ),
  ],
)
def test_a_driver_problem_is_diagnosed(
  driver: Driver | None,
  reason: str,
  machine: Machine,
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
  machine.driver = driver
  assert reason in cuda.reason_for_no_gpu()


def test_a_missing_library_is_named(machine: Machine) -> None:
  machine.install_tensorflow("2.21.0")
  machine.system.remove("libcufft.so.11")
  expected = "libcufft.so.11: cannot open shared object file: install it with "
  assert cuda.reason_for_no_gpu() == f"{expected}pip install -e '.[cuda]'"


_BUILT = ["sm_60", "sm_70", "sm_80", "sm_89", "compute_90"]


@pytest.mark.parametrize(
  ("capability", "built_for", "problem"),
  [
    ((8, 9), _BUILT, ""),
    ((8, 6), ["sm_89"], "no code for A GPU, compute capability 8.6"),
    ((5, 2), _BUILT, "no code for A GPU, compute capability 5.2"),
    ((12, 0), _BUILT, "no code for A GPU, compute capability 12.0"),
    ((12, 0), None, "no code for A GPU, compute capability 12.0"),
    ((12, 0), [*_BUILT, "sm_120a"], ""),
    ((7, 5), _BUILT, ""),
    ((7, 0), _BUILT, "cuDNN 9.28.0.42 has no code for A GPU"),
    ((9, 0), _BUILT, "driver 555 or later can"),
    ((9, 0), [*_BUILT, "sm_90"], ""),
  ],
)
def test_gpus_without_code_for_their_capability_are_named(
  capability: tuple[int, int],
  built_for: list[str] | None,
  problem: str,
  machine: Machine,
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  monkeypatch.setattr(importlib.metadata, "version", lambda _: "9.28.0.42")
  built = {"cuda_compute_capabilities": built_for} if built_for else {}
  actual = cuda.gpu_problem("A GPU", capability, built)
  assert problem in actual
  assert bool(problem) == bool(actual)


def test_an_older_cudnn_or_a_newer_driver_makes_a_gpu_usable(
  machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
  built = {"cuda_compute_capabilities": _BUILT}
  monkeypatch.setattr(importlib.metadata, "version", lambda _: "9.10.2.21")
  machine.driver = Driver(version=12050)
  for capability in (6, 1), (7, 0), (9, 0):
    assert cuda.gpu_problem("A GPU", capability, built) == ""


def test_on_wsl_the_driver_is_to_be_installed_in_windows(
  machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
  machine.driver = None
  monkeypatch.setattr(os.path, "exists", lambda path: path == "/dev/dxg")
  assert cuda.reason_for_no_gpu().endswith("later in Windows, not here")


class ManagementLibrary:
  """A fake `libnvidia-ml.so.1`."""

  def nvmlInit_v2(self) -> int:
    return 0

  def nvmlSystemGetDriverVersion(self, version: ctypes.Array, size: int) -> int:
    version.value = b"570.86.10"
    return 0


def test_versions_come_from_the_wheels_or_the_build_information(
  machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
  def version(wheel: str) -> str:
    if wheel != "nvidia-nccl-cu12":
      raise importlib.metadata.PackageNotFoundError(wheel)
    return "2.32.3"

  monkeypatch.setattr(importlib.metadata, "version", version)
  built_for = {"cuda_version": "12.5.1"}
  expected = {"cuda": "12.5.1 or later", "cudnn": "unknown", "nccl": "2.32.3"}
  assert cuda.versions(built_for) == {"driver": "unknown", **expected}
  library = ManagementLibrary()
  monkeypatch.setattr(ctypes, "CDLL", {"libnvidia-ml.so.1": library}.get)
  assert cuda.versions(built_for) == {"driver": "570.86.10", **expected}
