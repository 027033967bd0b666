"""Workers that train together: equal results, and what a lost one leads to."""

import functools
import os
import pathlib
import random
import signal
import socket

import pytest
from helpers import Program
from soak import assert_equal_runs
from workers import (
  Workers,
  addresses,
  tf_config,
  wait_until,
)

import train

_FLAGS = (
  "--dropout_rate=0.1",
  "--clip_norm=0.5",
  "--optimizer=muon",
  "--carry_state",
  "--reset_rate=0.1",
  "--valid_lines=20",
  "--eval_every_steps=40",
  "--device=cpu",
  "--checkpoint_every_steps=5",
)


def _args(train_args: list[str], run_dir: pathlib.Path, *more: str) -> list:
  # Workers have a replica each.
  flags = [flag for flag in train_args if "num_replicas" not in flag]
  return [*flags, *_FLAGS, f"--run_dir={run_dir}", *more]


def _start(args: list, whole: bool = False) -> Workers:
  start = functools.partial(Program, whole=whole)
  return Workers(random.Random(0), start, 2, *args)


def _wait_for_step(chief: Program, run_dir: pathlib.Path, step: int) -> None:
  saved = run_dir / "checkpoints" / f"ckpt-{step}.index"
  wait_until(lambda: saved.exists() or chief.poll() is not None)
  assert chief.poll() is None, chief.communicate()


def _lines(process: Program) -> list[str]:
  return process.communicate()[1].splitlines()


@pytest.mark.usefixtures("quick_evaluations")
def test_two_workers_train_one_model_through_a_stop_and_a_loss(
  train_args: list[str], tmp_path: pathlib.Path
) -> None:
  run_dir, alone = tmp_path / "run", tmp_path / "alone"
  args = _args(train_args, run_dir, "--epochs=6")
  slurm = {
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_STEP_NODELIST": "localhost",
    "SLURM_STEP_TASKS_PER_NODE": "2",
    "SLURMD_NODENAME": "localhost",
    "SLURM_JOB_ID": str(os.getpid()),
  }
  ranks = [{"SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)} for i in range(2)]
  processes = [Program(*args, env={**slurm, **rank}) for rank in ranks]
  _wait_for_step(processes[0], run_dir, 10)
  processes[1].send_signal(signal.SIGUSR1)
  assert [process.wait() for process in processes] == [143, 143]
  printed, _ = processes[0].communicate()
  assert "on each of 2 workers" in printed
  assert "stopped after step" in printed

  workers = _start(args)
  # The chief has evaluated step 40.
  _wait_for_step(workers.processes[0], run_dir, 45)
  workers.send_signal(signal.SIGSTOP, 0)
  assert workers.wait() == 4
  (line,) = _lines(workers.processes[1])
  assert line.startswith("train.py: worker 0 (127.0.0.1:")
  assert "start all workers again" in line

  # Two replicas of one process go on from there, or begin.
  for each in (run_dir, alone):
    args = _args(train_args, each, "--epochs=6", "--num_replicas=2")
    assert train.main(args) == 0
  assert_equal_runs(run_dir, alone)
  # Longer: its end was evaluated, though no evaluation is due at that step.
  longer = _args(train_args, run_dir, "--epochs=7")
  assert _start(longer, whole=True).wait() == 0


def test_what_differs_or_is_refused_ends_all_workers(
  train_args: list[str], trained_run: pathlib.Path, corpus_path: pathlib.Path
) -> None:
  # The finished run has other flags, which only the chief can see.
  workers = _start(_args(train_args, trained_run))
  assert workers.wait() == 2
  refusals = [_lines(process) for process in workers.processes]
  assert [len(lines) for lines in refusals] == [1, 1]
  assert all("holds another run" in line for (line,) in refusals)

  found = addresses(2)
  args = _args(train_args, trained_run)
  processes = [
    # It would train on another part of the same text.
    Program(*args, *flags, env={"TF_CONFIG": tf_config(found, i)})
    for i, flags in enumerate(([], [f"--eval_corpus={corpus_path}"]))
  ]
  for process in processes:
    assert process.wait() == 2
    (line,) = _lines(process)
    assert "eval_corpus (False on worker 0 (127.0.0.1:" in line
    assert "True on worker 1 (127.0.0.1:" in line


@pytest.mark.parametrize(
  ("number", "index"), [(signal.SIGINT, 0), (signal.SIGTERM, 1)]
)
def test_a_worker_says_whom_it_waits_for_and_ends_at_a_signal(
  number: signal.Signals,
  index: int,
  train_args: list[str],
  tmp_path: pathlib.Path,
) -> None:
  found = addresses(2)
  args = _args(train_args, tmp_path / "run")
  with Program(*args, env={"TF_CONFIG": tf_config(found, index)}) as process:
    wait_until(lambda: f"waits for {found[1 - index]}" in process.printed())
    process.send_signal(number)
    assert process.wait(5) == -number
  assert not (tmp_path / "run").exists()


def test_a_port_in_use_is_named(
  train_args: list[str],
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture[str],
) -> None:
  with socket.create_server(("", 0)) as server:
    address = f"127.0.0.1:{server.getsockname()[1]}"
    monkeypatch.setenv("TF_CONFIG", tf_config([address, "b:1"], 0))
    assert train.main(_args(train_args, tmp_path / "run")) == 2
  assert f"{address}: " in capsys.readouterr().err
  assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
  ("config", "flag"),
  [
    ("{", "--epochs=1"),
    (tf_config(["a:1", "b:1"], 2), "--epochs=1"),
    (tf_config(["a:1", "b:1"], 0).replace('"worker"', '"ps"'), "--epochs=1"),
    (tf_config(["a:1", "b:1"], 0), "--num_replicas=2"),
    (tf_config(["a:1", "b:1"], 0), "--batch_size=3"),
  ],
)
def test_a_cluster_that_cannot_be_is_refused(
  config: str,
  flag: str,
  train_args: list[str],
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture[str],
) -> None:
  monkeypatch.setenv("TF_CONFIG", config)
  assert train.main(_args(train_args, tmp_path / "run", flag)) == 2
  assert capsys.readouterr().err.count("\n") == 1
  assert not (tmp_path / "run").exists()
