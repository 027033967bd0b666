"""Workers that train together: equal results, refusals and lost workers."""

import ctypes
import functools
import os
import pathlib
import random
import signal
import time

import pytest
import tensorflow as tf
from helpers import Program
from soak import assert_equal_runs
from workers import (
  Workers,
  addresses,
  tf_config,
  wait_until,
)

import train
from charlm.errors import LostRunError
from charlm.training.workers import connect

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
  # Each worker has one replica.
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
def test_two_workers_train_one_model_despite_a_stop_and_a_lost_worker(
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
  # By then the chief has evaluated step 40.
  _wait_for_step(workers.processes[0], run_dir, 45)
  workers.send_signal(signal.SIGSTOP, 0)
  assert workers.wait() == 4
  (line,) = _lines(workers.processes[1])
  assert line.startswith("train.py: worker 0 (127.0.0.1:")
  assert "start all workers again" in line

  # Two replicas in one process continue this run, and train another one.
  for each in (run_dir, alone):
    args = _args(train_args, each, "--epochs=6", "--num_replicas=2")
    assert train.main(args) == 0
  assert_equal_runs(run_dir, alone)
  # Extends a run whose last evaluation is at a step where none is due.
  longer = _args(train_args, run_dir, "--epochs=7")
  assert _start(longer, whole=True).wait() == 0


def _refusals(*flags: list) -> list[str]:
  """Starts a worker for each list of arguments; returns their error lines."""
  found = addresses(len(flags))
  processes = [
    Program(*each, env={"TF_CONFIG": tf_config(found, i)})
    for i, each in enumerate(flags)
  ]
  assert [process.wait() for process in processes] == [2] * len(flags)
  lines = [_lines(process) for process in processes]
  assert [len(each) for each in lines] == [1] * len(flags)
  return [line for (line,) in lines]


def test_a_refusal_of_one_worker_ends_all(
  train_args: list[str],
  trained_run: pathlib.Path,
  corpus_path: pathlib.Path,
  tmp_path: pathlib.Path,
) -> None:
  # The finished run was trained with other flags.
  args = _args(train_args, trained_run)
  chief, other = _refusals(args, args)
  assert "holds another run" in chief
  assert "worker 0 (127.0.0.1:" in other
  assert "was refused" in other
  # These workers would train on the same text, but score different ones.
  (tmp_path / "other.txt").write_text("another text\n" * 9)
  args = _args(train_args, tmp_path / "new")
  args = [flag for flag in args if "eval_lines" not in flag]
  chief, other = _refusals(
    [*args, f"--eval_corpus={corpus_path}"],
    [*args, f"--eval_corpus={tmp_path}/other.txt"],
  )
  assert "worker 1 (127.0.0.1:" in chief
  assert "begins a run" in other
  assert "give all workers the same commit" in other
  assert not (tmp_path / "new").exists()
  # These do not share a folder.
  chief, other = _refusals(
    _args(train_args, tmp_path / "new"), _args(train_args, tmp_path / "empty")
  )
  assert "worker 1 (127.0.0.1:" in chief
  assert f"does not see ckpt-0 in {tmp_path}/empty/checkpoints" in other
  assert "give a folder that all hosts share" in other
  assert not (tmp_path / "empty").exists()


def test_a_waiting_worker_names_the_others_and_ends_on_ctrl_c(
  train_args: list[str], tmp_path: pathlib.Path
) -> None:
  found = addresses(2)
  args = _args(train_args, tmp_path / "run")
  with Program(*args, env={"TF_CONFIG": tf_config(found, 0)}) as process:
    wait_until(lambda: f"waits for {found[1]}" in process.printed())
    time.sleep(0.5)  # until TensorFlow has installed its signal handlers
    process.send_signal(signal.SIGINT)
    assert process.wait(5) == -signal.SIGINT
  assert not (tmp_path / "run").exists()


def test_waiting_for_workers_times_out_and_restores_signal_handlers(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  waits = []

  def fail(*_: object) -> None:
    seconds, _ = signal.getitimer(signal.ITIMER_REAL)
    waits.append((signal.getsignal(signal.SIGINT), seconds))
    # As TensorFlow does.
    libc = ctypes.CDLL(None)
    libc.signal(signal.SIGTERM, ctypes.c_void_p(1))  # SIG_IGN
    raise tf.errors.UnknownError(None, None, "Could not start gRPC server")

  monkeypatch.setattr(tf.distribute, "MultiWorkerMirroredStrategy", fail)
  monkeypatch.setenv("TF_CONFIG", tf_config(["127.0.0.1:1", "b:1"], 0))
  noted = []
  before = signal.signal(signal.SIGTERM, lambda number, _: noted.append(number))
  interrupted = signal.getsignal(signal.SIGINT)
  try:
    with pytest.raises(LostRunError, match=r"127.0.0.1:1 .*gRPC.* this port"):
      connect(["127.0.0.1:1", "b:1"], 0)
    signal.raise_signal(signal.SIGTERM)
  finally:
    signal.signal(signal.SIGTERM, before)
  ((handler, seconds),) = waits
  assert handler == signal.SIG_DFL
  assert 290 < seconds <= 300
  assert signal.getsignal(signal.SIGINT) == interrupted
  assert signal.getitimer(signal.ITIMER_REAL)[0] == 0
  assert noted == [signal.SIGTERM]


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
def test_an_invalid_cluster_is_refused(
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
