"""The check of GPU machines, on a CPU: that its parts run, and what it says."""

import importlib
import inspect
import json
import math
import pathlib
import sys
from collections.abc import Iterator

import pytest
import tensorflow as tf
from helpers import Program, evaluating_quickly

import train
from benchmarks import gpu_check, gpu_parts, pool
from benchmarks.gpu_check import Check, Outcome, Row, shortfalls, to_markdown
from benchmarks.pool import Timing
from benchmarks.task import Task, Text

_RAN: set[str] = set()  # builders of tasks


def _main(output: pathlib.Path, *flags: str) -> int:
  args = ["gpu_check.py", "--toy", "--device=cpu", f"--output={output}"]
  return gpu_check.main([*args, *flags])


def _collect(command: list[str], seconds: float, device: str) -> Outcome:
  """Runs a part in this process."""
  check = Check(*json.loads(command[-1]))
  return Outcome([*gpu_parts.PARTS[command[-2]](check)])


def _measure(
  tasks: dict[str, Task], num_rounds: int, seconds_per_turn: float
) -> dict[str, Timing]:
  """Checks the arguments of tasks; runs each kind of charlm's once, here."""
  timings = {}
  for name, task in tasks.items():
    module, _, function = task.builder.partition(".")
    timings[name] = Timing([1.0])
    if module != "pytorch":  # which need not be installed
      build = getattr(importlib.import_module(f"benchmarks.{module}"), function)
      text = Text(task.folder)
      inspect.signature(build).bind(task.sizes, text, **task.options)
      if module != "reference" and task.builder not in _RAN:
        _RAN.add(task.builder)
        timings[name] = Timing([build(task.sizes, text, **task.options)(1)])
  return timings


class _Training:
  """A training in this process, or in another one if it may be killed."""

  def __init__(self, *flags: str) -> None:
    self._flags = flags
    self._program: Program | None = None

  def poll(self) -> int | None:
    if not self._program:
      self._program = Program("train.py", *self._flags)
    return self._program.poll()

  def kill(self) -> None:
    assert self._program
    self._program.kill()

  def wait(self) -> int:
    if self._program:
      return self._program.wait()
    return train.main(["train.py", *self._flags])


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
  """Starts no process that has to import TensorFlow."""
  monkeypatch.setattr(gpu_check, "collect", _collect)
  monkeypatch.setattr(pool, "measure", _measure)
  monkeypatch.setattr(gpu_parts, "_start", _Training)
  # It has tests of its own, and takes seconds.
  monkeypatch.setattr(gpu_parts, "DynamicEvaluator", lambda model, ids: None)
  with evaluating_quickly():
    yield
  tf.config.set_soft_device_placement(True)


@pytest.mark.release
@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("part", gpu_check.PARTS)
def test_each_part_runs_on_a_cpu(part: str, tmp_path: pathlib.Path) -> None:
  assert _main(tmp_path / "found.json", f"--only={part}") == 0
  found = json.loads((tmp_path / "found.json").read_text())
  assert found["parts"][part]["rows"]
  assert found["fell_short"] == []


def test_a_part_that_hangs_or_crashes_loses_nothing(
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture[str],
) -> None:
  ends = {
    "devices": "time.sleep(60)",
    "graphs": "sys.exit('no kernel')",
    "steps": "os.abort()",
    "dropout": "pass",
  }

  def command_of(part: str, check: Check) -> list[str]:
    row = f'print(\'["found", 7, "ms"]\', flush=True); {ends[part]}'
    return [sys.executable, "-c", f"import os, sys, time; {row}"]

  monkeypatch.setattr(gpu_check, "command_of", command_of)
  monkeypatch.setitem(gpu_check.PARTS, "devices", 1)
  assert _main(tmp_path / "found.json", f"--only={','.join(ends)}") == 1
  text = capsys.readouterr().out
  for part in ends:
    assert f"| {part}: found | 7 ms |" in text
  problems = [
    "devices: took more than 1 s",
    "graphs: exit code 1: no kernel",
    "steps: exit code -6",
  ]
  assert json.loads((tmp_path / "found.json").read_text())["fell_short"] == (
    problems
  )
  assert all(f"- {problem}" in text for problem in problems)


@pytest.mark.parametrize("value", [0.5, math.nan])
def test_what_falls_short_is_named(value: float) -> None:
  outcomes = {
    "loss": Outcome([Row("GPU and CPU differ", value)]),
    "steps": Outcome(
      [
        Row("step of default, cuDNN", 11.0, "ms"),
        Row("step of fast.flags, cuDNN", "failed: no memory"),
      ]
    ),
    "replicas": Outcome([Row("speed-up of 2 replicas", 1.5)]),
    "dropout": Outcome([Row("numbers unlike the CPU's", "left out")]),
  }
  failed = "steps: step of fast.flags, cuDNN: failed: no memory"
  different = f"loss: GPU and CPU differ: {value:g}, expected at most 0.02"
  slow = "steps: step of default, cuDNN: 11, expected at most 10"
  assert [*shortfalls(outcomes, with_speed=False)] == [failed, different]
  assert [*shortfalls(outcomes, with_speed=True)] == [failed, slow, different]
  text = to_markdown(outcomes, with_speed=True)
  assert f"- {slow}" in text
  missing = text.partition("Expected, but not measured")[2]
  assert "- dropout: numbers unlike the CPU's, at most 0" in missing
  assert "replicas" not in missing
