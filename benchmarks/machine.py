"""On what the figures were measured."""

import importlib.metadata
import os
import pathlib
import platform
import re
from typing import Any

_PACKAGES = ("tensorflow", "keras", "torch", "jax", "numpy")


def describe() -> dict[str, Any]:
  """Returns processor, cores, memory and versions."""
  memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
  return {
    "processor": _processor(),
    "cores": len(os.sched_getaffinity(0)),
    "memory_gib": round(memory / 2**30, 1),
    "system": platform.system(),
    "versions": {
      "python": platform.python_version(),
      **{name: importlib.metadata.version(name) for name in _PACKAGES},
    },
  }


def in_words(machine: dict[str, Any]) -> str:
  """Returns the description as a line."""
  versions = ", ".join(f"{k} {v}" for k, v in machine["versions"].items())
  return (
    f"{machine['processor']}, {machine['cores']} cores, "
    f"{machine['memory_gib']} GiB, {machine['system']}; {versions}"
  )


def _processor() -> str:
  try:
    text = pathlib.Path("/proc/cpuinfo").read_text()
  except OSError:
    text = ""
  name = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
  return name[1] if name else platform.processor() or platform.machine()
