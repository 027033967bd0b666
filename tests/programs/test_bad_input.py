"""Bad input: one line that names the remedy, and code 2."""

import gzip
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest
from helpers import PROGRAMS, ROOT, bound_by_permissions, run_program
from soak import numbers

import train as train_program
from charlm.runs.run_dir import RunDir

BAD_FILES = {
  "empty.txt": b"",
  "blank.txt": b" \n\r\n\t\n",
  "one_line.txt": b"to be or not to be",
  "bad.h5": b"\x89HDF\r\n\x1a\n" + bytes(99),
  "\udce9.txt": b"to be\n",
  "few.txt": b"to be\nor not\n!\n",
  "a.txt": b"a\n",
  "bad.txt": b"abc\xff",
  "late.txt": b"to be or \n" * 9000 + b"\xc3\x28",
  "utf16.txt": "to be or not\n".encode("utf-16"),
  "cut.gz": gzip.compress(b"to be or not\n" * 99)[:-9],
  "not.xz": b"to be or not\n",
  "bad.jsonl": b'{"text": "to be"}\n{"other": 1}\n',
}


BAD_INPUT = [
  ("train.py", ["--corpus={tmp}/empty.txt"], "no line of text"),
  ("train.py", ["--corpus={tmp}/none.txt"], "no file at"),
  ("train.py", ["--corpus={tmp}/bad.txt"], "not UTF-8 at byte 3"),
  ("train.py", ["--corpus={tmp}/blank.txt"], "no line of text"),
  ("train.py", ["--corpus={tmp}/one_line.txt"], "leaves nothing to train on"),
  ("train.py", ["--corpus={tmp}/utf16.txt"], "not UTF-8 at byte 0"),
  ("train.py", ["--corpus={tmp}/late.txt"], "not UTF-8 at byte 90000"),
  ("train.py", ["--corpus={tmp}/pipe"], "not a regular file"),
  ("train.py", ["--corpus={tmp}/cut.gz"], "gzip data, cut off at byte"),
  (
    "train.py",
    ["--corpus={tmp}/not.xz"],
    "data: replace or rename it",
  ),
  (
    "train.py",
    ["--corpus={tmp}/bad.jsonl", "--field=text"],
    "1 lines without a text in the field 'text', the first is line 2",
  ),
  ("train.py", ["--skip_bad"], "give --field"),
  ("train.py", ["--profile_steps= "], "of two rising steps"),
  ("train.py", ["--corpus_cache=a\0b"], "give a value that is a path"),
  ("train.py", ["--init_from={tmp}/pipe.h5"], "neither a run's folder nor"),
  ("train.py", ["--unit=word"], "unit is 'word'"),
  ("train.py", ["--unit=byte", "--field=a"], "there are no fields"),
  ("train.py", ["--unit=byte", "--lowercase"], "there are no fields"),
  ("train.py", ["--unit=byte", "--min_count=2"], "there are no fields"),
  ("train.py", ["--min_count=0"], "min_count is 0"),
  ("train.py", ["--min_count=1000000"], "lower --min_count"),
  (
    "train.py",
    ["--corpus=-", "--eval_corpus=-"],
    "standard input is read once",
  ),
  (
    "train.py",
    ["--unit=byte", "--init_from={run}"],
    "unit is byte, but character in",
  ),
  ("train.py", ["--valid_chars=1"], "valid_chars is 1"),
  (
    "train.py",
    ["--eval_corpus={tmp}/few.txt", "--eval_chars=9"],
    "eval text is given twice",
  ),
  ("train.py", ["--eval_corpus={tmp}/none.txt"], "no file at"),
  ("train.py", ["--valid_corpus={tmp}/empty.txt"], "no line of text"),
  ("train.py", ["--valid_corpus={tmp}/a.txt"], "a single character"),
  ("train.py", ["--corpus_cache=/proc/cache"], "permissions"),  # is read-only
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
  ("train.py", ["--optimizer=sgd"], "optimizer is 'sgd'"),
  ("train.py", ["--schedule=step"], "schedule is 'step'"),
  ("train.py", ["--warmup_steps=5"], "--schedule=cosine or linear"),
  ("train.py", ["--precision=float16"], "precision is 'float16'"),
  ("train.py", ["--seed=4294967296"], "seed is 4294967296"),
  ("train.py", ["--num_replicas=1000"], "does not divide"),
  ("train.py", ["--eval_every_steps=-1"], "eval_every_steps"),
  ("train.py", ["--checkpoint_every_steps=-1"], "checkpoint_every_steps"),
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
  ("train.py", ["3"], "unexpected argument 3"),
  ("train.py", ["--gru=keras", "--precision=bfloat16"], "--gru=fused"),
  ("train.py", ["--gru=cudnn"], "gru"),
  ("train.py", ["--schedule=cosine", "--warmup_steps=12"], "none after the"),
  ("train.py", ["--run_dir="], "--run_dir is empty"),
  ("train.py", ["--eval_chars=1"], "eval_chars is 1"),
  ("train.py", ["--eval_chars=1000000"], "lower --eval_chars"),
  ("train.py", ["--valid_lines=250"], "lower --valid_lines"),
  ("train.py", ["--reset_rate=0.1"], "--carry_state"),
  ("train.py", ["--carry_state", "--batch_size=512"], "fewer than one batch"),
  ("train.py", ["--gru=keras", "--layer_norm"], "--gru=fused"),
  ("train.py", ["--profile_steps=20,10"], "of two rising steps"),
  ("train.py", ["--profile_steps=10"], "of two rising steps"),
  ("train.py", ["--profile_steps=a,b"], "of two rising steps"),
  ("train.py", ["--init_from={tmp}/none"], "neither a run's folder"),
  (
    "train.py",
    ["--init_from={tmp}/none", "--layer_norm"],
    "neither a run's folder",
  ),
  ("train.py", ["--init_from={tmp}/bad.h5", "--layer_norm"], "leave out"),
  ("train.py", ["--init_from=\udce9"], "init_from is '\\udce9'"),
  ("train.py", ["--corpus={tmp}/\udce9.txt"], "in UTF-8"),
  ("train.py", ["--run_dir={tmp}/\udce9"], "a path in UTF-8"),
  ("train.py", ["--init_from={tmp}/folder"], "not a run's folder"),
  ("train.py", ["--init_from={tmp}/few.txt"], "neither a run's folder"),
  (
    "train.py",
    ["--init_from={tmp}/bad.h5"],
    "has no weights of a GRULM with these flags",
  ),
  ("train.py", ["--init_from={run}", "--rnn_units=9"], "give --rnn_units=16"),
  ("train.py", ["--dropout_rate=1"], "dropout_rate is 1.0"),
  ("train.py", ["--weight_decay=-1"], "weight_decay is -1.0"),
  ("train.py", ["--corpus={tmp}/" + "x" * 300], "no file at"),
  ("eval.py", ["--run_dir={tmp}"], "not a run's folder"),
  ("eval.py", ["--run_dir={tmp}/none"], "not a run's folder"),
  ("eval.py", ["--run_dir={run}", "--checkpoint=7"], "no checkpoint 7"),
  ("eval.py", ["--run_dir={run}", "--checkpoint=last"], "latest"),
  ("eval.py", ["--run_dir={run}", "--text={tmp}/none"], "no file at"),
  ("eval.py", ["--run_dir={run}", "--text={tmp}/bad.txt"], "not UTF-8"),
  ("eval.py", ["--run_dir={run}", "--text={tmp}/empty.txt"], "fewer than two"),
  (
    "eval.py",
    ["--run_dir={run}", "--text={tmp}/blank.txt"],
    "cleaned as the corpus",
  ),
  ("eval.py", ["--run_dir={run}", "--text={tmp}/a.txt"], "fewer than two"),
  ("eval.py", ["--run_dir={run}", "--text={tmp}/utf16.txt"], "not UTF-8"),
  ("eval.py", ["--run_dir={run}", "--text={tmp}/folder"], "no file at"),
  ("eval.py", ["--run_dir={run}", "--checkpoint=-1"], "no checkpoint -1"),
  ("eval.py", ["--run_dir={run}", "--checkpoint=../x"], "no checkpoint ../x"),
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
  ("export.py", ["--run_dir={tmp}"], "not a run's folder"),
  ("export.py", ["--run_dir={run}", "--format=onnx"], "format"),
  ("export.py", ["--run_dir={run}", "--output={tmp}/few.txt"], "there already"),
  ("export.py", ["--run_dir={run}", "--output=."], "there already"),
  (
    "export.py",
    ["--run_dir={run}", "--output={tmp}/dangling"],
    "there already",
  ),
  ("report.py", ["--run_dir={run}", "--output={tmp}"], "not a regular file"),
  ("report.py", ["--run_dir={run}", "--output={tmp}/pipe"], "regular file"),
  ("report.py", ["--run_dir={run}", "--output={tmp}/dangling"], "regular"),
  ("report.py", ["--run_dir={run}", "--output={tmp}/to_few"], "regular file"),
  ("train.py", ["--num_replicas=2000000000"], "num_replicas is 2000000000"),
  ("train.py", ["--profile_steps=1,1" + "1" * 5000], "of two rising steps"),
  (
    "train.py",
    ["--unit=byte", "--corpus={tmp}/empty.txt", "--eval_corpus={tmp}/few.txt"],
    "has no line of text",
  ),
  (
    "sample.py",
    ["--run_dir={run}", "--per_line", "--memorised={tmp}/few.txt,-"],
    "read once",
  ),
  ("report.py", ["--run_dir={run}", "--output={tmp}/no/a.html"], "no is not a"),
  ("eval.py", ["--run_dir={run}\0"], "a path in UTF-8"),
  (
    "export.py",
    ["--run_dir={run}", "--format=keras", "--output={tmp}/model"],
    "does not end with .keras",
  ),
  ("sample.py", ["--run_dir={tmp}"], "not a run's folder"),
  ("sample.py", ["--run_dir={run}", "--temperature=inf"], "temperature"),
  ("sample.py", ["--run_dir={run}", "--num_samples=-3"], "num_samples"),
  (
    "sample.py",
    ["--run_dir={run}", "--checkpoint=9" + "9" * 30],
    "it has",
  ),
  (
    "sample.py",
    ["--run_dir={run}", "--prefix=a\udcff"],
    "prefix is 'a\\udcff'",
  ),
  ("sample.py", ["--run_dir={run}", "--num_chars=1000000000"], "num_chars"),
  ("sample.py", ["--run_dir={run}", "--temperature=-1"], "temperature"),
  ("sample.py", ["--run_dir={run}", "--temperature=nan"], "temperature is nan"),
  ("sample.py", ["--run_dir={run}", "--temperature=1e-9"], "0.001 to 1000"),
  ("sample.py", ["--run_dir={run}", "--num_chars=0"], "num_chars"),
  ("sample.py", ["--run_dir={run}", "--top_k=-1"], "top_k"),
  ("sample.py", ["--run_dir={run}", "--top_p=0"], "top_p is 0"),
  ("sample.py", ["--run_dir={run}", "--top_p=nan"], "top_p is nan"),
  ("sample.py", ["--run_dir={run}", "--min_p=1.5"], "min_p"),
  ("sample.py", ["--run_dir={run}", "--stop=\udcff"], "in UTF-8"),
  ("sample.py", ["--run_dir={run}", "--format=xml"], "format"),
  (
    "sample.py",
    ["--run_dir={run}", "--stream", "--format=jsonl"],
    "leave out one",
  ),
  (
    "sample.py",
    ["--run_dir={run}", "--prefix=a", "--prefix_file=few.txt"],
    "leave out --prefix",
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
  os.mkfifo(tmp_path / "pipe.h5")
  (tmp_path / "dangling").symlink_to("nowhere")
  (tmp_path / "to_few").symlink_to(tmp_path / "few.txt")
  (tmp_path / "folder").mkdir()
  before = sorted(tmp_path.rglob("*"))
  args = [arg.format(tmp=tmp_path, run=trained_run) for arg in args]
  if name == "train.py":
    args = [*train_args[1:], f"--run_dir={tmp_path}/run", *args]
  assert PROGRAMS[name].main([name, *args]) == 2
  captured = capsys.readouterr()
  assert captured.out == ""
  assert captured.err.startswith(f"{name}: ")
  assert message in captured.err
  assert captured.err.count("\n") == 1
  assert sorted(tmp_path.rglob("*")) == before


def test_a_line_of_50_mb_is_refused(
  train_args: list[str],
  tmp_path: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
) -> None:
  (tmp_path / "long.txt").write_bytes(b"to be " * (50_000_000 // 6))
  args = [*train_args, f"--run_dir={tmp_path}/run"]
  assert train_program.main([*args, f"--corpus={tmp_path}/long.txt"]) == 2
  err = capsys.readouterr().err
  assert err.count("\n") == 1
  assert "leaves nothing to train on" in err
  assert not (tmp_path / "run").exists()


def test_another_config_is_refused_and_nothing_lost(
  train_args: list[str],
  trained_run: pathlib.Path,
  tmp_path: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
) -> None:
  run_dir = tmp_path / "run"
  shutil.copytree(trained_run, run_dir)
  args = [*train_args, f"--run_dir={run_dir}", "--rnn_units=17", "--seed=1"]
  assert train_program.main(args) == 2
  err = capsys.readouterr().err
  assert "rnn_units (16 before, 17 now), seed (0 before, 1 now)" in err
  assert err.count("\n") == 1
  assert numbers(run_dir) == numbers(trained_run)


def test_bad_input_as_processes(
  trained_run: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  for args, message in (
    (["train.py", "--corpus=none.txt", f"--run_dir={tmp_path}/a"], "no file"),
    (["sample.py", f"--run_dir={trained_run}", "--checkpoint=1"], "it has "),
  ):
    result = run_program(*args)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.count("\n") == 1
    assert message in result.stderr


def test_another_corpus_is_refused_showing_both_hashes(
  train_args: list[str],
  trained_run: pathlib.Path,
  lines: list[str],
  tmp_path: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
) -> None:
  (tmp_path / "other.txt").write_text("\n".join([*lines, "more"]))
  shutil.copytree(trained_run, tmp_path / "run")
  args = [*train_args, f"--run_dir={tmp_path}/run", "--epochs=3"]
  assert train_program.main([*args, f"--corpus={tmp_path}/other.txt"]) == 2
  err = capsys.readouterr().err
  before, now = re.search(r"(\w{64}) before, (\w{64}) now", err).groups()
  assert before == RunDir(trained_run).experiment().corpus_sha256 != now


# Trains in one folder after the other.
_TRAIN_EACH = """
import sys, train
for run in sys.argv[1].split(","):
  code = train.main(["train.py", *sys.argv[2:], f"--run_dir={run}"])
  print(f"exit code {code}", file=sys.stderr)
"""


def test_what_cannot_be_written_is_one_line_and_code_2(
  train_args: list[str], trained_run: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  names = ["summaries", "summaries/eval", "metrics.jsonl"]
  runs = [tmp_path / str(i) for i in range(len(names))]
  for name, run in zip(names, runs, strict=True):
    shutil.copytree(trained_run, run)
    if name == "summaries":
      shutil.rmtree(run / name)
      (run / name).mkdir()
    (run / name).chmod(0o555)
  command = [*bound_by_permissions(), sys.executable, "-c", _TRAIN_EACH]
  result = subprocess.run(
    [*command, ",".join(map(str, runs)), *train_args[1:], "--epochs=3"],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )
  lines = result.stderr.splitlines()
  assert lines[1::2] == ["exit code 2"] * len(names)
  for name, run, line in zip(names, runs, lines[::2], strict=True):
    (run / name).chmod(0o755)
    assert line.startswith("train.py: ")
    assert f"{run}/{name.partition('/')[0]}" in line
    assert "permissions" in line
    assert numbers(run) == numbers(trained_run)
