"""Workers that train together: equal results, and what a lost one leads to."""

import os
import pathlib
import random
import signal
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from helpers import ROOT, Program, metrics
from soak import assert_equal_runs
from workers import (
  Workers,
  addresses,
  tf_config,
  wait_until,
  without_replicas,
)

import train
from charlm.system.rendezvous import wait_for_workers

_FLAGS = (
  "--dropout_rate=0.1",
  "--clip_norm=0.5",
  "--optimizer=muon",
  "--carry_state",
  "--reset_rate=0.1",
  "--valid_lines=20",
  "--eval_every_steps=200",
)


def _args(train_args: list[str], run_dir: pathlib.Path, *more: str) -> list:
  flags = without_replicas(train_args)
  return [*flags, *_FLAGS, f"--run_dir={run_dir}", *more]


def _start(args: list) -> Workers:
  return Workers(random.Random(0), Program, 2, *args)


def _wait_for_step(workers: Workers, run_dir: pathlib.Path, step: int) -> None:
  saved = run_dir / "checkpoints" / f"ckpt-{step}.index"
  wait_until(lambda: saved.exists() or workers.poll() is not None)
  assert workers.poll() is None, workers.processes[0].communicate()


def _lines(workers: Workers, index: int) -> list[str]:
  return workers.processes[index].communicate()[1].splitlines()


def test_two_workers_equal_two_replicas_through_a_stop_and_a_loss(
  train_args: list[str], tmp_path: pathlib.Path
) -> None:
  alone, together = tmp_path / "alone", tmp_path / "together"
  args = _args(train_args, alone, "--epochs=20")
  assert train.main([*args, "--num_replicas=2"]) == 0
  args = _args(train_args, together, "--epochs=20")

  workers = _start(args)
  _wait_for_step(workers, together, 20)
  workers.send_signal(signal.SIGUSR1, 1)
  assert workers.wait() == 143
  assert "stopped after step" in workers.processes[0].communicate()[0]

  workers = _start(args)
  _wait_for_step(workers, together, 100)
  workers.send_signal(signal.SIGKILL, 1)
  assert workers.wait() == 4
  (line,) = _lines(workers, 0)
  assert line.startswith("train.py: worker 1 (127.0.0.1:")
  assert "start all workers again" in line

  workers = _start(args)
  assert workers.wait() == 0
  assert_equal_runs(together, alone)


_HURRIED = (
  "import sys, train\n"
  "from charlm.system.process import import_quietly\n"
  "import_quietly('tensorflow', 'keras')\n"
  "from charlm.system import cluster\n"
  "cluster._REGISTERED_WITHIN = 3\n"
  "cluster._CONNECTED_WITHIN = int(sys.argv.pop())\n"
  "sys.exit(train.main(sys.argv))"
)


def test_a_worker_that_is_lost_while_all_are_connected_ends_the_others(
  train_args: list[str], tmp_path: pathlib.Path
) -> None:
  command = [sys.executable, "-c", _HURRIED]
  command += _args(train_args, tmp_path / "run")[1:]
  pairs = [addresses(2), addresses(2), addresses(2)]
  # TensorFlow adds 5 seconds where the chief is lost. The last one does not
  # wait for that, as if TensorFlow would not end.
  ends = [(0, 30, 4), (1, 30, 4), (1, 1, -signal.SIGALRM)]
  processes = [
    subprocess.Popen(
      [*command, str(seconds)],
      cwd=ROOT,
      env=os.environ | {"TF_CONFIG": tf_config(pair, index)},
      stderr=subprocess.PIPE,
      text=True,
    )
    for pair, (index, seconds, _) in zip(pairs, ends, strict=True)
  ]
  try:
    for pair, (index, _, _) in zip(pairs, ends, strict=True):
      # It meets the other, and does nothing more.
      wait_for_workers(pair, 1 - index, "no GPU", 60)
    for process, (_, _, code) in zip(processes, ends, strict=True):
      _, err = process.communicate(timeout=30)
      assert process.returncode == code
      assert err.count("\n") == (code == 4)
      assert ("could not be connected" in err) == (code == 4)
  finally:
    for process in processes:
      process.kill()
      process.wait()
  assert not (tmp_path / "run").exists()


def test_a_frozen_chief_ends_the_others(
  train_args: list[str], tmp_path: pathlib.Path
) -> None:
  run_dir = tmp_path / "run"
  args = _args(train_args, run_dir, "--epochs=5000")
  workers = _start(args)
  _wait_for_step(workers, run_dir, 10)
  workers.send_signal(signal.SIGSTOP, 0)
  assert workers.wait() == 4
  (line,) = _lines(workers, 1)
  assert line.startswith("train.py: worker 0 (127.0.0.1:")


