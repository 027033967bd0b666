"""A training that mistakes its CPU devices for GPUs."""

import json
import pathlib
from collections.abc import Callable
from typing import Any

import pytest
import tensorflow as tf
from helpers import Gpus, pretend_gpus
from soak import numbers

import train as train_program
from charlm.evaluation.evaluator import Evaluator
from charlm.runs.run import checkpoint_steps
from charlm.sampling.generator import GenerativeModel
from charlm.system import cuda
from charlm.training import start
from charlm.training.trainer import Trainer
from charlm.training.workers import Cluster


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
  """Pretends that two CPU devices are GPUs."""
  enable = tf.config.experimental.enable_tensor_float_32_execution
  pretend_gpus(monkeypatch, Gpus((8, 9), (8, 9)))
  name = "enable_tensor_float_32_execution"
  monkeypatch.setattr(tf.config.experimental, name, enable)
  driver = tmp_path / "driver"
  driver.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.1 \n")
  monkeypatch.setattr(cuda, "_DRIVER", driver)
  strategy = tf.distribute.MirroredStrategy(
    ["CPU:0", "CPU:1"], tf.distribute.ReductionToOneDevice()
  )
  enable(False)
  monkeypatch.setattr(start, "_set_up_devices", lambda _: Cluster(strategy))


def _note_calls(
  monkeypatch: pytest.MonkeyPatch,
) -> list[tuple[str, bool]]:
  """Returns a list that records calls, and whether TF32 is enabled."""
  calls = []

  def note(owner: type, name: str) -> None:
    original = getattr(owner, name)

    def noted(*args: Any, **kwargs: Any) -> Any:
      in_tf32 = tf.config.experimental.tensor_float_32_execution_enabled()
      calls.append((name, in_tf32))
      return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, noted)

  note(Trainer, "_run_steps")
  note(Evaluator, "stream")
  note(GenerativeModel, "sample")
  return calls


def test_a_training_on_gpus_uses_tf32_and_saves_less_often(
  train_args: list[str],
  trained: Callable[..., pathlib.Path],
  tmp_path: pathlib.Path,
  request: pytest.FixtureRequest,
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture[str],
) -> None:
  flags = ["--gru=fused", "--num_replicas=2"]
  on_cpu = trained("replicas", *flags)
  request.getfixturevalue("gpus")
  calls = _note_calls(monkeypatch)
  run_dir = tmp_path / "run"
  args = [*train_args, *flags, f"--run_dir={run_dir}"]
  assert train_program.main(args) == 0

  # XLA compiles the fused layer's gradients, and rounds differently.
  losses, on_cpus = (
    [record["loss"] for record in numbers(run) if record["split"] == "train"]
    for run in (run_dir, on_cpu)
  )
  assert losses == pytest.approx(on_cpus, rel=1e-6)
  # Only training uses TensorFloat-32.
  assert {name for name, _ in calls} == {"_run_steps", "stream", "sample"}
  assert all(in_tf32 == (name == "_run_steps") for name, in_tf32 in calls)

  # Saves are at least 100 steps apart.
  assert checkpoint_steps(on_cpu / "checkpoints") == [6, 9, 12]
  assert checkpoint_steps(run_dir / "checkpoints") == [0, 12]
  (line,) = (run_dir / "starts.jsonl").read_text().splitlines()
  gpus = json.loads(line)["gpus"]
  assert gpus["gpu"] == "1 x GPU 0, 1 x GPU 1"
  assert gpus["driver"] == "570.1"
  assert gpus.keys() == {"gpu", "driver", "cuda", "cudnn", "nccl"}
  printed, warned = capsys.readouterr()
  assert not warned
  assert printed.count("a first start on a kind of card can take minutes") == 1
