"""TensorBoard's event files: what it draws of a run's metrics."""

import re
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.scalar.summary_v2 import scalar_pb
from tensorboard.plugins.text.summary_v2 import text_pb
from tensorboard.summary.writer.record_writer import RecordWriter

# What is drawn, and under which name: TensorBoard groups charts by what comes
# before the slash, in the order of the names, and opens only the first two
# groups.
_TAGS = {
  "loss": "1 loss/loss",
  "valid_loss": "1 loss/loss of the valid text",
  "bits_per_character": "1 loss/loss in bits",
  "bits_per_byte": "1 loss/loss in bits per byte",
  "perplexity": "1 loss/perplexity",
  "learning_rate": "2 learning rate/learning rate",
  "gradient_norm": "3 gradient/norm before clipping",
  "characters_per_second": "4 speed/characters per second",
  "sample": "sample",
  "continuation": "continuation",
}
# Each line of a text in pieces of 80 columns: a wider one would have to be
# scrolled. `textwrap` would change the white space of a raw text.
_PIECES = re.compile(r".{1,80}|^$", re.MULTILINE)
_MAX_NUMBER = float(np.finfo(np.float32).max)  # TensorBoard draws float32


class EventFile:
  """A file of a folder that TensorBoard shows as curves, opened for a write.

  A write that fails, as on a full disk, can leave a part of an event, behind
  which TensorBoard reads nothing: the file is then to be made anew.
  """

  def __init__(self, folder: Path) -> None:
    """Makes the file, and the folder.

    Raises OSError: they cannot be written; so does `write`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # TensorBoard reads a folder's files in the order of their names.
    self._path = folder / f"events.out.tfevents.{time.time_ns()}"
    self.write(Event(wall_time=time.time(), file_version="brain.Event:2"))

  def write(self, event: Event) -> None:
    """Appends an event."""
    with self._path.open("ab") as file:
      RecordWriter(file).write(event.SerializeToString())


def metrics_event(record: Mapping[str, object], wall_time: float) -> Event:
  """Returns what is drawn of a record of metrics, which has a `step`.

  The wall time is in seconds since the epoch.
  """
  summary = Summary()
  for name, tag in _TAGS.items():
    value = record.get(name)
    if isinstance(value, str):
      # Markdown that shows lines as they are, if they are not too wide.
      block = "".join(f"    {piece}\n" for piece in _PIECES.findall(value))
      summary.MergeFrom(text_pb(tag, block))
    elif isinstance(value, int | float) and abs(value) <= _MAX_NUMBER:
      summary.MergeFrom(scalar_pb(tag, value))
  return Event(step=record["step"], wall_time=wall_time, summary=summary)
