"""Training through `train.py`, and the files of a run."""

import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import socket
from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf
from helpers import Program, file_size_limit, metrics, run_program
from soak import assert_equal_runs
from workers import wait_until

import eval as eval_program
import sample as sample_program
import train as train_program
from charlm.evaluation.evaluator import Evaluator
from charlm.runs.checkpoints import find_checkpoint
from charlm.runs.run import checkpoint_steps, open_run
from charlm.training.loop import Periods
from charlm.training.options import TrainOptions
from charlm.training.trainer import Trainer


def test_a_run_records_train_and_eval_metrics(
  trained_run: pathlib.Path,
) -> None:
  train, evals = metrics(trained_run, "train"), metrics(trained_run, "eval")
  assert [record["step"] for record in train] == [10, 20, 30, 36]
  assert [record["step"] for record in evals] == [12, 24, 36]
  assert train[-1]["loss"] < train[0]["loss"]
  assert evals[-1]["loss"] < evals[0]["loss"]
  both = {"step", "split", "loss", "seconds", "time"}
  of_train = {"gradient_norm", "learning_rate", "characters_per_second"}
  of_eval = {"perplexity", "bits_per_character", "bits_per_byte", "sample"}
  assert all(record.keys() == both | of_train for record in train)
  assert all(record.keys() == both | of_eval for record in evals)


@pytest.mark.parametrize(
  ("steps_per_epoch", "epochs", "valid", "by_epochs", "expected"),
  [
    (12, 3, False, False, (10, 12, 3)),
    (1601, 3, False, False, (20, 1601, 401)),
    # A run with a valid text evaluates at least ten times.
    (1600, 3, True, False, (20, 480, 400)),
    (1600, 20, True, False, (20, 1600, 400)),
    # A run of an earlier release keeps evaluating after each epoch.
    (1600, 3, True, True, (20, 1600, 400)),
    (12, 0, True, False, (10, 1, 3)),
  ],
)
def test_the_default_periods(
  steps_per_epoch: int,
  epochs: int,
  valid: bool,
  by_epochs: bool,
  expected: tuple[int, int, int],
) -> None:
  when = Periods(
    TrainOptions(run_dir="run"),
    steps_per_epoch=steps_per_epoch,
    last_step=epochs * steps_per_epoch,
    has_valid_text=valid,
    by_epochs=by_epochs,
  )
  assert (when.metrics, when.evaluation, when.checkpoint) == expected


def test_a_second_training_in_a_folder_is_refused(
  start: Callable[..., int],
  trained_run: pathlib.Path,
  tmp_path: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
) -> None:
  run = shutil.copytree(trained_run, tmp_path / "run")
  with open_run(run).locked():
    assert start() == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert f"process {os.getpid()} is training in {run}" in line


def test_a_start_is_logged(trained_run: pathlib.Path) -> None:
  (line,) = (trained_run / "starts.jsonl").read_text().splitlines()
  start = json.loads(line)
  assert start["devices"] == ["CPU:0"]
  assert start["step"] == 0
  assert {"python", "tensorflow", "keras", "numpy"} <= start["versions"].keys()
  assert {"command", "commit", "processor", "cores"} <= start.keys()


def test_a_disk_too_full_for_the_first_checkpoint_loses_nothing(
  start: Callable[..., int],
  short_run: pathlib.Path,
  tmp_path: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
) -> None:
  with file_size_limit(10_000):  # enough for all files but the checkpoint
    assert start() == 4
  (line,) = capsys.readouterr().err.splitlines()
  assert "free some space" in line
  assert not (tmp_path / "run" / "metrics.jsonl").exists()
  assert start() == 0
  assert_equal_runs(tmp_path / "run", short_run)


@pytest.mark.parametrize(
  ("where", "steps"),
  [("step", [9, 12, 15]), ("evaluation", [15, 18, 21])],
)
def test_a_diverged_run_exits_with_3_and_keeps_its_checkpoints(
  where: str,
  steps: list[int],
  start: Callable[..., int],
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture[str],
) -> None:
  run_steps, losses = Trainer._run_steps, iter([1.0, np.nan])

  def poisoned(self: Trainer, start: int, stop: int) -> float:
    if stop > 15:
      self.model.dense.bias.assign(self.model.dense.bias * float("nan"))
    return run_steps(self, start, stop)

  def scored(self: Evaluator, ids: np.ndarray) -> np.ndarray:
    return np.full(len(ids) - 1, next(losses))

  if where == "step":
    monkeypatch.setattr(Trainer, "_run_steps", poisoned)
  else:
    monkeypatch.setattr(Evaluator, "stream", scored)
  assert start("--epochs=3") == 3
  (line,) = capsys.readouterr().err.splitlines()
  assert re.search("is not finite.* --learning_rate", line)
  assert sorted(checkpoint_steps(tmp_path / "run" / "checkpoints")) == steps
  assert find_checkpoint(open_run(tmp_path / "run"), "best")[0] == 12


