import dataclasses
import json
import shutil
import time

import pytest
import tensorflow as tf
from helpers import EXPERIMENT, file_size_limit
from tensorboard.plugins.hparams.metadata import SESSION_START_INFO_TAG
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from charlm.runs import metrics as metrics_module
from charlm.runs.metrics import Metrics
from charlm.runs.records import read_records
from charlm.runs.run_dir import RunDir

_LOSS = "1 loss/loss"  # the tag in TensorBoard


def _events(run: RunDir, split: str) -> list[tuple[int, str, float | None]]:
  """Returns all but the settings, which an event file of `eval` begins with."""
  events = []
  for path in sorted((run.path / "summaries" / split).glob("events.*")):
    for record in tf.data.TFRecordDataset(str(path)):
      event = tf.compat.v1.Event.FromString(record.numpy())
      for value in event.summary.value:
        if value.metadata.plugin_data.plugin_name == "hparams":
          assert (split, event.step) == ("eval", 0)
          continue
        tensor = tf.make_ndarray(value.tensor)
        number = None if tensor.dtype == object else float(tensor)
        events.append((event.step, value.tag, number))
  return events


def test_metrics_are_lines_and_summaries(run: RunDir) -> None:
  metrics = Metrics(run, 0)
  metrics.write(10, "train", {"loss": 2.5})
  metrics.write(20, "eval", {"loss": 2.0, "sample": "ab\nba"})
  metrics.close()
  lines = (run.path / "metrics.jsonl").read_text().splitlines()
  records = [json.loads(line) for line in lines]
  assert 0 <= records[0].pop("seconds") <= records[1].pop("seconds")
  assert records == [
    {"step": 10, "split": "train", "loss": 2.5},
    {"step": 20, "split": "eval", "loss": 2.0, "sample": "ab\nba"},
  ]
  assert _events(run, "train") == [(10, _LOSS, 2.5)]
  assert _events(run, "eval") == [(20, _LOSS, 2.0), (20, "sample", None)]


def test_a_file_that_was_moved_away_is_made_anew(run: RunDir) -> None:
  metrics = Metrics(run, 0)
  metrics.write(1, "train", {"loss": 3.0})
  run.metrics.rename(run.path / "moved")
  metrics.write(2, "train", {"loss": 2.0})
  metrics.close()
  files = run.path / "moved", run.metrics
  assert [[r["loss"] for r in read_records(f)] for f in files] == [[3.0], [2.0]]
  assert _events(run, "train") == [(1, _LOSS, 3.0), (2, _LOSS, 2.0)]


@pytest.mark.parametrize("room", [0, 5, 20, 80, 100, 200])
def test_records_that_failed_are_written_once(run: RunDir, room: int) -> None:
  metrics = Metrics(run, 0)
  metrics.write(1, "train", {"loss": 4.0})
  size = run.metrics.stat().st_size
  with file_size_limit(size + 5):
    metrics.write(2, "train", {"loss": 3.0})
  with file_size_limit(size + room):  # for a part, or one and a half
    metrics.write(3, "train", {"loss": 2.0})
  assert not metrics.whole
  # All or none: a part would be there twice after the next attempt.
  steps = [1, 2, 3] if room == 200 else [1]
  lines = run.metrics.read_text().splitlines()
  assert [json.loads(line)["step"] for line in lines] == steps
  metrics.write(4, "train", {"loss": 1.0})
  metrics.close()
  lines = run.metrics.read_text().splitlines()
  assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4]


def test_a_record_that_was_cut_off_is_written_whole_after_a_move(
  run: RunDir,
) -> None:
  metrics = Metrics(run, 0)
  metrics.write(1, "train", {"loss": 3.0})
  with file_size_limit(run.metrics.stat().st_size + 20):
    metrics.write(2, "train", {"loss": 2.0})
  assert not metrics.whole
  run.metrics.rename(run.path / "moved")
  metrics.write(3, "train", {"loss": 1.0})
  assert metrics.whole
  metrics.close()
  assert [r["step"] for r in read_records(run.path / "moved")] == [1]
  lines = run.metrics.read_text().splitlines()
  assert [json.loads(line)["step"] for line in lines] == [2, 3]


