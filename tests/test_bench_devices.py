"""The part of the benchmark that says what is the fastest on the devices."""

import pathlib

import pytest

from benchmarks import devices, machine, ours, pool
from benchmarks.contestants import Group
from benchmarks.tables import to_markdown
from benchmarks.task import AUTO_JIT, Sizes, Task, Text

pytestmark = pytest.mark.release

_SIZES = Sizes(60, seq_length=8, embedding_dim=4, rnn_units=8)


@pytest.fixture
def text(corpus_path: pathlib.Path, tmp_path: pathlib.Path) -> Text:
  longer = tmp_path / "longer.txt"
  longer.write_bytes(corpus_path.read_bytes() * 5)
  text = Text(str(tmp_path))
  text.write(str(longer))
  return text


def _groups(kind: str = "CPU") -> list[tuple[Sizes, Group]]:
  return list(devices.groups(_SIZES, kind, 3, (8, 6)))


def test_all_devices_are_those_that_divide_the_batch() -> None:
  titles = [group.title for _, group in _groups()]
  assert titles == [
    f"--num_replicas={number} --batch_size={size}"
    for size, number in ((8, 1), (8, 2), (6, 1), (6, 3))
  ]
  kind, number = devices.find_devices()
  assert kind in ("CPU", "GPU")
  assert number >= 1


def test_xla_is_for_one_cpu_device_or_for_gpus() -> None:
  for kind, expected in (("CPU", [True, False]), ("GPU", [True, True])):
    groups = [group for _, group in _groups(kind)][:2]
    xla = [any(c.options["xla"] for c in g.contestants) for g in groups]
    assert xla == expected


def test_each_contestant_trains(text: Text) -> None:
  for sizes, group in _groups()[:2]:
    for contestant in group.contestants:
      if not contestant.options["xla"]:
        assert ours.build_step(sizes, text, **contestant.options)(1) > 0
  # XLA is set for a whole process.
  sizes, group = _groups()[0]
  contestant = group.contestants[-1]
  assert contestant.options["xla"]
  task = Task(contestant.builder, contestant.options, sizes, text.folder)
  timing = pool.measure({"xla": task}, 1, 0.01)["xla"]
  assert not timing.error
  assert timing.median > 0


def test_the_fastest_flags_are_named() -> None:
  (_, first), (_, second), *_ = _groups("GPU")
  groups = [
    {
      "title": group.title,
      "characters": group.characters,
      "contestants": {
        c.name: {"label": c.label, "seconds": 1.0} for c in group.contestants
      },
    }
    for group in (first, second)
  ]
  entries = groups[1]["contestants"]
  entries["fused_bfloat16"]["seconds"] = 0.5
  entries["keras_float32"] = {"label": "--gru=keras", "error": "no memory"}
  results = {"machine": machine.describe(), "groups": {}, "skipped": []}
  results |= {"devices": {"kind": "GPU", "groups": groups}}
  text = to_markdown(results)
  fastest = "--num_replicas=2 --batch_size=8 --gru=fused --precision=bfloat16"
  assert f"Fastest here: `{fastest}`." in text
  assert "no memory" in text
  entries["fused_bfloat16_xla"]["seconds"] = 0.25
  text = to_markdown(results)
  assert f"`{fastest}` with TF_XLA_FLAGS='{AUTO_JIT}'" in text
