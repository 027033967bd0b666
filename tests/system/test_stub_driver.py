"""The real TensorFlow with a fake driver of one GPU, and empty libraries.

TensorFlow lists the GPU if it finds all CUDA libraries, but cannot start it.
"""

import importlib.util
import os
import pathlib
import shutil
import subprocess
import sys

import pytest
from helpers import ROOT

from charlm.system import cuda

_DRIVER = """
#include <string.h>
int cuInit(unsigned flags) { return 0; }
int cuDriverGetVersion(int *version) { *version = 12080; return 0; }
int cuDeviceGetCount(int *count) { *count = 1; return 0; }
int cuDeviceGet(int *device, int index) { *device = index; return 0; }
int cuDeviceGetName(char *name, int size, int device) {
  strncpy(name, "a stub", size);
  return 0;
}
int cuDeviceGetAttribute(int *value, int attribute, int device) {
  /* Compute capability 8.9; enough of everything else. */
  *value = attribute == 75 ? 8 : attribute == 76 ? 9 : 1024;
  return 0;
}
int nvmlInit_v2(void) { return 0; }
"""
_CUSOLVER = "libcusolver.so.11"


@pytest.fixture
def libraries(tmp_path: pathlib.Path) -> pathlib.Path:
  """A folder with the driver and empty libraries; cuSOLVER is in a wheel."""
  if not (compiler := shutil.which("gcc")):
    pytest.skip("there is no C compiler")
  folder = tmp_path / "libraries"
  folder.mkdir()
  sources = {"libcuda.so.1": _DRIVER, "libnvidia-ml.so.1": _DRIVER}
  # cuBLAS contains libcublasLt.
  libraries = [*cuda._LIBRARIES.values(), "libcublasLt.so.12"]
  for name in [*libraries, *sources]:
    command = [compiler, "-shared", "-fPIC", f"-Wl,-soname,{name}", "-xc", "-"]
    source = sources.get(name, "int empty;\n")
    subprocess.run(
      [*command, "-o", str(folder / name)], input=source, text=True, check=True
    )
  # In its wheel's folder, which TensorFlow 2.21 does not search.
  wheel = tmp_path / "site" / "nvidia" / "cusolver" / "lib"
  wheel.mkdir(parents=True)
  (folder / _CUSOLVER).rename(wheel / _CUSOLVER)
  return folder


def test_a_gpu_is_found_and_does_not_start_with_a_one_line_error(
  libraries: pathlib.Path,
  corpus_path: pathlib.Path,
  tmp_path: pathlib.Path,
) -> None:
  if importlib.util.find_spec("nvidia"):
    pytest.skip("CUDA's wheels are installed")
  variables = {k: v for k, v in os.environ.items() if k[:4] != "CUDA"}
  variables["LD_LIBRARY_PATH"] = str(libraries)
  info = tmp_path / "site" / "tensorflow-2.21.0.dist-info"
  info.mkdir()
  text = "Metadata-Version: 2.1\nName: tensorflow\nVersion: 2.21.0\n"
  (info / "METADATA").write_text(text)
  variables["PYTHONPATH"] = str(tmp_path / "site")
  flags = ["--device=gpu", f"--corpus={corpus_path}", "--eval_lines=50"]
  result = subprocess.run(
    [sys.executable, "train.py", *flags, f"--run_dir={tmp_path}/run"],
    capture_output=True,
    text=True,
    cwd=ROOT,
    env=variables,
  )
  assert result.returncode == 2
  (line,) = result.stderr.splitlines()
  # Not "finds no GPU": the library in the wheel was loaded.
  assert line.startswith("train.py: TensorFlow cannot start the GPU: ")
  assert not (tmp_path / "run").exists()
