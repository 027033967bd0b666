"""Modified, damaged or different files are reported in one line."""

import json
import pathlib
import shutil

import pytest
from helpers import PROGRAMS, modification_times


@pytest.fixture(scope="module")
def args(train_args: list[str]) -> list[str]:
  return [*train_args, "--valid_lines=30", "--epochs=4"]


def _swap_last_two(text: str) -> str:
  *vocab, one, other = json.loads(text)
  return json.dumps([*vocab, other, one]) + "\n"


_READERS = {
  "vocabulary.json": ["eval", "eval --text=TEXT", "sample", "export", "report"],
  "eval.txt": ["eval", "report"],
  "valid.txt": ["eval --dynamic"],
}


@pytest.mark.parametrize("name", _READERS)
def test_every_program_refuses_a_modified_file(
  name: str,
  args: list[str],
  valid_run: pathlib.Path,
  corpus_path: pathlib.Path,
  tmp_path: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
) -> None:
  run = tmp_path / "run"
  shutil.copytree(valid_run, run)
  text = (run / name).read_text()
  changed = _swap_last_two(text) if name == "vocabulary.json" else text[:-9]
  (run / name).write_text(changed)
  before = modification_times(tmp_path)
  commands = [command.split() for command in _READERS[name]]
  commands = [[*c, f"--run_dir={run}"] for c in commands]
  for output in ("export", "report"):
    for command in commands:
      if command[0] == output:
        command.append(f"--output={tmp_path}/{output}")
  commands.append(["train", *args[1:], f"--run_dir={run}", "--epochs=5"])
  if name == "vocabulary.json":
    start = [f"--init_from={run}", f"--run_dir={tmp_path}/next"]
    commands.append(["train", *args[1:], *start])
  for program, *flags in commands:
    flags = [flag.replace("TEXT", str(corpus_path)) for flag in flags]
    assert PROGRAMS[f"{program}.py"].main([program, *flags]) == 2, flags
    captured = capsys.readouterr()
    assert captured.out == ""
    assert str(run / name) in captured.err
    assert captured.err.count("\n") == 1
  assert modification_times(tmp_path) == before
