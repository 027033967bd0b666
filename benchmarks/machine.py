"""Describes the machine that a benchmark ran on."""

import importlib.metadata
import os
import platform
from typing import Any

from charlm.runs.provenance import processor
from charlm.system.devices import num_cores

_PACKAGES = ("tensorflow", "keras", "torch", "jax", "numpy")


def describe() -> dict[str, Any]:
  """Returns processor, cores, memory and installed versions."""
  memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
  installed = {
    (distribution.name or "").lower(): distribution.version
    for distribution in importlib.metadata.distributions()
  }
  return {
    "processor": processor(),
    "cores": num_cores(),
    "memory_gib": round(memory / 2**30, 1),
    "system": platform.system(),
    "versions": {
      "python": platform.python_version(),
      **{name: installed[name] for name in _PACKAGES if name in installed},
    },
  }


def in_words(machine: dict[str, Any]) -> str:
  """Formats the description as one line."""
  versions = ", ".join(f"{k} {v}" for k, v in machine["versions"].items())
  cores = "1 core" if machine["cores"] == 1 else f"{machine['cores']} cores"
  return (
    f"{machine['processor']}, {cores}, "
    f"{machine['memory_gib']} GiB, {machine['system']}; {versions}"
  )
