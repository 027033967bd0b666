"""The real TensorFlow with a fake driver, and a library that is missing."""

import importlib.util
import os
import pathlib
import shutil
import subprocess
import sys

import pytest
from helpers import ROOT

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
_CUSOLVER = "libcusolver.so.11"  # in a wheel, which TensorFlow does not search
_LIBRARIES = (
  *("libcudart.so.12", "libcublas.so.12", "libcublasLt.so.12"),
  *("libcusparse.so.12", "libcudnn.so.9", _CUSOLVER),
)


def test_a_command_shows_which_library_tensorflow_does_not_find(
  corpus_path: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  if not (compiler := shutil.which("gcc")):
    pytest.skip("there is no C compiler")
  if importlib.util.find_spec("nvidia"):
    pytest.skip("CUDA's wheels are installed")
  libraries = tmp_path / "libraries"
  libraries.mkdir()
  sources = {"libcuda.so.1": _DRIVER, "libnvidia-ml.so.1": _DRIVER}
  for name in (*_LIBRARIES, *sources):
    command = [compiler, "-shared", "-fPIC", f"-Wl,-soname,{name}", "-xc", "-"]
    subprocess.run(
      [*command, "-o", libraries / name],
      input=sources.get(name, "int empty;\n"),
      text=True,
      check=True,
    )
  site = tmp_path / "site"
  wheel = site / "nvidia" / "cusolver" / "lib"
  wheel.mkdir(parents=True)
  (libraries / _CUSOLVER).rename(wheel / _CUSOLVER)
  info = site / "tensorflow-2.21.0.dist-info"
  info.mkdir()
  text = "Metadata-Version: 2.1\nName: tensorflow\nVersion: 2.21.0\n"
  (info / "METADATA").write_text(text)
  variables = {k: v for k, v in os.environ.items() if k[:4] != "CUDA"}
  variables |= {"LD_LIBRARY_PATH": str(libraries), "PYTHONPATH": str(site)}
  flags = ["--device=gpu", f"--corpus={corpus_path}", "--eval_lines=50"]
  refused = subprocess.run(
    [sys.executable, "train.py", *flags, f"--run_dir={tmp_path}/run"],
    capture_output=True,
    text=True,
    cwd=ROOT,
    env=variables,
  )
  assert refused.returncode == 2
  (line,) = refused.stderr.splitlines()
  assert line.startswith("train.py: TensorFlow finds no GPU: ")
  assert not (tmp_path / "run").exists()

  shown = subprocess.run(
    line.rpartition(" by ")[2],
    shell=True,
    capture_output=True,
    text=True,
    cwd=ROOT,
    env=variables,
    check=True,
  )
  assert "Could not load dynamic library 'libcufft.so.11'" in shown.stderr
  assert f"Could not load dynamic library '{_CUSOLVER}'" not in shown.stderr
