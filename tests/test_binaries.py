import io
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np
import pytest
import soak
import tensorflow as tf
from conftest import ROOT, bound_by_permissions

import eval as eval_binary
import export as export_binary
import report as report_binary
import sample as sample_binary
import train as train_binary
from charlm.evaluation import Evaluator, Score
from charlm.run_dir import RunDir
from charlm.session import Session

BINARIES = {
  "train.py": train_binary,
  "eval.py": eval_binary,
  "sample.py": sample_binary,
  "export.py": export_binary,
  "report.py": report_binary,
}


def _metrics(run_dir: pathlib.Path, split: str) -> list[dict]:
  lines = (run_dir / "metrics.jsonl").read_text().splitlines()
  return [r for line in lines if (r := json.loads(line))["split"] == split]


def _numbers(run_dir: pathlib.Path) -> list[dict]:
  """All metrics but the speed, which no two runs share."""
  return [
    {k: v for k, v in record.items() if k != "characters_per_second"}
    for split in ("train", "eval")
    for record in _metrics(run_dir, split)
  ]


def _run(*args: str | pathlib.Path) -> subprocess.CompletedProcess:
  return subprocess.run(
    [sys.executable, ROOT / args[0], *args[1:]], capture_output=True, text=True
  )


def test_train_eval_sample_as_processes(
  train_args: list[str], tmp_path: pathlib.Path
) -> None:
  run_dir = tmp_path / "a run, ü"
  trained = _run(*train_args, f"--run_dir={run_dir}", "--epochs=2")
  assert (trained.returncode, trained.stderr) == (0, "")
  assert "= 1,823 parameters" in trained.stdout
  match = re.search(
    r"trained to step 24 held out: log perplexity (\S+) \((\S+) bits per "
    r"character\), perplexity (\S+)\n-{20}\n",
    trained.stdout,
  )
  assert len(trained.stdout[match.end() :]) == 501
  log_perplexity, bits, perplexity = map(float, match.groups())
  assert perplexity == pytest.approx(2.718281828**log_perplexity, rel=1e-3)
  assert bits == pytest.approx(log_perplexity / 0.693147, rel=1e-3)

  scored = _run("eval.py", f"--run_dir={run_dir}", "--json")
  assert (scored.returncode, scored.stderr) == (0, "")
  assert scored.stdout.count("\n") == 1
  score = json.loads(scored.stdout)
  assert score["log_perplexity"] == pytest.approx(log_perplexity, abs=1e-4)
  assert score["step"] == 24
  assert score["num_unknown"] == 0
  held_out = (run_dir / "held_out.txt").read_text()
  assert score["num_characters"] == len(held_out) - 1

  sampled = _run(
    "sample.py", f"--run_dir={run_dir}", "--num_chars=30", "--prefix=the "
  )
  assert (sampled.returncode, sampled.stderr) == (0, "")
  assert sampled.stdout.startswith("the ")
  assert len(sampled.stdout) == len("the ") + 30 + 1

  assert set(os.listdir(run_dir)) == {
    "best",
    "checkpoints",
    "config.json",
    "held_out.txt",
    "lock",
    "metrics.jsonl",
    "starts.jsonl",
    "summaries",
    "vocabulary.json",
  }


def test_metrics_of_a_run(trained_run: pathlib.Path) -> None:
  train, evals = _metrics(trained_run, "train"), _metrics(trained_run, "eval")
  assert [record["step"] for record in train] == [10, 20, 30, 36]
  assert [record["step"] for record in evals] == [12, 24, 36]
  assert train[-1]["loss"] < train[0]["loss"]
  assert evals[-1]["loss"] < evals[0]["loss"]
  for record in train:
    assert set(record) == {
      "step",
      "split",
      "loss",
      "gradient_norm",
      "learning_rate",
      "characters_per_second",
    }
  for record in evals:
    assert set(record) == {
      "step",
      "split",
      "loss",
      "perplexity",
      "bits_per_character",
      "sample",
      "continuation",
    }
    assert len(record["sample"]) == 500
    assert len(record["continuation"]) == 600


