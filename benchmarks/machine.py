"""Describes the machine that a benchmark ran on."""

import importlib.metadata
import os
import platform

from charlm.runs.provenance import processor
from charlm.system.devices import num_cores

_PACKAGES = ("tensorflow", "keras", "torch", "jax", "numpy")


def in_words(cores: int = 0) -> str:
  """Returns processor, cores, memory and installed versions on one line."""
  memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
  installed = {
    (distribution.name or "").lower(): distribution.version
    for distribution in importlib.metadata.distributions()
  }
  names = [name for name in _PACKAGES if name in installed]
  versions = ", ".join(f"{name} {installed[name]}" for name in names)
  cores = cores or num_cores()
  noun = "core" if cores == 1 else "cores"
  return (
    f"{processor()}, {cores} {noun}, {memory / 2**30:.1f} GiB, "
    f"{platform.system()}; "
    f"python {platform.python_version()}, {versions}"
  )
