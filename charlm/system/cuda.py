"""NVIDIA's GPUs, their driver, and CUDA's libraries, without TensorFlow."""

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
# What NVIDIA's driver shows: under Linux, and where Windows has it and Linux
# runs inside. There /dev/dxg alone can be a GPU of AMD or Intel.
_IN_WINDOWS = "/usr/lib/wsl/lib/libcuda.so.1"
_DEVICE_FILES = ("/dev/nvidia[0-9]*", _IN_WINDOWS)
_CUDA_12 = 12000  # as the driver writes its version
_DRIVER = "install NVIDIA's driver, 525 or later"
# TensorFlow's compute_90 is PTX 8.5, which older drivers cannot compile.
_PTX = 12050
# The capabilities of TensorFlow 2.21, for versions that do not list theirs.
_BUILT_FOR = ("sm_60", "sm_70", "sm_80", "sm_89", "compute_90")
# cuDNN's first version that asks for a compute capability of 7.5.
_CUDNN_FOR_TURING, _TURING = (9, 11), (7, 5)
_INSTALL = "pip install -e '.[cuda]'"
# What TensorFlow opens, by the wheel's folder, and nvJitLink, which cuSPARSE
# opens. Each comes after those that it needs.
_LIBRARIES = {
  "cuda_runtime": "libcudart.so.12",
  "cublas": "libcublas.so.12",
  "nvjitlink": "libnvJitLink.so.12",
  "cufft": "libcufft.so.11",
  "cusparse": "libcusparse.so.12",
  "cusolver": "libcusolver.so.11",
  "cudnn": "libcudnn.so.9",
}
# Whose versions a start notes: their wheels, and what TensorFlow calls the
# version that it was built for.
_WHEELS = {
  "cuda": ("nvidia-cuda-runtime-cu12", "cuda_version"),
  "cudnn": ("nvidia-cudnn-cu12", "cudnn_version"),
  "nccl": ("nvidia-nccl-cu12", ""),
}


def preload() -> None:
  """Opens cuSOLVER for TensorFlow 2.21, before TensorFlow looks for GPUs.

  That version looks for CUDA's libraries in the folders of their wheels, but
  not in cuSOLVER's, and then finds no GPU.
  """
  # Without the wheel, TensorFlow asks the system for the library.
  with contextlib.suppress(importlib.metadata.PackageNotFoundError, OSError):
    if importlib.metadata.version("tensorflow").startswith("2.21."):
      ctypes.CDLL(_path_in_wheel("cusolver"))


def _path_in_wheel(folder: str) -> str:
  """Returns where the wheel has its library: beside TensorFlow."""
  tensorflow = importlib.metadata.distribution("tensorflow")
  path = f"nvidia/{folder}/lib/{_LIBRARIES[folder]}"
  return str(tensorflow.locate_file(path))


def nvidia_device() -> str:
  """Returns what shows that there is an NVIDIA device, or nothing.

  Nothing, too, if `CUDA_VISIBLE_DEVICES` hides every GPU.
  """
  if _all_hidden():
    return ""
  if visible := os.environ.get(_VARIABLE):
    return f"{_VARIABLE}={visible}"
  files = [f for pattern in _DEVICE_FILES for f in sorted(glob.glob(pattern))]
  return next(iter(files), shutil.which("nvidia-smi")) or ""


def _all_hidden() -> bool:
  """Tells whether CUDA_VISIBLE_DEVICES hides all GPUs.

  The first entry decides: CUDA ignores one that names no GPU, and all after it.
  """
  first = os.environ.get(_VARIABLE, "0").split(",")[0].strip()
  return not (first.isdecimal() or first.startswith(("GPU-", "MIG-")))


