"""Bad input is refused with one line that names the remedy, and code 2."""

import gzip
import io
import pathlib
import re
import shutil
import sys

import pytest
from helpers import PROGRAMS, modification_times

_FILES = {
  "empty.txt": b"",
  "blank.txt": b" \n\r\n\t\n",
  "one_line.txt": b"to be or not to be",
  "few.txt": b"to be\nor not\n!\n",
  "few.vocabulary.json": b"[]",
  "a.txt": b"a\n",
  "a.py": b"class Other:\n  pass\n",
  "utf16.txt": "to be or not\n".encode("utf-16"),
  "cut.gz": gzip.compress(b"to be or not\n" * 99)[:-9],
  "bad.h5": b"\x89HDF\r\n\x1a\n" + bytes(99),
}

# One command for each kind of refusal. The folder has these files, a finished
# run, and an empty folder.
_REFUSED = [
  # Parsing of flags, which the programs share.
  "train.py --epoch=3",
  "train.py --epochs=many",
  "train.py --epochs=-1",
  "train.py --learning_rate=nan",
  "train.py --unit=word",
  "train.py --run_dir=\udce9",
  "train.py --run_dir=",
  "train.py --flagfile=none.flags",
  "train.py 3",
  # Flags that require or exclude others.
  "train.py --warmup_steps=5",
  "train.py --reset_rate=0.1",
  "train.py --unit=byte --lowercase",
  "train.py --gru=keras --precision=bfloat16",
  "train.py --layer=none_such",
  "train.py --layer=none.py:Layer",
  "train.py --layer=a.py:Layer",
  "eval.py --layer=a.py:Layer",
  "train.py --eval_corpus=few.txt --eval_chars=9",
  "train.py --corpus=- --eval_corpus=-",
  "train.py --schedule=cosine --warmup_steps=12",
  "eval.py --window=9",
  "eval.py --protocol=windows --stride=300",
  "eval.py --dynamic --protocol=lines",
  "eval.py --dynamic",
  "eval.py --name=a",
  "eval.py --follow",
  "eval.py --follow --name=eval",
  "eval.py --follow --name=a --checkpoint=best",
  "eval.py --follow --name=a --dynamic",
  "sample.py --stream --format=jsonl",
  "sample.py --prefix=a --prefix_file=few.txt",
  "sample.py --per_line --memorised=few.txt,-",
  # Texts.
  "train.py --corpus=",
  "train.py --corpus=none.txt",
  "train.py --corpus=few.txt,",
  "train.py --corpus=folder",
  "train.py --corpus=empty.txt",
  "train.py --corpus=blank.txt",
  "train.py --corpus=one_line.txt",
  "train.py --corpus=utf16.txt",
  "train.py --corpus=cut.gz",
  "train.py --corpus=few.txt --eval_lines=2",
  "train.py --eval_corpus=none.txt",
  "train.py --eval_chars=1000000",
  "train.py --valid_lines=250",
  "train.py --valid_corpus=a.txt",
  "train.py --min_count=1000000",
  "eval.py --text=none.txt",
  "eval.py --text=-",
  "eval.py --text=utf16.txt",
  "eval.py --text=blank.txt",
  "sample.py --prefix_file=none.txt",
  "sample.py --prefix_file=utf16.txt",
  "sample.py --prefix_file= --per_line",
  # Sizes.
  "train.py --num_replicas=5",
  # Runs and initial runs.
  "train.py --run_dir=/proc/run",
  "train.py --run_dir=a*b",
  "train.py --run_dir=.",
  "train.py --run_dir=run --rnn_units=17",
  "train.py --run_dir=run --corpus=edited.txt",
  "train.py --init_from=none",
  "train.py --init_from=folder",
  "train.py --init_from=bad.h5",
  "train.py --init_from=run --rnn_units=9",
  "eval.py --run_dir=none",
  "eval.py --checkpoint=7",
  "report.py --run_dir=folder",
  # Outputs.
  "export.py --format=keras --output=model",
  "export.py --format=keras --output=few.keras",
  "export.py --output=few.txt",
  "report.py --output=folder",
  "report.py --output=none/a.html",
]
# The remedy comes first, or after a colon or a semicolon.
_REMEDY = re.compile(
  r"(^|[:;] [^:;]*\b)(change|check|convert|correct|export|give|leave|lower|"
  r"raise|rename|replace|see|train)\b"
)


@pytest.fixture(scope="module")
def folder(
  trained_run: pathlib.Path,
  corpus_path: pathlib.Path,
  tmp_path_factory: pytest.TempPathFactory,
) -> pathlib.Path:
  folder = tmp_path_factory.mktemp("bad")
  for name, data in _FILES.items():
    (folder / name).write_bytes(data)
  (folder / "folder").mkdir()
  (folder / "edited.txt").write_text(corpus_path.read_text() + "more\n")
  shutil.copytree(trained_run, folder / "run")
  return folder


@pytest.mark.parametrize("command", _REFUSED)
def test_bad_input_is_one_line_and_code_2(
  command: str,
  train_args: list[str],
  folder: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture[str],
) -> None:
  monkeypatch.chdir(folder)
  monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
  name, *flags = command.split(" ")
  usual = [*train_args[1:], "--run_dir=new"] if name == "train.py" else []
  usual = usual or ["--run_dir=run"]
  before = modification_times(folder)
  assert PROGRAMS[name].main([name, *usual, *flags]) == 2
  captured = capsys.readouterr()
  assert captured.out == ""
  assert captured.err.startswith(f"{name}: ")
  assert captured.err.count("\n") == 1
  assert _REMEDY.search(captured.err.removeprefix(f"{name}: ")), captured.err
  assert modification_times(folder) == before