@pytest.mark.usefixtures("quick_evaluations")
@pytest.mark.parametrize(
  ("data", "chars"),
  [
    (
      b"\xef\xbb\xbf" + b"ab ba\r\nab ba\rab\x00ba\n"
      b"ab\x0b\x1c\xe2\x80\xa8ba\n" * 33 + b"c",
      "\n\x00\x0b\x1c abc\u2028",
    ),
    (b"aaaaaa\n" * 99, "\na"),
  ],
  ids=[
    "byte-order mark, all line ends, NUL, other separators, no final newline",
    "one character",
  ],
)
def test_unusual_corpora_can_be_trained_sampled_and_scored(
  data: bytes,
  chars: str,
  tmp_path: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
) -> None:
  (tmp_path / "corpus.txt").write_bytes(data)
  run_dir = f"--run_dir={tmp_path}/run"
  args = ["train.py", f"--corpus={tmp_path}/corpus.txt", run_dir, "--epochs=0"]
  args += ["--eval_lines=20", "--seq_length=5", "--batch_size=2"]
  # With a valid text, training ends without scoring the eval text.
  args += ["--rnn_units=4", "--embedding_dim=4", "--valid_lines=5"]
  assert train_program.main(args) == 0
  assert set(open_run(tmp_path / "run").vocab[2:]) == set(chars)
  capsys.readouterr()
  assert sample_program.main(["sample.py", run_dir, "--num_chars=50"]) == 0
  text = capsys.readouterr().out
  assert len(text) == 51
  assert set(text) <= set(chars)
  assert eval_program.main(["eval.py", run_dir, "--json"]) == 0
  assert json.loads(capsys.readouterr().out)["num_unknown"] == 0


def test_train_eval_sample_as_processes(
  train_args: list[str], tmp_path: pathlib.Path
) -> None:
  run_dir = tmp_path / "a run, ü"
  trained = run_program(*train_args, f"--run_dir={run_dir}", "--epochs=2")
  assert (trained.returncode, trained.stderr) == (0, "")
  assert ", 1,823 weights\n" in trained.stdout
  match = re.search(
    r"trained to step 24\neval loss (\S+) nats per character \((\S+) bits\)\n"
    r"sample at temperature 0.7:\n",
    trained.stdout,
  )
  sample, _, end = trained.stdout[match.end() :].rpartition("\nsample.py, ")
  assert end == f"eval.py and report.py read this run: --run_dir={run_dir}\n"
  record = metrics(run_dir, "eval")[-1]
  assert record["sample"] == sample
  prefix = sample[:-500]
  log_perplexity, bits = map(float, match.groups())
  assert bits == pytest.approx(log_perplexity / 0.693147, rel=1e-3)

  scored = run_program("eval.py", f"--run_dir={run_dir}", "--json")
  assert (scored.returncode, scored.stderr) == (0, "")
  assert scored.stdout.count("\n") == 1
  score = json.loads(scored.stdout)
  assert score["log_perplexity"] == pytest.approx(log_perplexity, abs=1e-4)
  assert score["step"] == 24
  assert score["num_unknown"] == 0
  eval_text = (run_dir / "eval.txt").read_text()
  assert 0 < len(prefix) <= 20
  assert eval_text.startswith(prefix)
  assert score["num_characters"] == len(eval_text) - 1

  sampled = run_program(
    "sample.py", f"--run_dir={run_dir}", "--num_chars=30", "--prefix=the "
  )
  assert (sampled.returncode, sampled.stderr) == (0, "")
  assert sampled.stdout.startswith("the ")
  assert len(sampled.stdout) == len("the ") + 30 + 1

  assert set(os.listdir(run_dir)) == {
    "best",
    "checkpoints",
    "config.json",
    "eval.txt",
    "lock",
    "metrics.jsonl",
    "starts.jsonl",
    "summaries",
    "vocabulary.json",
  }


def test_a_profile_is_captured_while_it_trains(
  train_args: list[str], tmp_path: pathlib.Path
) -> None:
  with socket.socket() as free:
    free.bind(("", 0))
    port = free.getsockname()[1]
  run = tmp_path / "run"
  args = [*train_args, f"--run_dir={run}", f"--profile_port={port}"]
  with Program(*args, "--epochs=100000", "--eval_every_steps=500") as program:
    wait_until(lambda: metrics(run, "train"))
    folder = str(run / "summaries")
    tf.profiler.experimental.client.trace(f"localhost:{port}", folder, 500)
    program.send_signal(signal.SIGTERM)
    assert program.wait() == 143
  (profile,) = run.rglob("*.xplane.pb")
  assert b"step_num" in profile.read_bytes()  # steps are numbered


def test_a_full_log_does_not_stop_a_training(
  start: Callable[..., int],
  tmp_path: pathlib.Path,
  capfd: pytest.CaptureFixture[str],
) -> None:
  # Closing the log, as at exit, fails if unwritten output is left in it.
  with open("/dev/full", "w") as full, contextlib.redirect_stdout(full):
    assert start("--max_steps=3") == 0
  assert capfd.readouterr().err == ""
  assert (tmp_path / "run" / "checkpoints" / "ckpt-3.index").exists()