def test_the_curve_of_an_epoch_has_80_points(
  train_args: list[str], tmp_path: pathlib.Path
) -> None:
  args = [*train_args, f"--run_dir={tmp_path}/run"]
  args += ["--seq_length=6", "--batch_size=1", "--num_replicas=1"]
  assert train_binary.main(args) == 0
  *steps, last = [r["step"] for r in _metrics(tmp_path / "run", "train")]
  assert steps == list(range(last // 80, last, last // 80))
  assert len(steps) >= 80
  assert steps[0] > 10  # the least


def test_a_profile_of_steps_that_are_past_is_told(
  train_args: list[str],
  trained_run: pathlib.Path,
  tmp_path: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
) -> None:
  shutil.copytree(trained_run, tmp_path / "run")
  args = [*train_args, f"--run_dir={tmp_path}/run", "--epochs=4"]
  # A profile begins after its first step, and the run has taken that.
  assert train_binary.main([*args, "--profile_steps=36,40"]) == 0
  assert "no profile: step 36" in capsys.readouterr().err
  # Nor is there one that begins where the run ends.
  args[-1] = "--epochs=5"
  assert train_binary.main([*args, "--profile_steps=60,70"]) == 0
  assert "no profile: step 60" in capsys.readouterr().err
  assert not list((tmp_path / "run").rglob("profile"))


def test_a_start_is_logged(trained_run: pathlib.Path) -> None:
  (line,) = (trained_run / "starts.jsonl").read_text().splitlines()
  start = json.loads(line)
  assert start["devices"] == ["CPU:0", "CPU:1"]
  assert start["step"] == 0
  assert {"python", "tensorflow", "keras", "numpy"} <= start["versions"].keys()
  assert {"command", "commit", "cores", "intra_op_threads"} <= start.keys()


def test_the_best_checkpoint_scores_best(
  trained_run: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
  evals = _metrics(trained_run, "eval")
  best = min(evals, key=lambda record: record["loss"])
  args = ["eval.py", f"--run_dir={trained_run}", "--checkpoint=best", "--json"]
  assert eval_binary.main(args) == 0
  score = json.loads(capsys.readouterr().out)
  assert score["step"] == best["step"]
  assert score["log_perplexity"] == pytest.approx(best["loss"], abs=1e-6)


def test_an_extended_run_equals_an_unbroken_one(
  train_args: list[str], trained_run: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  args = [*train_args, f"--run_dir={tmp_path}/run"]
  for epochs in (1, 3):
    assert train_binary.main([*args, f"--epochs={epochs}"]) == 0
  extended = _numbers(tmp_path / "run")
  # The first run's end, step 12, is reported beside the regular steps.
  (between,) = (
    r for r in extended if r["step"] == 12 and r["split"] == "train"
  )
  unbroken = _numbers(trained_run)
  assert [r for r in extended if r["step"] not in (12, 20)] == [
    r for r in unbroken if r["step"] not in (12, 20)
  ]
  assert [r for r in extended if r["split"] == "eval"] == [
    r for r in unbroken if r["split"] == "eval"
  ]
  assert between["loss"] > 0


def test_a_finished_run_only_reports_again(
  train_args: list[str],
  trained_run: pathlib.Path,
  tmp_path: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
) -> None:
  shutil.copytree(trained_run, tmp_path / "moved")
  args = [*train_args, f"--run_dir={tmp_path}/moved", "--epochs=3"]
  assert train_binary.main(args) == 0
  assert "trained to step 36 held out" in capsys.readouterr().out
  assert _numbers(tmp_path / "moved") == _numbers(trained_run)


def test_no_epochs_make_the_folder_with_step_0(
  train_args: list[str], tmp_path: pathlib.Path
) -> None:
  run_dir = tmp_path / "run"
  args = [*train_args, f"--run_dir={run_dir}", "--epochs=0"]
  assert train_binary.main(args) == 0
  assert (run_dir / "checkpoints" / "ckpt-0.index").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_the_run_goes_on_as_if_unbroken(
  number: signal.Signals, train_args: list[str], tmp_path: pathlib.Path
) -> None:
  args = [*train_args, "--checkpoint_every_steps=10000", "--epochs=100"]
  stopped = [*args, f"--run_dir={tmp_path}/stopped"]
  with subprocess.Popen(
    [sys.executable, ROOT / stopped[0], *stopped[1:]],
    stdout=subprocess.PIPE,
    text=True,
  ) as process:
    metrics = tmp_path / "stopped" / "metrics.jsonl"
    while not metrics.exists() or not metrics.read_bytes():
      assert process.poll() is None
      time.sleep(0.02)
    process.send_signal(number)
    out, _ = process.communicate()
  assert process.returncode == 128 + number
  step = int(re.search(r"stopped after step ([\d,]+)", out)[1].replace(",", ""))
  assert 10 <= step < 1200
  epochs = f"--epochs={step // 12 + 1}"
  assert _run(*stopped, epochs).returncode == 0
  unbroken = tmp_path / "unbroken"
  assert _run(*args, f"--run_dir={unbroken}", epochs).returncode == 0
  assert _numbers(tmp_path / "stopped") == _numbers(unbroken)


def test_eval_of_another_text(
  trained_run: pathlib.Path,
  tmp_path: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  held_out = (trained_run / "held_out.txt").read_text()
  padded = "\ufeff\r\n" + held_out.replace("\n", "  \r\n\r\n ") + "\n\n"
  (tmp_path / "text.txt").write_text(padded, encoding="utf-8", newline="")
  args = ["eval.py", f"--run_dir={trained_run}", "--json"]
  scores = []
  stdin = io.TextIOWrapper(io.BytesIO(padded.encode()))
  monkeypatch.setattr(sys, "stdin", stdin)
  for more in ([], [f"--text={tmp_path}/text.txt"], ["--text=-"]):
    assert eval_binary.main([*args, *more]) == 0
    scores.append(json.loads(capsys.readouterr().out))
  assert scores[0] == scores[1] == scores[2]


def test_eval_charges_unknown_characters(
  trained_run: pathlib.Path,
  tmp_path: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
) -> None:
  (tmp_path / "text.txt").write_text("the kïng of nîght", encoding="utf-8")
  args = ["eval.py", f"--run_dir={trained_run}", f"--text={tmp_path}/text.txt"]
  assert eval_binary.main(args) == 0
  captured = capsys.readouterr()
  assert "16, 2 of them unknown" in captured.out
  assert "over the known ones" in captured.out
  assert captured.err == "unknown to the model: 'î' 'ï'\n"
  assert eval_binary.main([*args, "--json"]) == 0
  score = json.loads(capsys.readouterr().out)
  assert score["num_unknown"] == 2
  assert score["log_perplexity_known"] < score["log_perplexity"]


def test_samples_on_stdout_are_prefix_and_text_alone(
  trained_run: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
  args = ["sample.py", f"--run_dir={trained_run}", "--num_chars=40"]
  assert sample_binary.main([*args, "--num_samples=3"]) == 0
  captured = capsys.readouterr()
  assert captured.err == ""
  texts = captured.out.removesuffix("\n").split("\n" + "-" * 20 + "\n")
  assert [len(text) for text in texts] == [40, 40, 40]
  for more in ([], ["--prefix=\n"]):
    assert sample_binary.main([*args, *more]) == 0
    assert capsys.readouterr().out.removesuffix("\n").endswith(texts[0])
  assert sample_binary.main([*args, "--seed=1"]) == 0
  assert capsys.readouterr().out != texts[0] + "\n"


def test_sample_names_unknown_prefix_characters(
  trained_run: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
  args = ["sample.py", f"--run_dir={trained_run}", "--num_chars=5"]
  assert sample_binary.main([*args, "--prefix=kïng Z"]) == 0
  captured = capsys.readouterr()
  assert captured.out.startswith("kïng Z")
  assert captured.err.count("\n") == 1
  assert "'Z' 'ï'" in captured.err


@pytest.mark.parametrize("name", BINARIES)
def test_a_closed_output_is_no_error(name: str) -> None:
  command = f"{sys.executable} {ROOT / name} --help >&-"
  result = subprocess.run(
    command, shell=True, capture_output=True, text=True, check=True
  )
  assert result.stderr == ""


@pytest.mark.parametrize("name", BINARIES)
def test_help_is_no_error(
  name: str, capsys: pytest.CaptureFixture[str]
) -> None:
  assert BINARIES[name].main([name, "--help"]) == 0
  captured = capsys.readouterr()
  assert "--run_dir" in captured.out
  assert captured.err == ""


BAD_FILES = {
  "empty.txt": b"",
  "blank.txt": b" \n\r\n\t\n",
  "one_line.txt": b"to be or not to be",
  "long_line.txt": b"to be " * (50_000_000 // 6),
  "bad.h5": b"\x89HDF\r\n\x1a\n" + bytes(99),
  "\udce9.txt": b"to be\n",
  "few.txt": b"to be\nor not\n!\n",
  "a.txt": b"a\n",
  "bad.txt": b"abc\xff",
  "late.txt": b"to be or \n" * 9000 + b"\xc3\x28",
  "utf16.txt": "to be or not\n".encode("utf-16"),
}
BAD_INPUT = [
  ("train.py", ["--corpus={tmp}/empty.txt"], "no line of text"),
  ("train.py", ["--corpus={tmp}/none.txt"], "no file at"),
  ("train.py", ["--corpus={tmp}/bad.txt"], "not UTF-8 at byte 3"),
  ("train.py", ["--corpus={tmp}/blank.txt"], "no line of text"),
  ("train.py", ["--corpus={tmp}/one_line.txt"], "leaves nothing to train on"),
  ("train.py", ["--corpus={tmp}/long_line.txt"], "leaves nothing to train on"),
  ("train.py", ["--corpus={tmp}/utf16.txt"], "not UTF-8 at byte 0"),
  ("train.py", ["--corpus={tmp}/late.txt"], "not UTF-8 at byte 90000"),
  ("train.py", ["--corpus={tmp}/pipe"], "not a regular file"),
  ("train.py", ["--corpus={tmp}/folder"], "no file at"),
  ("train.py", ["--corpus={tmp}/*.md"], "no file at"),
  ("train.py", ["--corpus={tmp}/few.txt,{tmp}/none.txt"], "none.txt"),
  ("train.py", ["--corpus={tmp}/few.txt,"], "empty path"),
  ("train.py", ["--corpus="], "corpus is ''"),
  (
    "train.py",
    ["--corpus={tmp}/few.txt", "--eval_lines=2"],
    "fewer than one batch",
  ),
  (
    "train.py",
    ["--corpus={tmp}/few.txt", "--eval_lines=1"],
    "a single character",
  ),
  ("train.py", ["--seq_length=2000"], "fewer than one batch"),
  ("train.py", ["--seq_length=99999999999"], "seq_length is 99999999999"),
  ("train.py", ["--batch_size=99999999999"], "batch_size is 99999999999"),
  ("train.py", ["--rnn_units=100000"], "between 1 and 65,536"),
  ("train.py", ["--rnn_units=65536"], "GiB, more than the machine's memory"),
  ("train.py", ["--num_layers=101"], "num_layers is 101"),
  ("train.py", ["--dropout_rate=-0.1"], "dropout_rate is -0.1"),
  ("train.py", ["--dropout_rate=nan"], "dropout_rate is nan"),
  ("train.py", ["--learning_rate=0"], "learning_rate is 0.0"),
  ("train.py", ["--learning_rate=-1"], "learning_rate is -1.0"),
  ("train.py", ["--learning_rate=inf"], "learning_rate is inf"),
  ("train.py", ["--learning_rate=fast"], "learning_rate"),
  ("train.py", ["--clip_norm=-1"], "clip_norm is -1.0"),
  ("train.py", ["--clip_norm=nan"], "clip_norm is nan"),
  ("train.py", ["--schedule=linear"], "schedule is 'linear'"),
  ("train.py", ["--warmup_steps=5"], "--schedule=cosine"),
  ("train.py", ["--precision=float16"], "precision is 'float16'"),
  ("train.py", ["--seed=4294967296"], "seed is 4294967296"),
  ("train.py", ["--num_replicas=1000"], "does not divide"),
  ("train.py", ["--eval_every_steps=-1"], "eval_every_steps"),
  ("train.py", ["--checkpoint_every_steps=-1"], "checkpoint_every_steps"),
  ("train.py", ["--run_dir={tmp}/link"], "no plain file or folder"),
  ("train.py", ["--run_dir=/proc/run"], "permissions"),  # is read-only
  ("train.py", ["--batch_size=5000"], "fewer than one batch"),
  ("train.py", ["--eval_lines=300"], "nothing to train on"),
  ("train.py", ["--eval_lines=0"], "eval_lines is 0"),
  ("train.py", ["--rnn_units=0"], "rnn_units is 0"),
  ("train.py", ["--embedding_dim=-1"], "embedding_dim is -1"),
  ("train.py", ["--seq_length=0"], "seq_length is 0"),
  ("train.py", ["--num_layers=0"], "num_layers is 0"),
  ("train.py", ["--batch_size=0"], "batch_size is 0"),
  ("train.py", ["--epochs=-1"], "epochs is -1"),
  ("train.py", ["--learning_rate=nan"], "learning_rate is nan"),
  ("train.py", ["--max_to_keep=0"], "max_to_keep"),
  ("train.py", ["--num_replicas=-1"], "num_replicas"),
  ("train.py", ["--num_replicas=5"], "does not divide"),
  ("train.py", ["--seed=-1"], "seed is -1"),
  ("train.py", ["--run_dir={tmp}/empty.txt/run"], "permissions"),
  ("train.py", ["--epoch=3"], "Did you mean: epochs"),
  ("train.py", ["--epochs=many"], "--epochs=many"),
  ("train.py", ["--flagfile={tmp}/none.flags"], "none.flags"),
  ("train.py", ["3"], "unexpected 3"),
  ("train.py", ["--gru=keras", "--precision=bfloat16"], "--gru=fused"),
  ("train.py", ["--gru=cudnn"], "gru"),
  ("train.py", ["--schedule=cosine", "--warmup_steps=12"], "warmup_steps"),
  ("train.py", ["--run_dir="], "--run_dir is empty"),
  ("train.py", ["--eval_chars=1"], "eval_chars is 1"),
  ("train.py", ["--eval_chars=1000000"], "lower --eval_chars"),
  ("train.py", ["--valid_lines=250"], "lower --valid_lines"),
  ("train.py", ["--reset_rate=0.1"], "--carry_state"),
  ("train.py", ["--carry_state", "--batch_size=512"], "fewer than one batch"),
  ("train.py", ["--gru=keras", "--layer_norm"], "--gru=fused"),
  ("train.py", ["--profile_steps=20,10"], "give two steps"),
  ("train.py", ["--profile_steps=10"], "give two steps"),
  ("train.py", ["--profile_steps=a,b"], "give two steps"),
  ("train.py", ["--init_from={tmp}/none"], "neither a run's folder"),
  (
    "train.py",
    ["--init_from={tmp}/none", "--layer_norm"],
    "neither a run's folder",
  ),
  ("train.py", ["--init_from={tmp}/bad.h5", "--layer_norm"], "leave out"),
  ("train.py", ["--init_from=\udce9"], "init_from is '\\udce9'"),
  ("train.py", ["--corpus={tmp}/\udce9.txt"], "in UTF-8"),
  ("train.py", ["--run_dir={tmp}/\udce9"], "rename the folder"),
  ("train.py", ["--init_from={tmp}/folder"], "not a run directory"),
  ("train.py", ["--init_from={tmp}/few.txt"], "neither a run's folder"),
  ("train.py", ["--init_from={tmp}/bad.h5"], "has no weights of such a GRULM"),
  ("train.py", ["--init_from={run}", "--rnn_units=9"], "give --rnn_units=16"),
  ("train.py", ["--dropout_rate=1"], "dropout_rate is 1.0"),
  ("train.py", ["--weight_decay=-1"], "weight_decay is -1.0"),
  ("train.py", ["--corpus={tmp}/" + "x" * 300], "permissions"),
  ("eval.py", ["--run_dir={tmp}"], "not a run directory"),
  ("eval.py", ["--run_dir={tmp}/none"], "not a run directory"),
  ("eval.py", ["--run_dir={run}", "--checkpoint=7"], "no checkpoint 7"),
  ("eval.py", ["--run_dir={run}", "--checkpoint=last"], "latest"),
  ("eval.py", ["--run_dir={run}", "--text={tmp}/none"], "permissions"),
  ("eval.py", ["--run_dir={run}", "--text={tmp}/bad.txt"], "not UTF-8"),
  ("eval.py", ["--run_dir={run}", "--text={tmp}/empty.txt"], "fewer than two"),
  ("eval.py", ["--run_dir={run}", "--text={tmp}/blank.txt"], "fewer than two"),
  ("eval.py", ["--run_dir={run}", "--text={tmp}/a.txt"], "fewer than two"),
  ("eval.py", ["--run_dir={run}", "--text={tmp}/utf16.txt"], "not UTF-8"),
  ("eval.py", ["--run_dir={run}", "--text={tmp}/folder"], "permissions"),
  ("eval.py", ["--run_dir={run}", "--checkpoint=-1"], "no checkpoint -1"),
  ("eval.py", ["--run_dir={run}", "--checkpoint=../x"], "no checkpoint ../x"),
  ("eval.py", ["--run_dir={tmp}/link"], "no plain file or folder"),
  ("eval.py", ["--run_dir={run}", "--protocol=words"], "protocol"),
  ("eval.py", ["--run_dir={run}", "--window=9"], "--protocol=windows"),
  (
    "eval.py",
    ["--run_dir={run}", "--protocol=windows", "--stride=300"],
    "lower --stride",
  ),
  ("eval.py", ["--run_dir={run}", "--window=0"], "window"),
  ("eval.py", ["--run_dir={run}", "--dynamic"], "--valid_lines"),
  (
    "eval.py",
    ["--run_dir={run}", "--dynamic", "--protocol=lines"],
    "--protocol=stream",
  ),
  ("eval.py", ["--run_dir={run}", "--per_line", "--json"], "leave out"),
  ("eval.py", ["--run_dir={run}", "--per_line", "--dynamic"], "leave out"),
  ("eval.py", ["--run_dir={run}", "--per_line", "--text="], "permissions"),
  ("export.py", ["--run_dir={tmp}"], "not a run directory"),
  ("export.py", ["--run_dir={run}", "--format=onnx"], "format"),
  ("export.py", ["--run_dir={run}", "--output={tmp}/few.txt"], "there already"),
  ("export.py", ["--run_dir={run}", "--output=."], "there already"),
  ("report.py", ["--run_dir={run}", "--output={tmp}"], "is a folder"),
  (
    "export.py",
    ["--run_dir={run}", "--format=keras", "--output={tmp}/model"],
    "does not end with .keras",
  ),
  ("sample.py", ["--run_dir={tmp}"], "not a run directory"),
  ("sample.py", ["--run_dir={run}", "--temperature=inf"], "temperature"),
  ("sample.py", ["--run_dir={run}", "--num_samples=-3"], "num_samples"),
  (
    "sample.py",
    ["--run_dir={run}", "--checkpoint=9" + "9" * 30],
    "it has",
  ),
  ("sample.py", ["--run_dir={run}", "--prefix=a\udcff"], "not UTF-8"),
  ("sample.py", ["--run_dir={run}", "--num_chars=1000000000"], "num_chars"),
  ("sample.py", ["--run_dir={run}", "--temperature=-1"], "temperature"),
  ("sample.py", ["--run_dir={run}", "--temperature=nan"], "temperature is nan"),
  ("sample.py", ["--run_dir={run}", "--temperature=1e-9"], "0.001 to 1000"),
  ("sample.py", ["--run_dir={run}", "--num_chars=0"], "num_chars"),
  ("sample.py", ["--run_dir={run}", "--top_k=-1"], "top_k"),
  ("sample.py", ["--run_dir={run}", "--top_p=0"], "top_p is 0"),
  ("sample.py", ["--run_dir={run}", "--top_p=nan"], "top_p is nan"),
  ("sample.py", ["--run_dir={run}", "--min_p=1.5"], "min_p"),
  ("sample.py", ["--run_dir={run}", "--stop=\udcff"], "stop is not UTF-8"),
  ("sample.py", ["--run_dir={run}", "--format=xml"], "format"),
  (
    "sample.py",
    ["--run_dir={run}", "--stream", "--format=jsonl"],
    "leave out --stream",
  ),
  (
    "sample.py",
    ["--run_dir={run}", "--prefix=a", "--prefix_file=few.txt"],
    "two prefixes",
  ),
  ("sample.py", ["--run_dir={run}", "--prefix_file={tmp}/none"], "none"),
  (
    "sample.py",
    ["--run_dir={run}", "--prefix_file={tmp}/bad.txt"],
    "at byte 3",
  ),
  ("sample.py", ["--run_dir={run}", "--num_samples=0"], "num_samples"),
  ("sample.py", ["--run_dir={run}", "--seed=-1"], "seed"),
  ("sample.py", ["--run_dir={run}", "--seed=18446744073709551616"], "seed"),
]


@pytest.mark.parametrize(("name", "args", "message"), BAD_INPUT)
def test_bad_input_is_one_line_and_code_2(
  name: str,
  args: list[str],
  message: str,
  train_args: list[str],
  trained_run: pathlib.Path,
  tmp_path: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
) -> None:
  for file, data in BAD_FILES.items():
    (tmp_path / file).write_bytes(data)
  os.mkfifo(tmp_path / "pipe")
  (tmp_path / "folder").mkdir()
  (tmp_path / "link").mkdir()
  (tmp_path / "link" / "config.json").symlink_to(trained_run / "config.json")
  before = sorted(tmp_path.rglob("*"))
  args = [arg.format(tmp=tmp_path, run=trained_run) for arg in args]
  if name == "train.py":
    args = [*train_args[1:], f"--run_dir={tmp_path}/run", *args]
  assert BINARIES[name].main([name, *args]) == 2
  captured = capsys.readouterr()
  assert captured.out == ""
  assert captured.err.startswith(f"{name}: ")
  assert message in captured.err
  assert captured.err.count("\n") == 1
  assert sorted(tmp_path.rglob("*")) == before


def test_another_config_is_refused_and_nothing_lost(
  train_args: list[str],
  trained_run: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
) -> None:
  before = _numbers(trained_run)
  args = [*train_args, f"--run_dir={trained_run}", "--rnn_units=17", "--seed=1"]
  assert train_binary.main(args) == 2
  err = capsys.readouterr().err
  assert "rnn_units (16 there, 17 here), seed (0 there, 1 here)" in err
  assert err.count("\n") == 1
  assert _numbers(trained_run) == before


def test_bad_input_as_processes(
  trained_run: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  for args, message in (
    (["train.py", "--corpus=none.txt", f"--run_dir={tmp_path}/a"], "no file"),
    (["eval.py", f"--run_dir={tmp_path}"], "not a run directory"),
    (["sample.py", f"--run_dir={trained_run}", "--checkpoint=1"], "it has "),
  ):
    result = _run(*args)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.count("\n") == 1
    assert message in result.stderr


def test_the_best_checkpoint_is_kept_while_the_loss_rises(
  train_args: list[str], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  scores = iter([3.0, 2.0, 2.5, 2.25, 1.5, 1.75])
  monkeypatch.setattr(
    Evaluator,
    "stream",
    lambda self, ids: Score(np.full(2, next(scores)), np.full(2, False)),
  )
  args = [*train_args, f"--run_dir={tmp_path}/run"]
  run = RunDir(tmp_path / "run")
  assert train_binary.main([*args, "--epochs=3"]) == 0
  assert run.checkpoint("best")[0] == 24
  # A resumed run knows the best score so far: 2.25 is none.
  assert train_binary.main([*args, "--epochs=4"]) == 0
  assert run.checkpoint("best")[0] == 24
  assert train_binary.main([*args, "--epochs=6"]) == 0
  assert run.checkpoint("best")[0] == 60


def test_a_best_checkpoint_that_was_not_saved_is_no_best_one(
  train_args: list[str],
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture[str],
) -> None:
  run = RunDir(tmp_path / "run")

  in_the_way = run.best / "ckpt-24_temp"  # of the folder of a save

  def scores() -> Iterator[float]:
    yield 3.0
    in_the_way.touch()
    yield 2.0
    yield 2.5

  score = scores()
  monkeypatch.setattr(
    Evaluator,
    "stream",
    lambda self, ids: Score(np.full(2, next(score)), np.full(2, False)),
  )
  args = [*train_args, f"--run_dir={run.path}"]
  # At the end, what was asked for is not all there.
  assert train_binary.main([*args, "--epochs=2"]) == 4
  assert "step 24 is not saved" in capsys.readouterr().err
  in_the_way.unlink()
  assert train_binary.main([*args, "--epochs=3"]) == 0
  assert run.checkpoint("best")[0] == 36


def test_the_end_is_evaluated_whatever_the_period(
  train_args: list[str], tmp_path: pathlib.Path
) -> None:
  args = [*train_args, f"--run_dir={tmp_path}/run", "--eval_every_steps=10"]
  assert train_binary.main(args) == 0
  steps = [r["step"] for r in _metrics(tmp_path / "run", "eval")]
  assert steps == [10, 12]
  assert RunDir(tmp_path / "run").checkpoint("best")[0] in steps


def test_each_step_may_be_evaluated(
  train_args: list[str], tmp_path: pathlib.Path
) -> None:
  args = [*train_args, f"--run_dir={tmp_path}/run", "--eval_every_steps=1"]
  assert train_binary.main([*args, "--batch_size=144"]) == 0
  steps = [r["step"] for r in _metrics(tmp_path / "run", "eval")]
  assert steps == [1, 2]


def test_the_evaluation_at_the_end_counts_when_a_run_is_extended(
  train_args: list[str], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  scores = iter([3.0, 2.0, 2.5, 2.75])
  monkeypatch.setattr(
    Evaluator,
    "stream",
    lambda self, ids: Score(np.full(2, next(scores)), np.full(2, False)),
  )
  args = [*train_args, f"--run_dir={tmp_path}/run", "--eval_every_steps=10"]
  for epochs in (1, 2):
    assert train_binary.main([*args, f"--epochs={epochs}"]) == 0
    assert RunDir(tmp_path / "run").checkpoint("best")[0] == 12


def test_a_run_killed_in_its_last_evaluation_makes_it_again(
  train_args: list[str], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  evaluate = Session._evaluate

  def die_at_the_end(session: Session, step: int) -> None:
    if step == 12:
      raise KeyboardInterrupt
    evaluate(session, step)

  args = [*train_args, "--eval_every_steps=10"]
  killed, unbroken = tmp_path / "killed", tmp_path / "unbroken"
  with monkeypatch.context() as patch:
    patch.setattr(Session, "_evaluate", die_at_the_end)
    assert train_binary.main([*args, f"--run_dir={killed}"]) == 130
  for run_dir in (killed, unbroken):
    assert train_binary.main([*args, f"--run_dir={run_dir}"]) == 0
  assert _numbers(killed) == _numbers(unbroken)
  for name in ("checkpoints", "best"):
    mine, other = (soak.fingerprint(r / name) for r in (killed, unbroken))
    assert mine == other


def test_a_score_that_is_not_finite_is_no_best_one(
  train_args: list[str],
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture[str],
) -> None:
  args = [*train_args, f"--run_dir={tmp_path}/run"]
  assert train_binary.main(args) == 0
  score = Score(np.full(2, np.nan), np.full(2, False))
  monkeypatch.setattr(Evaluator, "stream", lambda self, ids: score)
  assert train_binary.main([*args, "--epochs=2"]) == 3
  assert "loss after step 24 is not finite" in capsys.readouterr().err
  assert RunDir(tmp_path / "run").checkpoint("best")[0] == 12


def test_a_run_without_its_checkpoints_is_not_started_afresh(
  train_args: list[str],
  trained_run: pathlib.Path,
  tmp_path: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
) -> None:
  shutil.copytree(trained_run, tmp_path / "run")
  shutil.rmtree(tmp_path / "run" / "checkpoints")
  shutil.rmtree(tmp_path / "run" / "best")
  args = [*train_args, f"--run_dir={tmp_path}/run", "--epochs=4"]
  assert train_binary.main(args) == 2
  assert "no checkpoint is whole" in capsys.readouterr().err
  assert _numbers(tmp_path / "run") == _numbers(trained_run)


def test_a_last_save_that_fails_is_code_4(
  train_args: list[str], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  def fail(*args: object, **kwargs: object) -> None:
    raise tf.errors.ResourceExhaustedError(None, None, "disk full")

  args = [*train_args, f"--run_dir={tmp_path}/run"]
  with monkeypatch.context() as patch:
    patch.setattr(tf.train.CheckpointManager, "save", fail)
    assert train_binary.main(args) == 4
  assert train_binary.main([*args[:-1], f"--run_dir={tmp_path}/other"]) == 0


def test_a_killed_run_goes_on_as_if_unbroken(
  train_args: list[str], tmp_path: pathlib.Path
) -> None:
  args = [*train_args, "--checkpoint_every_steps=7", "--epochs=100"]
  killed = [*args, f"--run_dir={tmp_path}/killed"]
  for _ in range(2):
    with subprocess.Popen(
      [sys.executable, ROOT / killed[0], *killed[1:]],
      stdout=subprocess.DEVNULL,
    ) as process:
      before = _newest(tmp_path / "killed")
      while _newest(tmp_path / "killed") <= before:
        assert process.poll() is None
        time.sleep(0.01)
      process.kill()
  epochs = f"--epochs={_newest(tmp_path / 'killed') // 12 + 2}"
  unbroken = [*args, f"--run_dir={tmp_path}/unbroken"]
  assert _run(*killed, epochs).returncode == 0
  assert _run(*unbroken, epochs).returncode == 0
  assert _numbers(tmp_path / "killed") == _numbers(tmp_path / "unbroken")


def test_a_run_killed_before_its_first_save_starts_again(
  train_args: list[str], tmp_path: pathlib.Path
) -> None:
  args = [*train_args, f"--run_dir={tmp_path}/run"]
  args.append("--checkpoint_every_steps=10000")
  with subprocess.Popen(
    [sys.executable, ROOT / args[0], *args[1:], "--epochs=1000"],
    stdout=subprocess.DEVNULL,
  ) as process:
    metrics = tmp_path / "run" / "metrics.jsonl"
    while not metrics.exists() or not metrics.read_bytes():
      assert process.poll() is None
      time.sleep(0.01)
    process.kill()
  assert _newest(tmp_path / "run") == 0
  assert train_binary.main([*args, "--epochs=3"]) == 0
  steps = [r["step"] for r in _metrics(tmp_path / "run", "train")]
  assert steps == [10, 20, 30, 36]


def _newest(run_dir: pathlib.Path) -> int:
  paths = (run_dir / "checkpoints").glob("ckpt-*.index")
  return max((int(path.stem.split("-")[1]) for path in paths), default=0)


@pytest.mark.parametrize("flag", ["--num_chars=100000", "--help"])
def test_a_reader_that_leaves_ends_it_quietly(
  flag: str, trained_run: pathlib.Path
) -> None:
  with subprocess.Popen(
    [sys.executable, ROOT / "sample.py", f"--run_dir={trained_run}", flag],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
  ) as process:
    process.stdout.close()
    assert process.stderr.read() == b""
  assert process.returncode == 128 + signal.SIGPIPE


def test_a_diverged_run_is_code_3_and_keeps_the_last_checkpoint(
  train_args: list[str],
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture[str],
) -> None:
  from charlm.training import Trainer

  run_steps = Trainer._run_steps

  def poisoned(self: Trainer, start: int, stop: int) -> float:
    if stop > 15:
      self.model.dense.bias.assign(self.model.dense.bias * float("nan"))
    return run_steps(self, start, stop)

  monkeypatch.setattr(Trainer, "_run_steps", poisoned)
  args = [*train_args, f"--run_dir={tmp_path}/run", "--epochs=3"]
  assert train_binary.main(args) == 3
  err = capsys.readouterr().err
  assert "is not finite" in err
  assert "--learning_rate" in err
  steps = {p.stem for p in (tmp_path / "run/checkpoints").glob("*.index")}
  assert steps == {"ckpt-9", "ckpt-12", "ckpt-15"}


@pytest.mark.parametrize(
  ("data", "chars"),
  [
    (b"\xef\xbb\xbf" + b"ab ba\n" * 99, "\n ab"),
    (b"ab ba\r\n" * 99, "\n ab"),
    (b"ab ba\r" * 99, "\n ab"),
    (b"ab ba\n" * 99 + b"c", "\n abc"),
    (b"ab\x00ba\n" * 99, "\n\x00ab"),
    (b"aaaaaa\n" * 99, "\na"),
    ("e\u0301\U0001f600\u200d\U0001f680\n".encode() * 99, None),
    (
      "\u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627\n".encode() * 99,
      None,
    ),
    (b"ab\x0b\x1c\xe2\x80\xa8ba\n" * 99, "\n\x0b\x1cab\u2028"),
    (b"ab" * 25_000_000 + b"\nba" * 99, "\nab"),
  ],
  ids=[
    "byte-order mark",
    "CRLF",
    "CR",
    "no newline at the end",
    "NUL",
    "one character",
    "emoji",
    "right to left",
    "other separators",
    "a line of 50 MB",
  ],
)
def test_unusual_corpora_work(
  data: bytes,
  chars: str | None,
  tmp_path: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
) -> None:
  (tmp_path / "corpus.txt").write_bytes(data)
  run_dir = f"--run_dir={tmp_path}/run"
  args = ["train.py", f"--corpus={tmp_path}/corpus.txt", run_dir, "--epochs=0"]
  args += ["--eval_lines=20", "--seq_length=5", "--batch_size=2"]
  args += ["--rnn_units=4", "--embedding_dim=4"]
  assert train_binary.main(args) == 0
  expected = set(data.decode("utf-8-sig")) if chars is None else set(chars)
  assert set(RunDir(tmp_path / "run").vocabulary()[2:]) == expected
  capsys.readouterr()
  assert sample_binary.main(["sample.py", run_dir, "--num_chars=50"]) == 0
  text = capsys.readouterr().out
  assert len(text) == 51
  assert set(text) <= expected | {"\n"}
  assert eval_binary.main(["eval.py", run_dir, "--json"]) == 0
  assert json.loads(capsys.readouterr().out)["num_unknown"] == 0


def test_other_software_or_threads_are_named_at_a_resume(
  train_args: list[str],
  trained_run: pathlib.Path,
  tmp_path: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
) -> None:
  shutil.copytree(trained_run, tmp_path / "run")
  starts = tmp_path / "run" / "starts.jsonl"
  start = json.loads(starts.read_text())
  args = [*train_args, f"--run_dir={tmp_path}/run", "--epochs=3"]
  assert train_binary.main(args) == 0
  assert capsys.readouterr().err == ""
  start["versions"]["tensorflow"] = "2.20.0"
  start["intra_op_threads"] = 7
  starts.write_text(json.dumps(start) + "\n")
  assert train_binary.main(args) == 0
  err = capsys.readouterr().err
  assert err.count("\n") == 1
  assert "tensorflow (2.20.0 there, 2.21" in err
  assert "intra_op_threads (7 there" in err
  assert "numpy" not in err


def test_another_replica_count_goes_on_to_rounding(
  train_args: list[str], trained_run: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  args = [*train_args, f"--run_dir={tmp_path}/run"]
  assert train_binary.main([*args, "--epochs=1"]) == 0
  assert train_binary.main([*args, "--epochs=3", "--num_replicas=4"]) == 0
  for mine, other in zip(
    _metrics(tmp_path / "run", "eval"),
    _metrics(trained_run, "eval"),
    strict=True,
  ):
    assert mine["step"] == other["step"]
    assert mine["loss"] == pytest.approx(other["loss"], abs=1e-5)


def test_another_corpus_is_refused_showing_both_hashes(
  train_args: list[str],
  trained_run: pathlib.Path,
  lines: list[str],
  tmp_path: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
) -> None:
  (tmp_path / "other.txt").write_text("\n".join([*lines, "more"]))
  args = [*train_args, f"--run_dir={trained_run}", "--epochs=3"]
  assert train_binary.main([*args, f"--corpus={tmp_path}/other.txt"]) == 2
  err = capsys.readouterr().err
  there, here = re.search(r"(\w{64}) there, (\w{64}) here", err).groups()
  assert there == RunDir(trained_run).experiment().corpus_sha256 != here


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_at_once(second: signal.Signals) -> None:
  code = (
    "import os, signal\n"
    "from charlm.command import StopRequest\n"
    "with StopRequest() as stop:\n"
    "  os.kill(os.getpid(), signal.SIGTERM)\n"
    "  print(stop.exit_code, flush=True)\n"
    "  signal.pause()"
  )
  with subprocess.Popen(
    [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True
  ) as process:
    assert process.stdout.readline() == "143\n"
    process.send_signal(second)
  assert process.returncode == -second


def test_a_disk_that_stays_full_is_code_4_and_loses_nothing_older(
  train_args: list[str],
  trained_run: pathlib.Path,
  tmp_path: pathlib.Path,
) -> None:
  args = [*train_args, f"--run_dir={tmp_path}/run"]
  assert train_binary.main([*args, "--epochs=1"]) == 0
  code = (
    "import resource, sys, train\n"
    "most = (8000, resource.RLIM_INFINITY)\n"
    "resource.setrlimit(resource.RLIMIT_FSIZE, most)\n"
    "sys.exit(train.main(['train.py', *sys.argv[1:]]))"
  )
  full = subprocess.run(
    [sys.executable, "-c", code, *args[1:], "--epochs=3"],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )
  assert full.returncode == 4
  assert "step 36 is not saved" in full.stderr
  assert "Traceback" not in full.stderr
  assert _newest(tmp_path / "run") == 12
  # With room again, it goes on as if nothing had been.
  assert train_binary.main([*args, "--epochs=3"]) == 0
  assert [r for r in _numbers(tmp_path / "run") if r["split"] == "eval"] == [
    r for r in _numbers(trained_run) if r["split"] == "eval"
  ]


@pytest.mark.parametrize(
  "name", ["summaries", "summaries/eval", "metrics.jsonl"]
)
def test_what_cannot_be_written_is_one_line_and_code_2(
  name: str,
  train_args: list[str],
  trained_run: pathlib.Path,
  tmp_path: pathlib.Path,
) -> None:
  run_dir = tmp_path / "run"
  shutil.copytree(trained_run, run_dir)
  if name == "summaries":
    shutil.rmtree(run_dir / name)
    (run_dir / name).mkdir()
  (run_dir / name).chmod(0o555)
  command = [*bound_by_permissions(), sys.executable, *train_args, "--epochs=3"]
  result = subprocess.run(
    [*command, f"--run_dir={run_dir}"],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )
  (run_dir / name).chmod(0o755)
  assert result.returncode == 2
  assert result.stderr.startswith("train.py: ")
  assert result.stderr.count("\n") == 1
  assert f"{run_dir}/{name.partition('/')[0]}" in result.stderr
  assert "permissions" in result.stderr
  assert _numbers(run_dir) == _numbers(trained_run)


def test_deterministic_trains_the_same(
  train_args: list[str], tmp_path: pathlib.Path
) -> None:
  run_dir = tmp_path / "run"
  args = [*train_args, f"--run_dir={run_dir}", "--deterministic"]
  args.append("--dropout_rate=0.1")
  assert _run(*args).returncode == 0
  plain = [*args[:-2], "--dropout_rate=0.1", f"--run_dir={tmp_path}/plain"]
  assert _run(*plain).returncode == 0
  assert _numbers(run_dir) == _numbers(tmp_path / "plain")


def test_a_processor_without_bfloat16_gets_a_warning(
  train_args: list[str],
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture[str],
) -> None:
  args = [*train_args, f"--run_dir={tmp_path}/run", "--epochs=0"]
  args.append("--precision=bfloat16")
  for flags, expected in (("fma avx2", 1), ("avx512_bf16", 0), ("", 0)):
    monkeypatch.setattr(
      "charlm.machine._cpu_info",
      lambda field, flags=flags: flags if field == "flags" else "",
    )
    assert train_binary.main(args) == 0
    assert capsys.readouterr().err.count("no instructions") == expected


def test_a_short_soak(
  corpus_path: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  flags = [*soak.FLAGS, f"--corpus={corpus_path}", "--epochs=60"]
  flags += ["--eval_lines=50", "--seq_length=20", "--batch_size=24"]
  flags += ["--eval_every_steps=240", "--valid_lines=20"]
  kills = soak.soak(flags, tmp_path, num_kills=5, seed=3)
  assert len(kills) == 5
  assert kills[-1].step > 0


def test_a_folder_may_be_moved_while_it_is_trained(
  train_args: list[str], tmp_path: pathlib.Path
) -> None:
  args = [*train_args, "--checkpoint_every_steps=9", "--epochs=100"]
  before, after = tmp_path / "before", tmp_path / "after"
  with subprocess.Popen(
    [sys.executable, ROOT / args[0], *args[1:], f"--run_dir={before}"],
    stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
    text=True,
  ) as process:
    while not _newest(before):
      assert process.poll() is None
      time.sleep(0.01)
    before.rename(after)
    _, err = process.communicate()
  assert process.returncode == 4
  assert "before was moved" in err
  assert err.count("\n") == 1
  assert not before.exists()
  unbroken = tmp_path / "unbroken"
  for run_dir in (after, unbroken):
    assert _run(*args, f"--run_dir={run_dir}").returncode == 0
  assert _numbers(after) == _numbers(unbroken)
