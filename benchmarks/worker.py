"""A process that runs one contestant on request.

It writes a line of JSON when it is ready, then answers each line `run N` with
another. Between requests it sleeps, so it takes no time from the others.
"""

import contextlib
import importlib
import json
import os
import pathlib
import re
import resource
import sys
from typing import TextIO

from benchmarks.task import Task, Text

_WARM_UP_RUNS = 2


def main() -> None:
  """Prepares the task in the only argument, then serves requests."""
  answers = take_stdout()
  task = Task.from_json(sys.argv[1])
  module, _, function = task.builder.rpartition(".")
  build = getattr(importlib.import_module(f"benchmarks.{module}"), function)
  run = build(task.sizes, Text(task.folder), **task.options)
  for _ in range(_WARM_UP_RUNS):
    run(1)
  print(json.dumps({"ready": True}), file=answers, flush=True)
  for line in sys.stdin:
    answer = {"seconds": run(int(line.split()[1])), "peak_bytes": _peak_bytes()}
    print(json.dumps(answer), file=answers, flush=True)


def take_stdout() -> TextIO:
  """Redirects the frameworks' output to stderr; returns stdout for answers."""
  answers = os.fdopen(os.dup(1), "w")
  os.dup2(2, 1)
  return answers


def _peak_bytes() -> int:
  with contextlib.suppress(FileNotFoundError):
    # `ru_maxrss` would include the peak of the parent process.
    status = pathlib.Path("/proc/self/status").read_text()
    return 1024 * int(re.findall(r"VmHWM:\s*(\d+) kB", status)[0])
  unit = 1 if sys.platform == "darwin" else 1024
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


if __name__ == "__main__":
  main()
