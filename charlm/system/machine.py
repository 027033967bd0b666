"""The machine that a process runs on."""

import os
import platform
import re
from pathlib import Path


def num_cores() -> int:
  """Returns how many cores this process may use."""
  # Under taskset or SLURM they can be fewer than the machine has.
  if hasattr(os, "sched_getaffinity"):  # not on macOS
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def processor() -> str:
  """Returns the processor's name; results round differently on another."""
  try:
    text = Path("/proc/cpuinfo").read_text()
  except OSError:  # not Linux
    text = ""
  match = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
  return match[1] if match else platform.processor() or platform.machine()
