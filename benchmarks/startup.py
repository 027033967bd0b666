"""How long `train.py` takes to its first step."""

import pathlib
import subprocess
import sys
import tempfile
import time

_SCRIPT = pathlib.Path(__file__).resolve().parents[1] / "train.py"
_SECONDS_BETWEEN_LOOKS = 0.005


def import_seconds() -> float:
  """Returns how long a process takes that only imports TensorFlow."""
  start = time.perf_counter()
  command = [sys.executable, "-c", "import tensorflow"]
  subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
  return time.perf_counter() - start


def first_step_seconds(corpus: str) -> float:
  """Returns the time from the command `train.py` to the end of a step.

  Raises:
    RuntimeError: the training ended before, with what it wrote.
  """
  with tempfile.TemporaryDirectory() as folder:
    metrics = pathlib.Path(folder) / "run" / "metrics.jsonl"
    command = [sys.executable, str(_SCRIPT), f"--corpus={corpus}"]
    command += [f"--run_dir={metrics.parent}", "--summary_every_steps=1"]
    with tempfile.TemporaryFile("w+") as log:
      start = time.perf_counter()
      process = subprocess.Popen(command, stdout=log, stderr=log)
      try:
        while not (metrics.exists() and metrics.stat().st_size):
          if process.poll() is not None:
            log.seek(0)
            raise RuntimeError(f"train.py ended early: {log.read()[-500:]}")
          time.sleep(_SECONDS_BETWEEN_LOOKS)
        return time.perf_counter() - start
      finally:
        process.kill()
        process.wait()
