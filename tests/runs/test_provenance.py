"""Differences of environment that are reported when a run resumes."""

from charlm.runs.provenance import describe_start, start_differences
from charlm.runs.run import Start


def test_a_change_of_gpu_or_driver_is_reported() -> None:
  on_cpu = describe_start(0, ["CPU:0"])
  assert on_cpu["gpus"] == {}
  first: Start = {**on_cpu, "gpus": {"gpu": "1 x RTX 4090", "driver": "550"}}
  second: Start = {**on_cpu, "gpus": {"gpu": "1 x H100", "driver": "550"}}
  difference = "gpu (1 x RTX 4090 before, 1 x H100 now)"
  assert start_differences(first, first) == []
  assert start_differences(first, second) == [difference]
  assert start_differences(first, on_cpu) == []  # the devices differ instead


def test_a_change_in_the_number_of_replicas_is_reported() -> None:
  one, two = (describe_start(0, [f"CPU:{i}" for i in range(n)]) for n in (1, 2))
  assert start_differences(one, two) == [
    "devices (['CPU:0'] before, ['CPU:0', 'CPU:1'] now)"
  ]
