"""How and where a start runs: all you need to repeat it."""

import collections
import datetime
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from charlm.runs.run import Start, differences
from charlm.system import cuda
from charlm.system.devices import gpu_names, num_cores

# Most commits change no results. The entries of `versions` and `gpus` are
# compared one by one.
_NOT_COMPARED = {"time", "step", "command", "commit", "versions", "gpus"}
_NOT_COMPARED |= {"num_weights", "last_step"}


def describe_start(step: int, devices: list[str], workers: int = 1) -> Start:
  """Describes this process: command, commit, versions, devices, threads."""
  versions = {x.__name__: x.__version__ for x in (tf, keras, np)}
  return {
    "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    "step": step,
    "command": sys.argv,
    "commit": _git_commit(),
    "versions": {"python": platform.python_version(), **versions},
    "processor": processor(),
    "xla_flags": os.environ.get("XLA_FLAGS"),
    "devices": devices,
    "workers": workers,
    "cores": num_cores(),
    "intra_op_threads": tf.config.threading.get_intra_op_parallelism_threads(),
    "inter_op_threads": tf.config.threading.get_inter_op_parallelism_threads(),
    "gpus": _describe_gpus(),
  }


def start_differences(earlier: Start, start: Start) -> list[str]:
  """Lists how this start differs from an earlier one.

  Compares only what can change the last bits of the results.
  """
  before, now = (
    # Starts of older commits lack `gpus`.
    {**s["versions"], **s.get("gpus", {}), **s}
    for s in (earlier, start)
  )
  compared = {n: value for n, value in now.items() if n not in _NOT_COMPARED}
  return list(differences(before, compared).values())


def processor() -> str:
  """Returns the processor's name: other processors may round differently."""
  try:
    text = Path("/proc/cpuinfo").read_text()
  except OSError:  # not Linux
    text = ""
  match = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
  return match[1] if match else platform.processor() or platform.machine()


def _describe_gpus() -> dict[str, str]:
  """Returns GPU models and CUDA versions; nothing without a GPU."""
  if not (names := gpu_names()):
    return {}
  built_for = tf.sysconfig.get_build_info()
  models = collections.Counter(names).items()
  gpus = ", ".join(f"{number} x {name}" for name, number in models)
  return {"gpu": gpus, **cuda.versions(built_for)}


def _git_commit() -> str | None:
  git = ["git", "-C", os.path.dirname(__file__)]
  tracked = [*git, "ls-files", "--error-unmatch", __file__]
  describe = [*git, "describe", "--always", "--dirty", "--abbrev=40"]
  try:
    # An installed package may lie inside another project's repository.
    subprocess.run(tracked, capture_output=True, check=True)
    described = subprocess.run(describe, capture_output=True, text=True)
    return described.stdout.strip() or None
  except (OSError, subprocess.CalledProcessError):
    return None  # no git here, or another project's repository
