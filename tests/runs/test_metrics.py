import dataclasses
import json
import pathlib
import time

import pytest
import tensorflow as tf
from helpers import EXPERIMENT, file_size_limit
from tensorboard.backend.event_processing.plugin_event_accumulator import (
  EventAccumulator,
)
from tensorboard.plugins.hparams.metadata import SESSION_START_INFO_TAG
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from charlm.runs import metrics as metrics_module
from charlm.runs.metrics import Metrics
from charlm.runs.records import read_records
from charlm.runs.run import Run

_LOSS = "loss"  # the tag in TensorBoard
_LOGGED = {"time": "2026-01-02T03:04:05+00:00", "step": 0}


def _start(run: Run, step: int) -> Metrics:
  return Metrics(run, step, vars(run.config))


def _events(run: Run, split: str) -> list[tuple[int, str, object, float]]:
  """Returns step, tag, value and wall time of each event of a split.

  The value of the run's settings is their number of epochs.
  """
  events = []
  for path in sorted((run.summaries / split).glob("events.*")):
    for event in tf.compat.v1.train.summary_iterator(str(path)):
      for value in event.summary.value:
        if value.tag == SESSION_START_INFO_TAG:
          data = value.metadata.plugin_data.content
          info = HParamsPluginData.FromString(data).session_start_info
          shown = info.hparams["epochs"].number_value
        else:
          shown = tf.make_ndarray(value.tensor).item()
        events.append((event.step, value.tag, shown, event.wall_time))
  return events


def _curve(run: Run, split: str) -> list[tuple[int, float]]:
  events = _events(run, split)
  return [(step, value) for step, tag, value, _ in events if tag == _LOSS]


def _steps(path: pathlib.Path) -> list[int]:
  """Returns the steps of the records, of which none may be malformed."""
  lines = path.read_text().splitlines()
  return [json.loads(line)["step"] for line in lines]


def test_metrics_are_written_as_json_lines_and_event_files(run: Run) -> None:
  before = time.time()
  metrics = _start(run, 0)
  metrics.write(10, "train", {"loss": 2.5, "learning_rate": 0.5})
  text = f"{'ab ' * 40}\n\n\t{'c' * 80}\n"
  metrics.write(20, "eval", {"loss": 2.0, "perplexity": 7.4, "sample": text})
  first, second = records = read_records(run.metrics_path)
  assert 0 <= first.pop("seconds") <= second.pop("seconds")
  times = [record.pop("time") for record in records]
  assert round(before, 3) <= times[0] <= times[1] <= round(time.time(), 3)
  assert records == [
    {"step": 10, "split": "train", "loss": 2.5, "learning_rate": 0.5},
    {"step": 20, "split": "eval", "loss": 2.0, "perplexity": 7.4}
    | {"sample": text},
  ]
  assert _events(run, "train") == [
    (10, _LOSS, 2.5, times[0]),
    (10, "learning_rate", 0.5, times[0]),
  ]
  # Not all numbers are drawn.
  _, loss, lowest, (*_, shown, _) = _events(run, "eval")
  assert loss == (20, _LOSS, 2.0, times[1])
  assert lowest == (20, "best_loss", 2.0, times[1])
  # A sample is wrapped without changing its white space.
  lines = shown.decode().splitlines()
  assert all(line.startswith("    ") for line in lines)
  assert [len(line) - 4 for line in lines] == [80, 40, 0, 80, 1, 0]
  assert "".join(line[4:] for line in lines) == text.replace("\n", "")


