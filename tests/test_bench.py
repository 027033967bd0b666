"""The benchmarks at tiny sizes."""

import dataclasses
import pathlib

import pytest

from benchmarks import bench, gpu_check
from benchmarks.task import Sizes

_SIZES = Sizes(batch_size=8, seq_length=8, embedding_dim=4, rnn_units=8)


@pytest.mark.release
def test_a_table_has_times_and_memory_of_those_that_did_not_fail(
  corpus_path: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  longer = tmp_path / "longer.txt"
  longer.write_bytes(corpus_path.read_bytes() * 5)
  bfloat16 = dataclasses.replace(_SIZES, precision="bfloat16")
  workers = bench.measure(
    {
      bench.CHARLM: ("ours.build_step", _SIZES),
      "charlm, bfloat16": ("ours.build_step", bfloat16),
      bench.FIT: ("reference.build_step", _SIZES),
      "PyTorch": ("ours.build_nothing", _SIZES),
    },
    str(longer),
    num_rounds=2,
    seconds_per_turn=0.01,
  )
  failed = {name for name, worker in workers.items() if worker.failed}
  assert failed == {"PyTorch"}
  page = bench.to_markdown(bench.TABLES["step"], {"step": workers})
  rows = dict(line[2:-2].split(" | ") for line in page.splitlines() if line)
  assert rows["PyTorch"] == ""
  for name in (bench.CHARLM, bench.FIT):
    assert int(rows[name].replace(",", "")) > 100  # MiB, the second table
  charlm, fit = workers[bench.CHARLM], workers[bench.FIT]
  ratio = charlm.times_as_fast(fit)
  assert f"({ratio:.2f}) |" in page
  assert rows["fastest other / charlm"] == f"{ratio:.2f}"


@pytest.mark.release
def test_each_check_of_a_gpu_runs_on_a_cpu(
  capsys: pytest.CaptureFixture[str],
) -> None:
  assert gpu_check.main(["gpu_check", "--tiny"]) == 0
  printed = capsys.readouterr().out
  assert "failed" not in printed
  lines = [line for line in printed.splitlines() if "difference" in line]
  assert len(lines) == 8
  assert max(float(line.split()[-1]) for line in lines) < 1e-5
