"""Builds the card that computes nothing: python build.py FOLDER.

The interpreter needs TensorFlow and the CUDA wheels. The folder gets one
library, with a link for each name that TensorFlow opens.
"""

import pathlib
import re
import subprocess
import sys
import sysconfig

_HERE = pathlib.Path(__file__).parent
_SITE = pathlib.Path(sysconfig.get_paths()["purelib"])
# Keyed by the wheel's folder.
_LIBRARIES = {
  "cuda_runtime": "libcudart.so.12",
  "cublas": "libcublas.so.12",
  "cufft": "libcufft.so.11",
  "cusparse": "libcusparse.so.12",
  "cusolver": "libcusolver.so.11",
  "cudnn": "libcudnn.so.9",
  "nccl": "libnccl.so.2",
  "cuda_cupti": "libcupti.so.12",
}
_NO_WHEEL = ("libcuda.so.1", "libnvidia-ml.so.1", "libcublasLt.so.12")
_MAKES_A_HANDLE = r"Create|InitRank|Alloc|cuGraphAdd|cuGraphInstantiate"


def build(folder: pathlib.Path) -> None:
  """Builds the libraries in a folder, which it creates."""
  folder.mkdir(parents=True, exist_ok=True)
  source = (_HERE / "null.c").read_text()
  written = set(re.findall(r"\w+", source))
  functions = [_stub(name) for name in sorted(_names() - written)]
  (folder / "null.c").write_text(source + "\n".join(functions) + "\n")
  wheels = ("cuda_runtime", "cuda_nvcc")
  includes = [f"-I{_SITE}/nvidia/{wheel}/include" for wheel in wheels]
  library = folder / "libnull.so"
  options = ["-w", "-O1", "-shared", "-fPIC", "-std=gnu11", *includes]
  command = ["gcc", *options, str(folder / "null.c"), "-o", str(library)]
  subprocess.run(command, check=True)
  for name in (*_LIBRARIES.values(), *_NO_WHEEL):
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(library.name)


def _stub(name: str) -> str:
  """Returns the code of a function that does nothing, or makes a handle."""
  makes = re.search(_MAKES_A_HANDLE, name) and "cudnnBackend" not in name
  work = "if (made) *made = handle(); " if makes else ""
  return f"long {name}(void **made) {{ {work}return 0; }}"


def _names() -> set[str]:
  """Returns the libraries' functions, and those that TensorFlow looks up."""
  names = set()
  for folder, library in _LIBRARIES.items():
    names |= _exported(_SITE / "nvidia" / folder / "lib" / library)
  # Also exported by the library that cuBLAS is built on.
  lt = _exported(_SITE / "nvidia" / "cublas" / "lib" / "libcublasLt.so.12")
  names |= {name for name in lt if name.startswith("cublas")}
  # The driver and its management library have no wheels.
  for library in ("libtensorflow_framework.so.2", "libtensorflow_cc.so.2"):
    data = (_SITE / "tensorflow" / library).read_bytes()
    matches = re.findall(rb"\0((?:cu[A-Z]|nvml[A-Z])\w+)(?=\0)", data)
    names |= {name.decode() for name in matches}
  return names


def _exported(library: pathlib.Path) -> set[str]:
  listed = subprocess.run(
    ["nm", "-D", "--defined-only", str(library)],
    capture_output=True,
    text=True,
    check=True,
  ).stdout
  return set(re.findall(r"^\w+ [TWi] (\w+)", listed, re.M))


if __name__ == "__main__":
  build(pathlib.Path(sys.argv[1]))