def test_seconds_exclude_pauses_and_lost_steps(
  run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
  clock = iter([1000.0, 1004.0, 1009.0, 5000.0, 5003.0, 9000.0, 9001.0])
  monkeypatch.setattr(metrics_module.time, "monotonic", lambda: next(clock))
  metrics = _start(run, 0)  # at 1,000
  metrics.write(10, "train", {"loss": 1.0})
  metrics.write(20, "train", {"loss": 1.0})
  metrics = _start(run, 10)  # at 5,000: the second record is dropped
  metrics.write(20, "train", {"loss": 1.0})
  assert [r["seconds"] for r in read_records(run.metrics_path)] == [4, 7]
  metrics = _start(run, 40)  # 20 steps after the last record, 7 s more
  metrics.write(50, "train", {"loss": 1.0})
  assert read_records(run.metrics_path)[-1]["seconds"] == 15


def test_a_resumed_run_rewrites_its_event_files(
  run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
  metrics = _start(run, 0)
  for step in (10, 20, 30):
    metrics.write(step, "train", {"loss": float(step)})
  metrics.write(10, "eval", {"loss": 1.0})
  before = _events(run, "train")[:2]
  # A kill leaves part of a record, and an empty event file.
  with run.metrics_path.open("a") as file:
    file.write('{"step": 40, "spl')
  (run.summaries / "train" / "events.out.tfevents.1.host.v2").touch()
  others = [
    run.summaries / "train" / "plugins" / "profile" / "1" / "host.xplane.pb",
    run.summaries / "another" / "events.out.tfevents.1",
  ]
  for path in others:
    path.parent.mkdir(parents=True)
    path.touch()
  capsys.readouterr()
  watched = {
    split: EventAccumulator(str(run.summaries / split))
    for split in ("train", "eval")
  }
  for watcher in watched.values():
    watcher.Reload()
  config = dataclasses.replace(EXPERIMENT.config, epochs=20)
  run.experiment = dataclasses.replace(EXPERIMENT, config=config)
  metrics = _start(run, 20)
  (line,) = capsys.readouterr().err.splitlines()
  assert (
    line == f"{run.metrics_path} has a line that is cut off: it is left out"
  )
  metrics.write(30, "train", {"loss": 33.0})
  assert _steps(run.metrics_path) == [10, 20, 10, 30]
  assert _curve(run, "train") == [(10, 10.0), (20, 20.0), (30, 33.0)]
  assert _events(run, "train")[:2] == before  # at the times of the records
  # The settings are the extended run's.
  settings, loss, _ = _events(run, "eval")
  assert settings[:3] == (0, SESSION_START_INFO_TAG, 20)
  assert loss[:3] == (10, _LOSS, 1.0)
  assert all(path.exists() for path in others)
  # A TensorBoard that stayed open shows each curve once.
  for split, watcher in watched.items():
    watcher.Reload()
    shown = [
      (x.step, tf.make_ndarray(x.tensor_proto)) for x in watcher.Tensors(_LOSS)
    ]
    assert shown == _curve(run, split)


@pytest.mark.parametrize("room", [0, 20, 150, 300])
def test_metrics_are_written_when_a_full_disk_has_space_again(
  run: Run, room: int, capsys: pytest.CaptureFixture[str]
) -> None:
  metrics = _start(run, 0)
  metrics.write(1, "train", {"loss": 4.0})
  size = run.metrics_path.stat().st_size
  with file_size_limit(size + 5):
    metrics.write(2, "eval", {"loss": 3.0})
  assert not metrics.whole
  with file_size_limit(size + room):  # for 0, a part, 1.5, or both records
    metrics.write(3, "train", {"loss": 2.0, "sample": "text " * 20})
  # All or nothing: the next attempt would write a partial record twice.
  assert _steps(run.metrics_path) == ([1, 2, 3] if room == 300 else [1])
  assert metrics.losses == {2: 3.0}
  metrics.write(4, "train", {"loss": 1.0})
  assert metrics.whole
  assert _steps(run.metrics_path) == [1, 2, 3, 4]
  with file_size_limit(run.metrics_path.stat().st_size + 5):
    metrics.write(5, "train", {"loss": 0.5})
  metrics.write_rest()  # as at a stop
  assert metrics.whole
  assert _steps(run.metrics_path) == [1, 2, 3, 4, 5]
  # One warning says that event files stop; the next start rewrites them.
  err = capsys.readouterr().err
  assert err.count("TensorBoard shows no more until the next start") == 1
  _start(run, 5)
  assert _curve(run, "train") == [(1, 4.0), (3, 2.0), (4, 1.0), (5, 0.5)]
  assert _curve(run, "eval") == [(2, 3.0)]
