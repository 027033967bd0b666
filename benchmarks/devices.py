"""Which layer, precision and batch size are the fastest on the devices here."""

import dataclasses
import subprocess
import sys
from collections.abc import Iterator

from benchmarks.contestants import Contestant, Group
from benchmarks.task import WITH_XLA, Sizes
from charlm.system.devices import largest_divisor

BATCH_SIZES = (64, 256, 1024)
# As flags of `train.py`; the first is cuDNN's layer on a GPU.
_LAYERS = (("keras", "float32"), ("fused", "float32"), ("fused", "bfloat16"))
_QUESTION = (
  "from charlm.system.process import import_quietly; "
  "import_quietly('tensorflow'); "
  "from charlm.system.choices import kind_of_device; "
  "from charlm.system.devices import most_replicas; "
  "print(kind_of_device(), most_replicas())"
)


def find_devices() -> tuple[str, int]:
  """Returns the kind of device of this machine, and how many it has.

  Raises CalledProcessError: TensorFlow cannot be imported.
  """
  command = [sys.executable, "-c", _QUESTION]
  answer = subprocess.run(command, capture_output=True, text=True, check=True)
  kind, number = answer.stdout.split()
  return kind, int(number)


def groups(
  sizes: Sizes,
  kind: str,
  num_devices: int,
  batch_sizes: tuple[int, ...] = BATCH_SIZES,
) -> Iterator[tuple[Sizes, Group]]:
  """Yields all layers on one device and on as many as divide the batch size.

  XLA's auto-clustering is left out with several CPU devices: some of its passes
  place everything on the first.
  """
  for batch_size in batch_sizes:
    most = largest_divisor(batch_size, num_devices)
    for number in sorted({1, most}):
      here = dataclasses.replace(sizes, batch_size=batch_size)
      flags = f"--num_replicas={number} --batch_size={batch_size}"
      yield (
        here,
        Group(
          name=f"devices_{batch_size}_{number}",
          title=flags,
          contestants=tuple(_contestants(number, number == 1 or kind == "GPU")),
          reference="fused_float32",
          characters=here.characters_per_step,
        ),
      )


def _contestants(num_replicas: int, with_xla: bool) -> Iterator[Contestant]:
  for gru, precision in _LAYERS:
    for xla in (False, True)[: 1 + with_xla]:
      options = {"gru": gru, "precision": precision, "xla": xla}
      yield Contestant(
        name=f"{gru}_{precision}{'_xla' if xla else ''}",
        label=f"--gru={gru} --precision={precision}{WITH_XLA if xla else ''}",
        builder="ours.build_step",
        options=options | {"num_replicas": num_replicas},
      )
