"""What all scripts share: their streams, and their errors."""

import contextlib
import pathlib

import pytest
from helpers import PROGRAMS


@pytest.mark.usefixtures("quick_evaluations")
def test_a_training_whose_log_is_full_is_done(
  train_args: list[str],
  tmp_path: pathlib.Path,
  capfd: pytest.CaptureFixture[str],
) -> None:
  args = [*train_args, f"--run_dir={tmp_path}/run", "--max_steps=3"]
  # Its end, as that of a process, fails if it holds what cannot be written.
  with open("/dev/full", "w") as full, contextlib.redirect_stdout(full):
    assert PROGRAMS["train.py"].main(args) == 0
  assert capfd.readouterr().err == ""
  assert (tmp_path / "run" / "checkpoints" / "ckpt-3.index").exists()