def problem_of_card(
  name: str, capability: tuple[int, int], built: Mapping[str, Any]
) -> str:
  """Returns why TensorFlow cannot compute on a GPU, or nothing.

  Args:
    name: of the GPU.
    capability: the GPU's compute capability.
    built: TensorFlow's build information.
  """
  major, minor = capability
  card = f"{name}, compute capability {major}.{minor}"
  built_for = built.get("cuda_compute_capabilities", _BUILT_FOR)
  codes = _codes_for(capability, built_for)
  if not codes:
    tensorflow = importlib.metadata.version("tensorflow")
    return f"TensorFlow {tensorflow} has no code for {card}"
  only_ptx = all(code.startswith("compute") for code in codes)
  if only_ptx and (version := _cuda_of_driver()) < _PTX:
    return (
      f"the driver, for CUDA {_cuda(version)}, cannot compile TensorFlow's "
      f"code for {card} (driver 555 or later can)"
    )
  if capability < _TURING:
    cudnn = versions(built)["cudnn"]
    if (found := re.match(r"(\d+)\.(\d+)\.", cudnn)) and (
      tuple(map(int, found.groups())) >= _CUDNN_FOR_TURING
    ):
      return (
        f"cuDNN {cudnn} has no code for {card} "
        "(.venv/bin/pip install 'nvidia-cudnn-cu12<9.11' has)"
      )
  return ""


def _codes_for(
  capability: tuple[int, int], built_for: Iterable[str]
) -> list[str]:
  """Returns which of names such as `sm_89` and `compute_90` a GPU can use."""
  found = [re.fullmatch(r"\w+_(\d+)(\d)[a-z]?", name) for name in built_for]
  # A GPU runs the code of its generation's older ones. The driver translates
  # `compute_90` for later generations, too, but XLA then ends the process.
  major, minor = capability
  return [
    match[0]
    for match in found
    if match and int(match[1]) == major and int(match[2]) <= minor
  ]


def reason_for_no_gpu() -> str:
  """Returns why a TensorFlow that is built with CUDA finds no GPU; a remedy."""
  if _all_hidden():
    return f"{_VARIABLE} hides all GPUs: unset it"
  check = "nothing that it needs is missing: check the driver with nvidia-smi"
  return driver_problem() or _library_problem() or check


def driver_problem() -> str:
  """Returns what is wrong with the driver, and the remedy, or nothing."""
  try:
    driver = ctypes.CDLL("libcuda.so.1")
  except OSError as error:
    where = " in Windows, not here" if os.path.exists("/dev/dxg") else ""
    return f"{error}: {_DRIVER}{where}"
  version = _cuda_of_driver()
  if version < _CUDA_12:
    return (
      f"the driver is for CUDA {_cuda(version)}, and 12 is needed: {_DRIVER}"
    )
  if not (status := driver.cuInit(0)):
    return ""
  text = ctypes.c_char_p()
  driver.cuGetErrorString(status, ctypes.byref(text))
  said = text.value.decode() if text.value else "unknown"
  visible = os.environ.get(_VARIABLE)
  given = f", with {_VARIABLE}={visible}" if visible else ""
  return (
    f"the driver's cuInit says '{said}' (error {status}{given}): check it with "
    "nvidia-smi"
  )


def _cuda_of_driver() -> int:
  """Returns the newest version of CUDA that the driver is for, as 12020."""
  version = ctypes.c_int()
  ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version))
  return version.value


def _cuda(version: int) -> str:
  return f"{version // 1000}.{version % 1000 // 10}"


def versions(built_for: Mapping[str, str]) -> dict[str, str]:
  """Returns the versions of the driver and of CUDA's libraries.

  Where a library's wheel is not installed, its version is the one in
  `built_for`, TensorFlow's build information.
  """
  found = {"driver": _driver_version()}
  for name, (wheel, field) in _WHEELS.items():
    try:
      found[name] = importlib.metadata.version(wheel)
    except importlib.metadata.PackageNotFoundError:
      built = built_for.get(field)
      found[name] = f"{built} or later" if built else "unknown"
  return found


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
  """Returns which library cannot be opened, and the remedy, or nothing."""
  for folder, name in _LIBRARIES.items():
    path = _path_in_wheel(folder)
    try:
      ctypes.CDLL(path if os.path.exists(path) else name)
    except OSError as error:
      return f"{error}: install it with {_INSTALL}"
  return ""
