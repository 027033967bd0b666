import json
import os
import pathlib
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT

from charlm.config import Config, Experiment, InputError
from charlm.model import build_model
from charlm.run_dir import Checkpoints, Metrics, RunDir

EXPERIMENT = Experiment(Config(embedding_dim=4, rnn_units=6), "0" * 64)
VOCAB = ["[UNK]", "", "\n", "a", "b"]
HELD_OUT = ["ab", "ba"]


@pytest.fixture
def run(tmp_path: pathlib.Path) -> RunDir:
  run = RunDir(tmp_path / "run")
  with run.locked():
    run.create(EXPERIMENT, VOCAB, HELD_OUT)
  return run


def _save(run: RunDir, *steps: int, best: tuple[int, ...] = ()) -> keras.Model:
  model = build_model(len(VOCAB), 4, 6)
  checkpoints = Checkpoints(run, 3, model=model)
  for step in steps:
    checkpoints.save(step)
  for step in best:
    checkpoints.save_best(step)
  return model


def _names(folder: pathlib.Path) -> list[str]:
  return sorted(path.name for path in folder.glob("ckpt-*.index"))


def test_what_was_created_is_read_back(run: RunDir) -> None:
  assert run.exists()
  assert run.experiment() == EXPERIMENT
  assert run.vocabulary() == VOCAB
  assert run.held_out() == "ab\nba"


def test_the_newest_checkpoints_and_the_best_are_kept(run: RunDir) -> None:
  _save(run, 0, 10, 20, 30, 40, best=(10, 30))
  assert _names(run.path / "checkpoints") == [
    f"ckpt-{step}.index" for step in (20, 30, 40)
  ]
  assert _names(run.path / "best") == ["ckpt-30.index"]
  assert run.checkpoint("latest")[0] == 40
  assert run.checkpoint("20")[0] == 20
  assert run.checkpoint("best") == (30, str(run.path / "best" / "ckpt-30"))


def test_a_later_start_goes_on_rotating(run: RunDir) -> None:
  _save(run, 10, 20, 30)
  _save(run, 40)
  assert _names(run.path / "checkpoints") == [
    f"ckpt-{step}.index" for step in (20, 30, 40)
  ]


@pytest.mark.parametrize(
  "state",
  [None, b"", b"\xff\xfe", b"rubbish", b'model_checkpoint_path: "../x/ckpt-1"'],
)
def test_the_state_file_is_only_a_hint(
  run: RunDir, state: bytes | None
) -> None:
  model = _save(run, 10, 20)
  file = run.path / "checkpoints" / "checkpoint"
  file.unlink() if state is None else file.write_bytes(state)
  other = build_model(len(VOCAB), 4, 6)
  assert Checkpoints(run, 3, model=other).restore_latest() == 20
  for mine, theirs in zip(model.weights, other.weights, strict=True):
    np.testing.assert_array_equal(mine, theirs)


def test_a_loaded_model_has_every_weight(run: RunDir) -> None:
  model = _save(run, 10)
  loaded, step = run.load_model("latest")
  assert step == 10
  for mine, theirs in zip(model.weights, loaded.weights, strict=True):
    np.testing.assert_array_equal(mine, theirs)


def test_a_checkpoint_of_another_root_is_refused(run: RunDir) -> None:
  (run.path / "checkpoints").mkdir()
  tf.train.Checkpoint(modell=build_model(len(VOCAB), 4, 6)).write(
    str(run.path / "checkpoints" / "ckpt-3")
  )
  with pytest.raises(InputError, match="ckpt-3 is damaged"):
    run.load_model("latest")


def test_a_restore_matches_everything(run: RunDir) -> None:
  _save(run, 10)
  model = build_model(len(VOCAB), 4, 6)
  checkpoints = Checkpoints(run, 3, model=model, more=tf.Variable(0))
  with pytest.raises(InputError, match="no checkpoint is whole"):
    checkpoints.restore_latest()


