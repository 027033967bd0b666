import errno
import pathlib
import shutil
from typing import BinaryIO
from unittest.mock import Mock

import numpy as np
import pytest
import tensorflow as tf
from helpers import (
  VOCAB,
  build_model,
  checkpoint_file,
  file_size_limit,
  save_checkpoints,
)
from helpers import NumberedCheckpoints as Checkpoints

from charlm.errors import InputError, LostRunError
from charlm.runs import checkpoints as checkpoints_module
from charlm.runs.checkpoints import find_checkpoint
from charlm.runs.run import CHECKPOINT_SUFFIXES, Run, open_run
from charlm.runs.trained_model import load_model
from charlm.training.trainer import TrainState


def _names(folder: pathlib.Path) -> list[str]:
  return sorted(path.name for path in folder.glob("ckpt-*.index"))


def test_the_newest_checkpoints_and_the_best_are_kept(run: Run) -> None:
  save_checkpoints(run, 0, 10, 20, 30, best=(10, 30))
  save_checkpoints(run, 40)  # after a restart
  assert _names(run.latest) == [f"ckpt-{step}.index" for step in (20, 30, 40)]
  assert _names(run.best) == ["ckpt-30.index"]
  assert find_checkpoint(run, "latest")[0] == 40
  assert find_checkpoint(run, "20")[0] == 20
  assert find_checkpoint(run, "best") == (30, str(run.best / "ckpt-30"))


def test_a_checkpoint_that_lacks_a_variable_is_not_restored(run: Run) -> None:
  save_checkpoints(run, 10)
  train_state = TrainState(tf.zeros([1, 0, 6]))
  train_state.more = tf.Variable(0)
  model = build_model(len(VOCAB), 4, 6)
  checkpoints = Checkpoints(run, model, train_state)
  with pytest.raises(InputError, match="has no whole checkpoint"):
    checkpoints.restore_latest()


