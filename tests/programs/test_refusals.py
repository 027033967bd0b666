"""What is not as it was written, or cannot be read, is told in one line."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator

import pytest
from helpers import ROOT

import eval as eval_program
import export as export_program
import report as report_program
import sample as sample_program
import train as train_program

BINARIES = {
  "train": train_program,
  "eval": eval_program,
  "sample": sample_program,
  "export": export_program,
  "report": report_program,
}


def _files(folder: pathlib.Path) -> list[tuple[pathlib.Path, int]]:
  paths = sorted(path for path in folder.rglob("*") if path.is_file())
  # Whose process has tried is all that may change.
  return [(p, p.stat().st_size) for p in paths if p.name != "lock"]


@pytest.fixture(scope="module")
def args(train_args: list[str]) -> list[str]:
  return [*train_args, "--valid_lines=9"]


@pytest.fixture(scope="module")
def whole_run(trained: Callable[..., pathlib.Path]) -> pathlib.Path:
  """A finished run with a valid text; only to be copied."""
  path = trained("whole", "--valid_lines=9")
  # Or another process' threads would be told.
  (path / "starts.jsonl").unlink(missing_ok=True)
  return path


def _swap_last_two(text: str) -> str:
  *vocab, one, other = json.loads(text)
  return json.dumps([*vocab, other, one]) + "\n"


_READERS = {
  "vocabulary.json": ["eval", "eval --text=TEXT", "sample", "export", "report"],
  "eval.txt": ["eval", "report"],
  "valid.txt": ["eval --dynamic"],
}


@pytest.mark.parametrize("name", _READERS)
def test_a_changed_file_is_refused_by_all_that_read_it(
  name: str,
  args: list[str],
  whole_run: pathlib.Path,
  corpus_path: pathlib.Path,
  tmp_path: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
) -> None:
  run = tmp_path / "run"
  shutil.copytree(whole_run, run)
  text = (run / name).read_text()
  changed = _swap_last_two(text) if name == "vocabulary.json" else text[:-9]
  (run / name).write_text(changed)
  before = _files(tmp_path)
  commands = [command.split() for command in _READERS[name]]
  commands = [[*c, f"--run_dir={run}"] for c in commands]
  for output in ("export", "report"):
    for command in commands:
      if command[0] == output:
        command.append(f"--output={tmp_path}/{output}")
  commands.append(["train", *args[1:], f"--run_dir={run}", "--epochs=2"])
  if name == "vocabulary.json":
    start = [f"--init_from={run}", f"--run_dir={tmp_path}/next"]
    commands.append(["train", *args[1:], *start])
  for program, *flags in commands:
    flags = [flag.replace("TEXT", str(corpus_path)) for flag in flags]
    assert BINARIES[program].main([program, *flags]) == 2, flags
    captured = capsys.readouterr()
    assert captured.out == ""
    assert str(run / name) in captured.err
    assert captured.err.count("\n") == 1
  assert _files(tmp_path) == before


def test_a_damaged_checkpoint_is_one_line_and_no_more(
  args: list[str],
  whole_run: pathlib.Path,
  tmp_path: pathlib.Path,
  capfd: pytest.CaptureFixture[str],
) -> None:
  run = tmp_path / "run"
  shutil.copytree(whole_run, run)
  shutil.rmtree(run / "best")
  data = run / "checkpoints" / "ckpt-12.data-00000-of-00001"
  text = bytearray(data.read_bytes())
  text[len(text) // 2] ^= 1
  data.write_bytes(text)
  assert eval_program.main(["eval.py", f"--run_dir={run}"]) == 2
  refused = capfd.readouterr().err
  assert train_program.main([*args, f"--run_dir={run}"]) == 0
  warned = capfd.readouterr().err
  for err in (refused, warned):
    assert f"{data.with_name('ckpt-12')}" in err
    assert err.count("\n") == 1


@pytest.fixture
def readable_path() -> Iterator[pathlib.Path]:
  """A folder that another user can reach, unlike pytest's."""
  with tempfile.TemporaryDirectory() as folder:
    os.chmod(folder, 0o755)
    yield pathlib.Path(folder)


# The first commands import what the others need, which may be root's alone.
_RUN_ALL = """
import importlib, json, os, sys
for i, (program, *flags) in enumerate(json.loads(sys.argv[1])):
  if i == 2 and os.getuid() == 0:
    os.seteuid(65534)
  code = importlib.import_module(program).main([program, *flags])
  print(f"exit code {code}", file=sys.stderr)
os.seteuid(os.getuid())  # who removes TensorFlow's temporary files
"""


def test_what_cannot_be_read_is_named_and_kept(
  args: list[str],
  whole_run: pathlib.Path,
  readable_path: pathlib.Path,
) -> None:
  root = os.getuid() == 0  # who may read everything
  (corpus,) = (arg for arg in args if arg.startswith("--corpus="))
  shutil.copy(corpus.partition("=")[2], readable_path / "corpus.txt")
  flags = [*args[1:], f"--corpus={readable_path}/corpus.txt", "--epochs=2"]
  names = [
    "checkpoints/ckpt-12.index",
    "best/ckpt-12.index",
    "checkpoints",
  ]
  others = {("eval", names[1]), ("train", names[0])}
  shutil.copytree(whole_run, readable_path / "whole")
  whole = f"--run_dir={readable_path}/whole"
  commands, expected = [["train", whole, *flags], ["eval", whole]], []
  folders = []
  for i, name in enumerate(names):
    run = readable_path / str(i)
    shutil.copytree(whole_run, run)
    folders += [run / "checkpoints", run / "best"]
    for path in (run, *run.rglob("*")) if root else ():
      os.chown(path, 65534, 65534)
    (run / name).chmod(0)
    for program in ("eval", "train"):
      if (program, name) in others:
        continue  # it reads the one of step 12 in the other folder
      more = flags if program == "train" else []
      commands.append([program, f"--run_dir={run}", *more])
      expected.append(
        f"{program}: [Errno 13] Permission denied: '{run / name}'"
      )
  before = [_files(folder) for folder in folders]
  result = subprocess.run(
    [sys.executable, "-c", _RUN_ALL, json.dumps(commands)],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )
  zero, also_zero, *lines = result.stderr.splitlines()
  assert zero == also_zero == "exit code 0"
  assert lines[1::2] == ["exit code 2"] * len(expected)
  for line, start in zip(lines[::2], expected, strict=True):
    assert line.startswith(start)
  assert [_files(folder) for folder in folders] == before
