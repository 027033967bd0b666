"""What all scripts share: their streams, and their errors."""

import pathlib
import shlex
import subprocess
import sys

import pytest
from helpers import PROGRAMS, ROOT


def test_a_training_whose_log_is_full_is_done(
  train_args: list[str], tmp_path: pathlib.Path
) -> None:
  flags = shlex.join([*train_args[1:], f"--run_dir={tmp_path}/run"])
  command = f"{sys.executable} {ROOT}/train.py {flags} --max_steps=3 >/dev/full"
  result = subprocess.run(command, shell=True, capture_output=True)
  assert (result.returncode, result.stderr) == (0, b"")
  assert (tmp_path / "run" / "checkpoints" / "ckpt-3.index").exists()


@pytest.mark.parametrize("name", PROGRAMS)
def test_help_is_no_error(
  name: str, capsys: pytest.CaptureFixture[str]
) -> None:
  assert PROGRAMS[name].main([name, "--help"]) == 0
  captured = capsys.readouterr()
  assert "--run_dir" in captured.out
  assert captured.err == ""
