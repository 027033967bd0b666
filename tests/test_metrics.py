import json

import pytest
import tensorflow as tf
from conftest import file_size_limit

from charlm.metrics import Metrics, Profile
from charlm.run_dir import RunDir


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
  assert [json.loads(line) for line in lines] == [
    {"step": 10, "split": "train", "loss": 2.5},
    {"step": 20, "split": "eval", "loss": 2.0, "sample": "ab\nba"},
  ]
  assert _events(run, "train") == [(10, "loss", 2.5)]
  assert _events(run, "eval") == [(20, "loss", 2.0), (20, "sample", None)]


def test_a_resume_cuts_off_what_was_lost(run: RunDir) -> None:
  metrics = Metrics(run, 0)
  for step in (10, 20, 30):
    metrics.write(step, "train", {"loss": float(step)})
  metrics.close()
  profile = run.path / "summaries" / "train" / "plugins" / "profile"
  profile.mkdir(parents=True)
  with (run.path / "metrics.jsonl").open("a") as file:
    file.write('{"step": "1"}\n[]\n{"step": 40, "spl')
  metrics = Metrics(run, 20)
  metrics.write(30, "train", {"loss": 33.0})
  metrics.close()
  lines = (run.path / "metrics.jsonl").read_text().splitlines()
  assert [json.loads(line)["loss"] for line in lines] == [10, 20, 33]
  assert _events(run, "train") == [
    (10, "loss", 10.0),
    (20, "loss", 20.0),
    (30, "loss", 33.0),
  ]
  assert profile.exists()


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
      patch.setattr(f"charlm.metrics.{part}", killed)
      with pytest.raises(KeyboardInterrupt):
        Metrics(run, 10)
  Metrics(run, 10).close()
  assert _events(run, "train") == [(10, "loss", 10.0)]
  assert len((run.path / "metrics.jsonl").read_text().splitlines()) == 1


def test_a_full_disk_is_waited_out(
  run: RunDir, capsys: pytest.CaptureFixture[str]
) -> None:
  metrics = Metrics(run, 0)
  metrics.write(10, "train", {"loss": 1.0})
  with file_size_limit(100):
    for step in (20, 30, 40):
      metrics.write(step, "train", {"loss": float(step)})
    assert not metrics.whole
  assert capsys.readouterr().err.count("are not written") == 3
  metrics.write(50, "eval", {"loss": 5.0})
  assert metrics.whole
  metrics.close()
  lines = (run.path / "metrics.jsonl").read_text().splitlines()
  assert [json.loads(line)["step"] for line in lines] == [10, 20, 30, 40, 50]
  steps = [step for step, _, _ in _events(run, "train")]
  assert steps == [10, 20, 30, 40]
  assert _events(run, "eval") == [(50, "loss", 5.0)]


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
    (10, "loss", 6.0),
    (10, "sample", None),
    (20, "loss", 5.0),
  ]


def test_hostile_lines_are_dropped(run: RunDir) -> None:
  (run.path / "metrics.jsonl").write_text(
    "[" * 100_000 + '\n{"step": 1, "split": "../x"}\n{"step": NaN}\n\n'
    '{"step": 1, "split": "eval"}\n{"step": 1, "split": "eval", "loss": "x"}\n'
    '{"step": 1, "split": "eval", "loss": NaN}\n'
    '{"step": 1, "split": "eval", "loss": 1.0, "sample": ["x"]}'
  )
  Metrics(run, 10).close()
  assert (run.path / "metrics.jsonl").read_text() == ""


def test_a_profile_that_cannot_be_written_is_told(
  run: RunDir, capsys: pytest.CaptureFixture[str]
) -> None:
  profile = Profile(run, (3, 5))
  profile.at(3)
  with file_size_limit(100):
    profile.at(5)
  assert "the profile is not written" in capsys.readouterr().err
  profile.close()