@pytest.mark.parametrize("suffix", [".index", ".data-00000-of-00001"])
@pytest.mark.parametrize("damage", ["cut off", "a flipped bit", "missing"])
def test_a_damaged_checkpoint_is_skipped_with_a_warning(
  run: RunDir, suffix: str, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
  model = _save(run, 10, 20)
  data = bytearray((file := _file(run, 20, suffix)).read_bytes())
  data[len(data) // 2] ^= 1
  if damage == "missing":
    file.unlink()
  else:
    file.write_bytes(data if damage == "a flipped bit" else data[:100])
    with pytest.raises(InputError, match="ckpt-20 is damaged"):
      run.load_model("latest")
    assert run.load_model("10")[1] == 10
  assert Checkpoints(run, 3, model=model).restore_latest() == 10
  warnings = capsys.readouterr().err.count("\n")
  assert warnings == (damage != "missing")


def test_a_run_that_began_is_never_started_afresh(run: RunDir) -> None:
  model = _save(run, 10, best=(20,))
  _file(run, 10, ".index").write_bytes(b"rubbish")
  # The best checkpoint holds all that is needed too.
  assert Checkpoints(run, 3, model=model).restore_latest() == 20
  _file(run, 20, ".index", "best").write_bytes(b"rubbish")
  with pytest.raises(InputError, match="no checkpoint is whole"):
    Checkpoints(run, 3, model=model).restore_latest()
  shutil.rmtree(run.path / "checkpoints")
  shutil.rmtree(run.path / "best")
  assert Checkpoints(run, 3, model=model).restore_latest() == 0
  (run.path / "metrics.jsonl").write_text("{}\n")
  with pytest.raises(InputError, match="has begun"):
    Checkpoints(run, 3, model=model).restore_latest()


def test_what_a_killed_save_left_is_removed(run: RunDir) -> None:
  _save(run, 10)
  left_over = run.path / "checkpoints" / "ckpt-20_temp"
  left_over.mkdir()
  (left_over / "part-00000-of-00001.data").touch()
  _save(run, 30)
  assert not left_over.exists()
  assert run.checkpoint("latest")[0] == 30


def test_a_save_that_fails_is_told_and_harms_nothing(
  run: RunDir, capsys: pytest.CaptureFixture[str]
) -> None:
  checkpoints = Checkpoints(run, 3, model=build_model(len(VOCAB), 4, 6))
  assert checkpoints.save(10)
  (run.path / "checkpoints" / "ckpt-20_temp").touch()  # in the way of a folder
  assert not checkpoints.save(20)
  assert "step 20 is not saved" in capsys.readouterr().err
  assert run.checkpoint("latest")[0] == 10
  (run.path / "checkpoints" / "ckpt-20_temp").unlink()
  assert checkpoints.save(20)
  assert run.checkpoint("latest")[0] == 20


def _file(
  run: RunDir, step: int, suffix: str, folder: str = "checkpoints"
) -> pathlib.Path:
  return run.path / folder / f"ckpt-{step}{suffix}"


@pytest.mark.parametrize("which", ["latest", "best", "7", "newest", "-1"])
def test_a_missing_checkpoint_is_refused(run: RunDir, which: str) -> None:
  with pytest.raises(InputError, match=r"no checkpoint .*--checkpoint"):
    run.checkpoint(which)


def test_a_folder_that_is_no_run_is_refused(tmp_path: pathlib.Path) -> None:
  with pytest.raises(InputError, match="not a run directory"):
    RunDir(tmp_path).checkpoint("latest")


def test_checkpoints_without_a_config_are_not_overwritten(run: RunDir) -> None:
  _save(run, 10)
  (run.path / "config.json").unlink()
  with pytest.raises(InputError, match=r"no config\.json"):
    run.create(EXPERIMENT, VOCAB, [])


def test_another_identity_is_refused_naming_the_fields(run: RunDir) -> None:
  other = Experiment(Config(embedding_dim=5, rnn_units=6), "0" * 64)
  with pytest.raises(InputError, match=r"embedding_dim .4 there, 5 here"):
    run.extend(other, VOCAB, HELD_OUT)
  assert run.experiment() == EXPERIMENT


def test_more_epochs_are_noted_and_fewer_are_not(run: RunDir) -> None:
  sizes = {"embedding_dim": 4, "rnn_units": 6}
  for epochs, expected in ((5, 10), (12, 12)):
    experiment = Experiment(Config(epochs=epochs, **sizes), "0" * 64)
    run.extend(experiment, VOCAB, HELD_OUT)
    assert run.experiment().config.epochs == expected


@pytest.mark.parametrize(
  ("name", "text"),
  [("vocabulary.json", '["[UNK]", "", "a", "b"]'), ("held_out.txt", "ab")],
)
def test_edited_files_are_refused_naming_them(
  run: RunDir, name: str, text: str
) -> None:
  (run.path / name).write_text(text)
  with pytest.raises(InputError, match=f"{name} was changed"):
    run.extend(EXPERIMENT, VOCAB, HELD_OUT)


@pytest.mark.parametrize("name", ["config.json", "vocabulary.json"])
def test_damaged_files_are_refused_naming_them(run: RunDir, name: str) -> None:
  (run.path / name).write_bytes(b"\xff{")
  with pytest.raises(InputError, match=name):
    run.experiment() if name == "config.json" else run.vocabulary()


def test_a_second_trainer_is_refused_naming_the_first(run: RunDir) -> None:
  code = (
    "import sys\nfrom charlm.run_dir import RunDir\n"
    "with RunDir(sys.argv[1]).locked():\n"
    "  print('locked', flush=True)\n  input()"
  )
  with subprocess.Popen(
    [sys.executable, "-c", code, run.path],
    cwd=ROOT,
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
  ) as other:
    assert other.stdout.readline() == "locked\n"
    with pytest.raises(InputError, match=f"process {other.pid} trains"):
      run.locked().__enter__()
    other.communicate("\n")
  with run.locked():
    assert (run.path / "lock").read_text() == f"{os.getpid()}\n"


def test_a_folder_that_cannot_be_made_is_refused(
  tmp_path: pathlib.Path,
) -> None:
  (tmp_path / "file").touch()
  with pytest.raises(NotADirectoryError):
    RunDir(tmp_path / "file" / "run").locked().__enter__()


def _events(run: RunDir, split: str) -> list[tuple[int, str, float | None]]:
  events = []
  for path in sorted((run.path / "summaries" / split).iterdir()):
    for record in tf.data.TFRecordDataset(str(path)):
      event = tf.compat.v1.Event.FromString(record.numpy())
      for value in event.summary.value:
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