def test_texts_are_wrapped_without_a_change_of_their_white_space(
  run: RunDir,
) -> None:
  text = f"{'ab ' * 40}\n\n\t{'c' * 80}\n"
  metrics = Metrics(run, 0)
  metrics.write(1, "eval", {"loss": 1.0, "sample": text})
  metrics.close()
  (path,) = (run.path / "summaries" / "eval").glob("events.*")
  (shown,) = (
    tf.make_ndarray(value.tensor).item().decode()
    for event in map(
      tf.compat.v1.Event.FromString,
      (record.numpy() for record in tf.data.TFRecordDataset(str(path))),
    )
    for value in event.summary.value
    if value.tag == "sample"
  )
  lines = shown.splitlines()
  assert all(line.startswith("    ") for line in lines)
  widths = [len(line) - 4 for line in lines]
  assert widths == [80, 40, 0, 80, 1, 0]
  assert "".join(line[4:] for line in lines) == text.replace("\n", "")


def test_seconds_count_neither_pauses_nor_lost_steps(
  run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
  clock = iter([1000.0, 1004.0, 1009.0, 5000.0, 5003.0, 9000.0, 9001.0])
  monkeypatch.setattr(metrics_module.time, "monotonic", lambda: next(clock))
  metrics = Metrics(run, 0)  # at 1,000
  metrics.write(10, "train", {"loss": 1.0})
  metrics.write(20, "train", {"loss": 1.0})
  metrics.close()
  metrics = Metrics(run, 10)  # at 5,000: the second record is dropped
  metrics.write(20, "train", {"loss": 1.0})
  metrics.close()
  assert [r["seconds"] for r in read_records(run.metrics)] == [4, 7]
  metrics = Metrics(run, 40)  # 20 steps after the last record, 7 s more
  metrics.write(50, "train", {"loss": 1.0})
  metrics.close()
  assert read_records(run.metrics)[-1]["seconds"] == 15


def test_a_resume_cuts_off_what_was_lost(run: RunDir) -> None:
  metrics = Metrics(run, 0)
  for step in (10, 20, 30):
    metrics.write(step, "train", {"loss": float(step)})
  metrics.close()
  profile = run.path / "summaries" / "train" / "plugins" / "profile"
  profile.mkdir(parents=True)
  with (run.path / "metrics.jsonl").open("a") as file:
    file.write('{"step": 40, "spl')
  metrics = Metrics(run, 20)
  metrics.write(30, "train", {"loss": 33.0})
  metrics.close()
  lines = (run.path / "metrics.jsonl").read_text().splitlines()
  assert [json.loads(line)["loss"] for line in lines] == [10, 20, 33]
  assert _events(run, "train") == [
    (10, _LOSS, 10.0),
    (20, _LOSS, 20.0),
    (30, _LOSS, 33.0),
  ]
  assert profile.exists()


def test_a_resume_that_lost_nothing_keeps_the_summaries(run: RunDir) -> None:
  for step in (10, 20):
    metrics = Metrics(run, step - 10)
    metrics.write(step, "train", {"loss": float(step)})
    metrics.close()
  assert _events(run, "train") == [(10, _LOSS, 10.0), (20, _LOSS, 20.0)]


def test_a_kill_while_both_are_cut_off_is_made_good(
  run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
  metrics = Metrics(run, 0)
  for step in (10, 20):
    metrics.write(step, "train", {"loss": float(step)})
  metrics.close()

  def killed(*args: object) -> None:
    raise KeyboardInterrupt

  for part in ("_summarize", "write_atomically"):
    with monkeypatch.context() as patch:
      patch.setattr(f"charlm.runs.metrics.{part}", killed)
      with pytest.raises(KeyboardInterrupt):
        Metrics(run, 10)
  Metrics(run, 10).close()
  assert _events(run, "train") == [(10, _LOSS, 10.0)]
  assert len((run.path / "metrics.jsonl").read_text().splitlines()) == 1


def test_a_kill_before_the_summaries_is_made_good(
  run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
  metrics = Metrics(run, 0)
  metrics.write(10, "train", {"loss": 1.0})

  def killed(*args: object) -> None:
    raise KeyboardInterrupt

  time.sleep(0.05)  # a file system may count time in hundredths of a second
  with monkeypatch.context() as patch:
    patch.setattr("charlm.runs.metrics._summarize", killed)
    with pytest.raises(KeyboardInterrupt):
      metrics.write(10, "eval", {"loss": 2.0})
  metrics.close()
  Metrics(run, 10).close()
  assert (10, _LOSS, 2.0) in _events(run, "eval")


def test_a_full_disk_is_waited_out(
  run: RunDir, capsys: pytest.CaptureFixture[str]
) -> None:
  metrics = Metrics(run, 0)
  metrics.write(10, "train", {"loss": 1.0})
  with file_size_limit(100):
    for step in (20, 30, 40):
      metrics.write(step, "train", {"loss": float(step)})
    assert not metrics.whole
  assert capsys.readouterr().err.count("could not be written") == 3
  metrics.write(50, "eval", {"loss": 5.0})
  assert metrics.whole
  metrics.close()
  lines = (run.path / "metrics.jsonl").read_text().splitlines()
  assert [json.loads(line)["step"] for line in lines] == [10, 20, 30, 40, 50]
  steps = [step for step, _, _ in _events(run, "train")]
  assert steps == [10, 20, 30, 40]
  assert _events(run, "eval") == [(50, _LOSS, 5.0)]


def test_event_files_that_cannot_grow_are_made_anew(run: RunDir) -> None:
  metrics = Metrics(run, 0)
  limit = 150
  with file_size_limit(limit):
    metrics.write(10, "eval", {"loss": 6.0, "sample": "text " * 100})
  assert not metrics.whole
  metrics.write(20, "eval", {"loss": 5.0})
  metrics.close()
  assert metrics.whole
  assert _events(run, "eval") == [
    (10, _LOSS, 6.0),
    (10, "sample", None),
    (20, _LOSS, 5.0),
  ]


def test_summaries_that_stayed_short_are_made_anew_by_the_next_start(
  run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
  metrics = Metrics(run, 0)
  metrics.write(10, "train", {"loss": 2.0})

  def fail(*_: object) -> None:
    raise tf.errors.ResourceExhaustedError(None, None, "no space")

  with monkeypatch.context() as patch:
    patch.setattr(metrics_module, "_summarize", fail)
    metrics.write(20, "train", {"loss": 1.0})
  metrics.close()
  Metrics(run, 20).close()
  assert [step for step, _, _ in _events(run, "train")] == [10, 20]


def _settings(run: RunDir) -> list[dict[str, object]]:
  """Returns the settings that each start of a session in `eval` names."""
  starts = []
  for path in sorted((run.path / "summaries" / "eval").glob("events.*")):
    for record in tf.data.TFRecordDataset(str(path)):
      event = tf.compat.v1.Event.FromString(record.numpy())
      for value in event.summary.value:
        if value.tag == SESSION_START_INFO_TAG:
          content = value.metadata.plugin_data.content
          info = HParamsPluginData.FromString(content).session_start_info
          starts.append(
            {
              name: getattr(x, x.WhichOneof("kind"))
              for name, x in info.hparams.items()
            }
          )
  return starts


def test_an_extended_run_shows_its_new_settings(
  run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
  metrics = Metrics(run, 0)
  metrics.write(10, "train", {"loss": 1.0})
  metrics.write(10, "eval", {"loss": 2.0})
  metrics.close()
  assert [start["epochs"] for start in _settings(run)] == [10]
  config = dataclasses.replace(EXPERIMENT.config, epochs=20)
  longer = dataclasses.replace(EXPERIMENT, config=config)

  def killed(*args: object) -> None:
    raise KeyboardInterrupt

  def start() -> None:
    run.check_resume(longer, 10)
    Metrics(run, 10).close()

  before = run.metrics.read_text()
  # Between the steps, and while the files are made anew.
  for part in ("run_dir.write_atomically", "metrics._summarize"):
    with monkeypatch.context() as patch:
      patch.setattr(f"charlm.runs.{part}", killed)
      with pytest.raises(KeyboardInterrupt):
        start()
  start()
  assert [start["epochs"] for start in _settings(run)] == [20]
  assert _events(run, "train") == [(10, _LOSS, 1.0)]
  assert _events(run, "eval") == [(10, _LOSS, 2.0)]
  assert run.metrics.read_text() == before


def test_no_space_for_the_summaries_at_a_start_is_waited_out(
  run: RunDir, capsys: pytest.CaptureFixture[str]
) -> None:
  metrics = Metrics(run, 0)
  metrics.write(10, "eval", {"loss": 1.0})
  metrics.close()
  before = run.metrics.read_bytes()
  shutil.rmtree(run.summaries)
  for _ in range(2):
    with file_size_limit(len(before) + 1):
      metrics = Metrics(run, 10)
      assert not metrics.whole
      metrics.close()
    err = capsys.readouterr().err
    assert err.startswith("the summaries could not be written (")
    assert err.count("\n") == 1
    assert run.metrics.read_bytes() == before
  with file_size_limit(len(before) + 1):
    metrics = Metrics(run, 10)
  metrics.write(20, "train", {"loss": 2.0})
  assert metrics.whole
  metrics.close()
  assert _events(run, "eval") == [(10, _LOSS, 1.0)]
  assert _events(run, "train") == [(20, _LOSS, 2.0)]