def test_four_workers_differ_from_four_replicas_by_rounding(
  train_args: list[str], tmp_path: pathlib.Path
) -> None:
  paths = [tmp_path / name for name in ("alone", "together")]
  alone, together = [
    _args(train_args, path, "--max_steps=10") for path in paths
  ]
  assert train.main([*alone, "--num_replicas=4"]) == 0
  own, found = tmp_path / "own", addresses(4)
  processes = [
    # What a worker would write goes into a folder of its own.
    Program(
      *together,
      *([f"--run_dir={own}"] if i else []),
      env={"TF_CONFIG": tf_config(found, i)},
    )
    for i in range(4)
  ]
  assert [process.wait() for process in processes] == [0] * 4
  assert not own.exists()
  one, other = map(_weights, paths)
  for name, value in one.items():
    assert np.abs(value - other[name]).max() < 1e-6, name
  losses = [metrics(path, "train")[-1]["loss"] for path in paths]
  assert losses[0] == pytest.approx(losses[1], abs=1e-6)


def _weights(run_dir: pathlib.Path) -> dict[str, np.ndarray]:
  reader = tf.train.load_checkpoint(str(run_dir / "checkpoints" / "ckpt-10"))
  names = reader.get_variable_to_shape_map()
  return {n: reader.get_tensor(n) for n in names if n.startswith("model/")}


def test_workers_that_are_started_differently_are_refused(
  train_args: list[str], corpus_path: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  run_dir = tmp_path / "run"
  args, found = _args(train_args, run_dir), addresses(3)
  # It would train on another part of the same text.
  more = [f"--eval_corpus={corpus_path}"]
  processes = [
    Program(*args, *flags, env={"TF_CONFIG": tf_config(found, i)})
    for i, flags in enumerate(([], [], more))
  ]
  for process in processes:
    assert process.wait() == 2
    (line,) = process.communicate()[1].splitlines()
    assert "eval_corpus (False on worker 0 (127.0.0.1:" in line
    assert "True on worker 2 (127.0.0.1:" in line
  assert not run_dir.exists()


def test_what_the_chief_refuses_ends_the_others(
  train_args: list[str], trained_run: pathlib.Path
) -> None:
  # The finished run has other flags.
  workers = _start(_args(train_args, trained_run))
  assert workers.wait() == 2
  (line,) = _lines(workers, 0)
  assert "holds another run" in line
  (line,) = _lines(workers, 1)
  assert "worker 0" in line
  assert "exit code 2" in line


def test_a_worker_that_never_comes_is_named(
  train_args: list[str], tmp_path: pathlib.Path
) -> None:
  found = addresses(2)
  args = _args(train_args, tmp_path / "run", "--cluster_timeout=3")
  process = Program(*args, env={"TF_CONFIG": tf_config(found, 0)})
  assert process.wait() == 2
  (line,) = process.communicate()[1].splitlines()
  assert f"worker 1 ({found[1]}) did not connect in time" in line
  assert not (tmp_path / "run").exists()


def test_a_wrong_config_is_refused(
  train_args: list[str],
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture[str],
) -> None:
  monkeypatch.setenv("TF_CONFIG", "{")
  assert train.main(_args(train_args, tmp_path / "run")) == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert "TF_CONFIG does not describe a cluster" in line
  assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
  ("flag", "words"),
  [
    (
      "--num_replicas=2",
      "above the number of devices on each worker, 1: lower it",
    ),
    ("--batch_size=3", "replicas, 2, does not divide the batch size 3"),
  ],
)
def test_replicas_that_cannot_be_had_are_refused(
  flag: str,
  words: str,
  train_args: list[str],
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture[str],
) -> None:
  monkeypatch.setenv("TF_CONFIG", tf_config(addresses(2), 0))
  assert train.main(_args(train_args, tmp_path / "run", flag)) == 2
  assert words in capsys.readouterr().err


def test_slurm_makes_a_cluster(
  train_args: list[str], tmp_path: pathlib.Path
) -> None:
  run_dir = tmp_path / "run"
  slurm = {
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_STEP_NODELIST": "localhost",
    "SLURM_STEP_TASKS_PER_NODE": "2",
    "SLURMD_NODENAME": "localhost",
    "SLURM_JOB_ID": str(os.getpid()),
  }
  args = _args(train_args, run_dir, "--max_steps=5")
  processes = [
    Program(
      *args, env={**slurm, "SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)}
    )
    for i in "01"
  ]
  assert [process.wait() for process in processes] == [0, 0]
  assert "on each of 2 workers" in processes[0].communicate()[0]
