"""Checks NVIDIA's GPUs, driver and CUDA libraries without TensorFlow."""

import contextlib
import ctypes
import glob
import importlib.metadata
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from typing import Any

_VARIABLE = "CUDA_VISIBLE_DEVICES"
# Files that NVIDIA's driver creates, on Linux and on WSL. There /dev/dxg also
# exists for AMD and Intel GPUs.
_WSL_LIBRARY = "/usr/lib/wsl/lib/libcuda.so.1"
_DEVICE_FILES = ("/dev/nvidia[0-9]*", _WSL_LIBRARY)
_CUDA_12 = 12000  # in the driver's format
_DRIVER = "install NVIDIA's driver, 525 or later"
# TensorFlow's compute_90 is PTX 8.5, which older drivers cannot compile.
_PTX = 12050
# The targets of TensorFlow 2.21, for versions that do not list theirs.
_BUILT_FOR = ("sm_60", "sm_70", "sm_80", "sm_89", "compute_90")
# The first version of cuDNN that requires compute capability 7.5.
_CUDNN_FOR_TURING, _TURING = (9, 11), (7, 5)
_INSTALL = "pip install -e '.[cuda]'"
# The libraries that TensorFlow loads, by their wheel's folder, and nvJitLink,
# which cuSPARSE loads. Dependencies come first.
_LIBRARIES = {
  "cuda_runtime": "libcudart.so.12",
  "cublas": "libcublas.so.12",
  "nvjitlink": "libnvJitLink.so.12",
  "cufft": "libcufft.so.11",
  "cusparse": "libcusparse.so.12",
  "cusolver": "libcusolver.so.11",
  "cudnn": "libcudnn.so.9",
}
# The libraries whose versions a run records: wheel, and the key in
# TensorFlow's build information.
_WHEELS = {
  "cuda": ("nvidia-cuda-runtime-cu12", "cuda_version"),
  "cudnn": ("nvidia-cudnn-cu12", "cudnn_version"),
  "nccl": ("nvidia-nccl-cu12", ""),
}


def preload() -> None:
  """Loads cuSOLVER for TensorFlow 2.21, before TensorFlow looks for GPUs.

  That version searches the folders of CUDA's wheels except cuSOLVER's, and so
  finds no GPU.
  """
  # Without the wheel, TensorFlow loads the system's library.
  with contextlib.suppress(importlib.metadata.PackageNotFoundError, OSError):
    if importlib.metadata.version("tensorflow").startswith("2.21."):
      ctypes.CDLL(_path_in_wheel("cusolver"))


def _path_in_wheel(folder: str) -> str:
  """Returns the path of a wheel's library, next to TensorFlow."""
  tensorflow = importlib.metadata.distribution("tensorflow")
  path = f"nvidia/{folder}/lib/{_LIBRARIES[folder]}"
  return str(tensorflow.locate_file(path))


def nvidia_device() -> str:
  """Returns the evidence of an NVIDIA GPU, or an empty string.

  Also empty if `CUDA_VISIBLE_DEVICES` hides all GPUs.
  """
  if _all_hidden():
    return ""
  if visible := os.environ.get(_VARIABLE):
    return f"{_VARIABLE}={visible}"
  files = [f for pattern in _DEVICE_FILES for f in sorted(glob.glob(pattern))]
  return next(iter(files), shutil.which("nvidia-smi")) or ""


def _all_hidden() -> bool:
  """Returns whether CUDA_VISIBLE_DEVICES hides all GPUs.

  The first entry decides: CUDA ignores an invalid entry and all after it.
  """
  first = os.environ.get(_VARIABLE, "0").split(",")[0].strip()
  return not (first.isdecimal() or first.startswith(("GPU-", "MIG-")))


