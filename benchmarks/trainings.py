"""Trainings and scores by charlm's programs, for the tables of results."""

import json
import pathlib
import subprocess
import sys
from typing import Any

from charlm.runs.metrics import read_records
from charlm.system.files import write_atomically

ROOT = pathlib.Path(__file__).resolve().parents[1]


def call(script: str, *args: str) -> str:
  """Runs a program of charlm; returns what it prints.

  Raises subprocess.CalledProcessError: the program failed.
  """
  command = [sys.executable, str(ROOT / script), *args]
  result = subprocess.run(
    command, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT
  )
  return result.stdout


def train(run_dir: pathlib.Path, *flags: str) -> str:
  """Trains one replica on the CPU, or resumes; returns what was printed."""
  where = f"--run_dir={run_dir}"
  return call("train.py", where, "--device=cpu", "--num_replicas=1", *flags)


def eval_loss(run_dir: pathlib.Path, *flags: str) -> float:
  """Returns the loss of the eval text, by the best checkpoint."""
  score = json.loads(call("eval.py", f"--run_dir={run_dir}", "--json", *flags))
  return float(score["log_perplexity"])


def lowest_valid_loss(run_dir: pathlib.Path) -> float:
  """Returns the loss of the valid text by the best checkpoint."""
  records = read_records(run_dir / "metrics.jsonl")
  return min(r["loss"] for r in records if r["split"] == "valid")


def read(path: pathlib.Path) -> dict[str, Any]:
  """Returns what was measured, or nothing."""
  found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
  return found


def keep(path: pathlib.Path, measured: dict[str, Any]) -> None:
  """Writes what was measured."""
  write_atomically(path, [(json.dumps(measured, indent=1) + "\n").encode()])
