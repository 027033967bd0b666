"""Finds NVIDIA's libraries and the signs of a GPU, without TensorFlow."""

import contextlib
import ctypes
import importlib.metadata
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

# As the Makefile, which then installs CUDA's libraries.
_DRIVER = Path("/proc/driver/nvidia/version")
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
    tensorflow = importlib.metadata.distribution("tensorflow")
    if tensorflow.version.startswith("2.21."):
      path = "nvidia/cusolver/lib/libcusolver.so.11"
      ctypes.CDLL(str(tensorflow.locate_file(path)))


def has_nvidia_gpu() -> bool:
  """Returns whether the machine has NVIDIA's driver, and does not hide GPUs."""
  if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
    return False
  # On WSL, there is only the program.
  return _DRIVER.exists() or shutil.which("nvidia-smi") is not None


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
  with contextlib.suppress(OSError):  # on WSL
    if match := re.search(r"\s(\d+\.[\d.]+)\s", _DRIVER.read_text()):
      return match[1]
  return "unknown"