@pytest.mark.parametrize("suffix", [".index", ".data-00000-of-00001"])
@pytest.mark.parametrize("damage", ["cut off", "missing"])
def test_a_damaged_checkpoint_is_skipped_with_a_warning(
  run: Run, suffix: str, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
  model = save_checkpoints(run, 10, 20)
  file = checkpoint_file(run, 20, suffix)
  if damage == "missing":
    file.unlink()
  else:
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(InputError, match="ckpt-20 is damaged, or does not fit"):
      load_model(open_run(run.path), "latest")
    assert load_model(open_run(run.path), "10")[1] == 10
  assert Checkpoints(run, model).restore_latest() == 10
  # A killed save leaves data without an index; that is no reason to warn.
  expected = 0 if (damage, suffix) == ("missing", ".index") else 1
  assert capsys.readouterr().err.count("\n") == expected


def test_a_run_that_lost_its_checkpoints_is_never_restarted(run: Run) -> None:
  model = save_checkpoints(run, 10, best=(20,))
  checkpoint_file(run, 10, ".index").write_bytes(b"rubbish")
  # The best checkpoint is complete, too.
  assert Checkpoints(run, model).restore_latest() == 20
  checkpoint_file(run, 20, ".index", "best").write_bytes(b"rubbish")
  with pytest.raises(InputError, match="has no whole checkpoint"):
    Checkpoints(run, model).restore_latest()
  shutil.rmtree(run.path / "checkpoints")
  shutil.rmtree(run.path / "best")
  assert Checkpoints(run, model).restore_latest() is None
  metrics, starts = run.path / "metrics.jsonl", run.path / "starts.jsonl"
  metrics.touch()  # an empty file does not mean that training began
  assert Checkpoints(run, model).restore_latest() is None
  for path, text in ((metrics, "{}\n"), (starts, '{"versions": {}}\n')):
    path.write_text(text)
    with pytest.raises(InputError, match="has no whole checkpoint"):
      Checkpoints(run, model).restore_latest()
    path.unlink()


@pytest.mark.parametrize("whole_copy", [True, False])
def test_data_files_survive_the_loss_of_their_index_files(
  whole_copy: bool, run: Run
) -> None:
  model = save_checkpoints(run, 10)
  if whole_copy:  # otherwise copying stopped before this file
    (run.path / "starts.jsonl").write_text('{"versions": {}}\n')
  index = checkpoint_file(run, 10, ".index")
  content = index.read_bytes()
  index.unlink()
  with pytest.raises(InputError, match="has no whole checkpoint"):
    Checkpoints(run, model).restore_latest()
  index.write_bytes(content)
  assert Checkpoints(run, model).restore_latest() == 10


def test_a_restored_step_is_saved_only_if_latest_lacks_it(
  run: Run,
) -> None:
  model = save_checkpoints(run, 10, best=(20,))
  checkpoints = Checkpoints(run, model)
  assert checkpoints.restore_latest() == 20
  assert checkpoints.save(20)
  assert _names(run.latest) == ["ckpt-10.index", "ckpt-20.index"]
  # Without a best checkpoint of that step, `latest` is complete as it is.
  shutil.rmtree(run.best)
  before = checkpoint_file(run, 20, ".index").stat().st_mtime_ns
  checkpoints = Checkpoints(run, model)
  assert checkpoints.restore_latest() == 20
  assert checkpoints.save(20)
  assert checkpoint_file(run, 20, ".index").stat().st_mtime_ns == before


def test_a_best_checkpoint_that_failed_to_save_does_not_count(
  run: Run,
) -> None:
  checkpoints = Checkpoints(run, build_model(len(VOCAB), 4, 6))
  losses = {12: 3.0}
  checkpoints.save_if_best(12, losses)
  assert checkpoints.has_best(losses)
  (run.best / "ckpt-24_temp").touch()  # blocks a folder of this name
  losses[24] = 2.0
  checkpoints.save_if_best(24, losses)
  (run.best / "ckpt-24_temp").unlink()
  # Better than what is there, though not the best.
  losses |= {36: 3.5, 48: 2.5}
  for step in (36, 48):
    checkpoints.save_if_best(step, losses)
    assert not checkpoints.has_best(losses)
  assert find_checkpoint(run, "best")[0] == 48


def test_a_damaged_best_checkpoint_does_not_count(
  run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
  model = build_model(len(VOCAB), 4, 6)
  checkpoints = Checkpoints(run, model)
  checkpoints.save_if_best(10, {10: 2.0})
  checkpoints.save(20)
  checkpoint_file(run, 10, ".index", "best").write_bytes(b"cut off")
  checkpoints = Checkpoints(run, model)
  assert checkpoints.restore_latest() == 20
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith(f"skipped {run.best / 'ckpt-10'}: it is damaged")
  # Better than what is there, though not the best.
  losses = {10: 2.0, 30: 3.0}
  checkpoints.save_if_best(30, losses)
  assert not checkpoints.has_best(losses)
  assert find_checkpoint(run, "best")[0] == 30


def test_incomplete_checkpoints_are_removed(
  run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
  model = save_checkpoints(run, 10, 20, 30)
  for step in (10, 30):  # a removal starts with the index, a save ends with it
    checkpoint_file(run, step, ".index").unlink()
  (run.latest / "ckpt-40_temp").mkdir()
  (run.latest / "ckpt-40_temp" / "part-00000-of-00001.data").touch()
  assert Checkpoints(run, model).restore_latest() == 20
  assert capsys.readouterr().err == ""
  names = {path.name for path in (run.path / "checkpoints").iterdir()}
  assert names == {"ckpt-20.index", "ckpt-20.data-00000-of-00001"}


def test_a_run_killed_during_its_first_save_starts_again(run: Run) -> None:
  model = save_checkpoints(run, 0)
  checkpoint_file(run, 0, ".index").unlink()
  assert Checkpoints(run, model).restore_latest() is None


@pytest.mark.parametrize("suffix", [".index", ".data-00000-of-00001"])
def test_no_flipped_bit_goes_unnoticed(run: Run, suffix: str) -> None:
  model = save_checkpoints(run, 10, 20)
  saved = [weight.numpy() for weight in model.weights]
  file = checkpoint_file(run, 20, suffix)
  whole = file.read_bytes()
  rng = np.random.default_rng(0)
  for position in rng.integers(len(whole), size=60):
    damaged = bytearray(whole)
    damaged[position] ^= 1 << rng.integers(8)
    file.write_bytes(damaged)
    for weight in model.weights:
      weight.assign(weight * 0 - 1)
    # Either the damage is noticed, or the bit did not matter.
    assert Checkpoints(run, model).restore_latest() in (10, 20)
    for weight, value in zip(model.weights, saved, strict=True):
      np.testing.assert_array_equal(weight, value)


def test_a_full_disk_leaves_the_older_checkpoints(
  run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
  checkpoints = Checkpoints(run, build_model(len(VOCAB), 4, 6))
  assert checkpoints.save(10)
  with file_size_limit(500):
    assert not checkpoints.save(20)
    assert not checkpoints.save(30)
  assert capsys.readouterr().err.count("could not be saved") == 2
  assert not [*run.latest.glob("*_temp")]  # would take the next one's space
  assert load_model(open_run(run.path), "latest")[1] == 10
  assert checkpoints.save(40)
  assert checkpoints.save(50)
  assert _names(run.latest) == [f"ckpt-{step}.index" for step in (10, 40, 50)]


def test_a_save_that_fails_at_its_index_leaves_nothing(
  run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
  def fail(checkpoint: tf.train.Checkpoint, path: str) -> None:
    for suffix in CHECKPOINT_SUFFIXES:
      pathlib.Path(path + suffix).touch()
    raise tf.errors.ResourceExhaustedError(None, None, "no space")

  checkpoints = Checkpoints(run, build_model(len(VOCAB), 4, 6))
  with monkeypatch.context() as patch:
    patch.setattr(tf.train.Checkpoint, "write", fail)
    # Training ends at once if its first checkpoint cannot be saved, even over
    # the remains of a killed save.
    for left in ([], CHECKPOINT_SUFFIXES):
      for suffix in left:
        checkpoint_file(run, 0, suffix).touch()
      with pytest.raises(LostRunError):
        checkpoints.save(0)
  assert checkpoints.save(0)
  monkeypatch.setattr(tf.train.Checkpoint, "write", fail)
  assert not checkpoints.save(10)
  assert _names(run.latest) == ["ckpt-0.index"]


def test_a_lack_of_permission_is_not_mistaken_for_damage(
  run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
  model = save_checkpoints(run, 10, 20)
  data = checkpoint_file(run, 20, ".data-00000-of-00001")

  def failing(path: str, mode: str) -> BinaryIO:
    if path == str(data):
      raise PermissionError(errno.EACCES, "Permission denied", path)
    return open(path, mode)

  monkeypatch.setattr(checkpoints_module, "open", failing, raising=False)
  before = sorted(run.latest.iterdir())
  with pytest.raises(PermissionError, match=r"ckpt-20\.data"):
    Checkpoints(run, model).restore_latest()
  with pytest.raises(PermissionError, match=r"ckpt-20\.data"):
    load_model(open_run(run.path), "latest")
  # Nor is a lack of memory.
  error = tf.errors.ResourceExhaustedError(None, None, "no memory")
  monkeypatch.setattr(tf.train.Checkpoint, "restore", Mock(side_effect=error))
  monkeypatch.delattr(checkpoints_module, "open")
  with pytest.raises(tf.errors.ResourceExhaustedError):
    Checkpoints(run, model).restore_latest()
  assert sorted(run.latest.iterdir()) == before
