"""The benchmark at tiny sizes."""

import pathlib

import pytest

from benchmarks import contestants, pool
from benchmarks.task import Sizes, Task, Text

_SIZES = Sizes(60, batch_size=8, seq_length=8, embedding_dim=4, rnn_units=8)


@pytest.mark.release
def test_the_benchmark_times_charlm_s_training(
  corpus_path: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  longer = tmp_path / "longer.txt"
  longer.write_bytes(corpus_path.read_bytes() * 5)
  Text(str(tmp_path)).write(str(longer))
  tasks = {
    c.name: Task(c.builder, c.options, _SIZES, str(tmp_path))
    for c in contestants.training(_SIZES).contestants
    if c.builder == "ours.build_step"
  }
  timings = pool.measure(tasks, 1, 0.01)
  assert timings.keys() == {"charlm", "charlm_bfloat16"}
  for timing in timings.values():
    assert not timing.error
    assert timing.median > 0
