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


def memory_bytes() -> int:
  """Returns how much memory the machine has."""
  return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def processor() -> str:
  """Returns the processor's name; results round differently on another."""
  return _cpu_info("model name") or platform.processor() or platform.machine()


def has_bfloat16() -> bool:
  """Tells whether the processor has instructions for bfloat16, or may have."""
  flags = _cpu_info("flags") or _cpu_info("Features")
  # Three names of x86, and one of Arm.
  fast = {"avx512_bf16", "amx_bf16", "avx_ne_convert", "bf16"}
  # Where nothing is known, nobody is warned.
  return not flags or not fast.isdisjoint(flags.split())


def _cpu_info(field: str) -> str:
  """Returns a field of Linux's description of the processor, or nothing."""
  try:
    text = Path("/proc/cpuinfo").read_text()
  except OSError:
    return ""
  match = re.search(rf"^{field}\s*:\s*(.+)$", text, re.MULTILINE)
  return match[1] if match else ""
