"""The products of a training step run on oneDNN's fast kernels."""

import os
import pathlib
import subprocess
import sys

import pytest
from helpers import ROOT

_TRAIN = """
import sys
sys.path.insert(0, "tests")
from helpers import evaluating_quickly
import train

with evaluating_quickly():
  for precision in ("float32", "bfloat16"):
    flags = f"--precision={precision}", f"--run_dir={sys.argv[1]}/{precision}"
    assert train.main(["train.py", *sys.argv[2:], *flags]) == 0
"""


def test_no_product_falls_back_to_a_reference_kernel(
  train_args: list[str], tmp_path: pathlib.Path
) -> None:
  # A reference kernel can be a thousand times slower; nothing else shows it.
  flags = ["--num_layers=2", "--rnn_units=128", "--max_steps=2"]
  done = subprocess.run(
    [sys.executable, "-c", _TRAIN, tmp_path, *train_args[1:], *flags],
    env=os.environ | {"ONEDNN_VERBOSE": "1"},
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=True,
  )
  lines = [line.split(",") for line in done.stdout.splitlines()]
  if not any(line[0] == "onednn_verbose" for line in lines):
    pytest.skip("TensorFlow has no oneDNN here, or one that does not log")
  kernels = {  # name, and formats of what is multiplied
    (line[6], line[8])
    for line in lines
    if line[0] == "onednn_verbose" and line[5:6] in (["matmul"], ["gemm_api"])
  }
  assert not [name for name, _ in kernels if "ref" in name], kernels
  in_bfloat16 = {"bf16" in formats for _, formats in kernels}
  assert in_bfloat16 == {True, False}, kernels