def gpu_problem(
  name: str, capability: tuple[int, int], build_info: Mapping[str, Any]
) -> str:
  """Returns why TensorFlow cannot compute on a GPU, or an empty string.

  Args:
    name: the GPU's name.
    capability: the GPU's compute capability.
    build_info: TensorFlow's build information.
  """
  major, minor = capability
  gpu = f"{name}, compute capability {major}.{minor}"
  built_for = build_info.get("cuda_compute_capabilities", _BUILT_FOR)
  targets = _usable_targets(capability, built_for)
  if not targets:
    tensorflow = importlib.metadata.version("tensorflow")
    return f"TensorFlow {tensorflow} has no code for {gpu}"
  only_ptx = all(target.startswith("compute") for target in targets)
  if only_ptx and (version := _cuda_of_driver()) < _PTX:
    return (
      f"the driver, for CUDA {_cuda(version)}, cannot compile TensorFlow's "
      f"code for {gpu} (driver 555 or later can)"
    )
  if capability < _TURING:
    cudnn = versions(build_info)["cudnn"]
    if (match := re.match(r"(\d+)\.(\d+)\.", cudnn)) and (
      tuple(map(int, match.groups())) >= _CUDNN_FOR_TURING
    ):
      return (
        f"cuDNN {cudnn} has no code for {gpu} (an older one has: .venv/bin/pip "
        "install 'nvidia-cudnn-cu12<9.11')"
      )
  return ""


def _usable_targets(
  capability: tuple[int, int], built_for: Iterable[str]
) -> list[str]:
  """Returns the targets that a GPU can use, such as `sm_89`, `compute_90`."""
  matches = [re.fullmatch(r"\w+_(\d+)(\d)[a-z]?", name) for name in built_for]
  # Code runs on later GPUs of the same generation. The driver also translates
  # `compute_90` for later generations, but then XLA aborts the process.
  major, minor = capability
  return [
    match[0]
    for match in matches
    if match and int(match[1]) == major and int(match[2]) <= minor
  ]


def reason_for_no_gpu() -> str:
  """Returns why TensorFlow with CUDA finds no GPU, and the remedy."""
  if _all_hidden():
    return f"{_VARIABLE} hides all GPUs: unset it"
  check = "no library is missing: check the driver with nvidia-smi"
  return driver_problem() or _library_problem() or check


def driver_problem() -> str:
  """Returns the driver's problem with the remedy, or an empty string."""
  try:
    driver = ctypes.CDLL("libcuda.so.1")
  except OSError as error:
    where = " in Windows, not here" if os.path.exists("/dev/dxg") else ""
    return f"{error}: {_DRIVER}{where}"
  version = _cuda_of_driver()
  if version < _CUDA_12:
    return (
      f"the driver supports CUDA {_cuda(version)}, but 12 is needed: {_DRIVER}"
    )
  if not (status := driver.cuInit(0)):
    return ""
  text = ctypes.c_char_p()
  driver.cuGetErrorString(status, ctypes.byref(text))
  message = text.value.decode() if text.value else "unknown"
  visible = os.environ.get(_VARIABLE)
  setting = f", with {_VARIABLE}={visible}" if visible else ""
  return (
    f"the driver's cuInit says '{message}' (error {status}{setting}): check it "
    "with nvidia-smi"
  )


def _cuda_of_driver() -> int:
  """Returns the latest CUDA version that the driver supports, such as 12020."""
  version = ctypes.c_int()
  ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version))
  return version.value


def _cuda(version: int) -> str:
  return f"{version // 1000}.{version % 1000 // 10}"


def versions(build_info: Mapping[str, str]) -> dict[str, str]:
  """Returns the versions of the driver and of CUDA's libraries.

  If a library's wheel is not installed, uses the version in TensorFlow's build
  information.
  """
  installed = {"driver": _driver_version()}
  for name, (wheel, field) in _WHEELS.items():
    try:
      installed[name] = importlib.metadata.version(wheel)
    except importlib.metadata.PackageNotFoundError:
      built = build_info.get(field)
      installed[name] = f"{built} or later" if built else "unknown"
  return installed


def _driver_version() -> str:
  version = ctypes.create_string_buffer(80)
  try:
    library = ctypes.CDLL("libnvidia-ml.so.1")
  except OSError:
    return "unknown"
  if library.nvmlInit_v2():
    return "unknown"
  library.nvmlSystemGetDriverVersion(version, len(version))
  return version.value.decode() or "unknown"


def _library_problem() -> str:
  """Returns which library does not load with the remedy, or an empty string."""
  for folder, name in _LIBRARIES.items():
    path = _path_in_wheel(folder)
    try:
      ctypes.CDLL(path if os.path.exists(path) else name)
    except OSError as error:
      return f"{error}: install it with {_INSTALL}"
  return ""
