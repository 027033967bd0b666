"""Why TensorFlow finds no GPU on a machine that seems to have one."""

import glob
import os
import re
import shutil
import subprocess
import sys

_REMEDY = (
  "install CUDA's libraries with pip install -e '.[cuda]', and check the "
  "driver with nvidia-smi"
)
_VARIABLE = "CUDA_VISIBLE_DEVICES"
# Where the driver shows its devices: Linux, and Linux inside Windows.
_DEVICE_FILES = ("/dev/nvidia[0-9]*", "/dev/dxg")
_SECONDS = 120.0  # to import TensorFlow on a slow disk
_CHILD = "import tensorflow as tf; tf.config.list_physical_devices('GPU')"
_ABOUT_GPUS = re.compile(
  r"(?i)cuinit|cuda error|cuda drivers|dlopen|no cuda-capable|nvidia driver"
)


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


def reason_for_no_gpu() -> str:
  """Returns what TensorFlow's log says, and what to do about it.

  The log is that of another process, since charlm turns it off.
  """
  if _all_hidden():
    return f"{_VARIABLE} hides all GPUs: unset it"
  try:
    log = subprocess.run(
      [sys.executable, "-P", "-c", _CHILD],  # -P: no modules of this folder
      env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "0"},
      stdin=subprocess.DEVNULL,
      capture_output=True,
      errors="replace",
      timeout=_SECONDS,
    ).stderr
  except (OSError, subprocess.TimeoutExpired) as error:
    return f"its log could not be read ({type(error).__name__}); {_REMEDY}"
  found = [line for line in log.splitlines() if _ABOUT_GPUS.search(line)]
  # The first lines come while it loads libraries, the last when it looks for
  # devices. What is up to the bracket is time and place.
  said = re.sub(r"^.*?\] ", "", found[-1]).strip() if found else ""
  reason = f"its log says {said!r}" if said else "its log gives no reason"
  return f"{reason}; {_REMEDY}"
