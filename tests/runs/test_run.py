import dataclasses
import json
import os
import pathlib
import shutil

import numpy as np
import pytest
import tensorflow as tf
from helpers import (
  CORPUS,
  EXPERIMENT,
  ROOT,
  SPLIT,
  VOCAB,
  NumberedCheckpoints,
  build_model,
  checkpoint_file,
  save_checkpoints,
  split_of,
)

from charlm.config import Config
from charlm.errors import InputError, LostRunError
from charlm.runs.metrics import Metrics
from charlm.runs.run import Experiment, Run, open_newest_run, open_run
from charlm.runs.trained_model import load_model


def test_a_run_is_not_overwritten(run: Run) -> None:
  # Another process created the run first.
  with pytest.raises(InputError, match="another run has begun"):
    run.create(SPLIT)
  save_checkpoints(run, 10)
  (run.path / "config.json").unlink()
  with pytest.raises(InputError, match=r"no config\.json"):
    run.create(SPLIT)


def test_only_a_later_end_is_stored_on_resume(run: Run) -> None:
  sizes = {"embedding_dim": 4, "rnn_units": 6}
  for epochs, expected in ((5, 10), (10, 10), (12, 12)):
    config = Config(corpus="moved", epochs=epochs, **sizes)
    now = dataclasses.replace(EXPERIMENT, config=config)
    resumed = open_run(run.path)
    resumed.resume(now, 10)
    assert resumed.experiment == open_run(run.path).experiment
    assert resumed.config.epochs == expected
    assert (resumed.config.corpus == "moved") == (epochs > 10)
  # The last step counts: 12 epochs of 10 steps, then step 40, then 130.
  for epochs, max_steps, expected in ((20, 40, 12), (13, 0, 13)):
    config = Config(epochs=epochs, max_steps=max_steps, **sizes)
    now = dataclasses.replace(EXPERIMENT, config=config)
    resumed = open_run(run.path)
    resumed.resume(now, 10)
    assert resumed.experiment == open_run(run.path).experiment
    assert resumed.config.epochs == expected


def test_a_start_killed_before_its_config_was_written_can_be_repeated(
  tmp_path: pathlib.Path,
) -> None:
  (tmp_path / "lock").write_text("4711\n")
  (tmp_path / "vocabulary.json").write_text("[]")
  run = Run(tmp_path, EXPERIMENT, VOCAB)
  with run.locked():
    run.create(SPLIT)
  assert open_run(tmp_path).vocab == VOCAB


def test_valid_and_eval_texts_are_stored_and_verified(
  tmp_path: pathlib.Path,
) -> None:
  config = Config(embedding_dim=4, rnn_units=6, valid_lines=1)
  # Long enough to be read in chunks.
  split = split_of("ab", "ba\n" * 2**20, "ab\n" * 2**20)
  experiment = Experiment.of(config, CORPUS, VOCAB, split)
  run = Run(tmp_path, experiment, VOCAB)
  run.create(split)
  run.resume(experiment, 10)
  assert str(run.valid_text()) == str(split.valid)
  assert str(run.eval_text()) == str(split.eval)
  for path in (run.valid_path, run.eval_path):
    text = path.read_text()
    path.write_text("ab")
    with pytest.raises(InputError, match=f"{path.name}: it has changed"):
      run.resume(experiment, 10)
    path.write_text(text)


def test_a_trainer_does_not_write_to_a_run_that_replaced_its_own(
  run: Run,
) -> None:
  def times() -> dict[pathlib.Path, int]:
    return {path: path.stat().st_mtime_ns for path in run.path.rglob("*")}

  model = build_model(len(VOCAB), 4, 6)
  checkpoints = NumberedCheckpoints(run, model)
  with run.locked():
    metrics = Metrics(run, 0, {})
    shutil.rmtree(run.path)
    second = Run(run.path, EXPERIMENT, VOCAB)
    with second.locked():
      second.create(SPLIT)
      save_checkpoints(second, 10)
      before = times()
      for write in (
        lambda: Metrics(run, 0, {}),
        lambda: metrics.write(20, "eval", {"loss": 1.0}),
        metrics.write_rest,
        checkpoints.restore_latest,
        lambda: checkpoints.save(20),
        lambda: checkpoints.save_if_best(20, {20: 1.0}),
      ):
        with pytest.raises(LostRunError, match="moved, removed or replaced"):
          write()
      assert times() == before


def test_a_checkpoint_deleted_while_loading_is_looked_up_again(
  run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
  save_checkpoints(run, 10)
  read = tf.train.Checkpoint.read

  def rotated_meanwhile(checkpoint: object, path: str) -> object:
    if path.endswith("ckpt-10"):
      save_checkpoints(run, 20, 30, 40)
      # A removal deletes this file last.
      checkpoint_file(run, 10, ".data-00000-of-00001").touch()
    return read(checkpoint, path)

  monkeypatch.setattr(tf.train.Checkpoint, "read", rotated_meanwhile)
  assert load_model(open_run(run.path), "latest")[1] == 40
  with pytest.raises(InputError, match="no checkpoint 10; it has 20, 30, 40"):
    load_model(open_run(run.path), "10")


@pytest.mark.parametrize(
  ("name", "content", "message"),
  [
    ("config.json", b"", "line 1"),
    ("vocabulary.json", None, "is missing"),
  ],
)
def test_a_damaged_file_is_refused_naming_it_and_a_remedy(
  run: Run, name: str, content: bytes | None, message: str
) -> None:
  (run.path / name).unlink()
  if content is not None:
    (run.path / name).write_bytes(content)
  with pytest.raises(InputError, match=f"{name}.*{message}.*: restore it, or"):
    open_run(run.path)


@pytest.mark.parametrize(
  ("field", "value"), [("rnn_units", 7), ("num_layers", 2)]
)
def test_a_checkpoint_of_other_sizes_is_refused(
  run: Run, field: str, value: int
) -> None:
  save_checkpoints(run, 10)
  fields = json.loads((run.path / "config.json").read_text())
  (run.path / "config.json").write_text(json.dumps(fields | {field: value}))
  with pytest.raises(InputError, match="ckpt-10 is damaged, or does not fit"):
    load_model(open_run(run.path), "latest")


def test_weights_that_are_not_finite_are_refused_or_skipped(
  run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
  model = save_checkpoints(run, 10)
  weights = model.get_weights()
  weights[5].flat[-1] = np.inf
  model.set_weights(weights)
  checkpoints = NumberedCheckpoints(run, model)
  checkpoints.save(20)
  with pytest.raises(InputError, match="ckpt-20 has weights that are not"):
    load_model(open_run(run.path), "latest")
  # Training resumes from the checkpoint before.
  assert checkpoints.restore_latest() == 10
  assert all(np.isfinite(weight).all() for weight in model.get_weights())
  assert "ckpt-20: it has weights that are not" in capsys.readouterr().err


def test_truncated_start_records_are_ignored(run: Run) -> None:
  assert run.starts() == []
  one, other = ({"step": step, "versions": {}} for step in (1, 2))
  for cut_off in (b"\xff[", b'{"step": 3'):
    (run.path / "starts.jsonl").unlink(missing_ok=True)
    run.log_start(one)
    with (run.path / "starts.jsonl").open("ab") as file:
      file.write(cut_off)
    assert run.starts() == [one]
    # A truncated record does not spoil the next line.
    run.log_start(other)
    assert run.starts() == [one, other]


def test_the_most_recently_saved_run_is_found_and_named(
  short_run: pathlib.Path,
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture[str],
) -> None:
  monkeypatch.chdir(tmp_path)
  with pytest.raises(InputError, match=r"no run in runs, .* --run_dir=english"):
    open_newest_run("runs")
  for i, name in enumerate(("old", "sweep/new", "middle", "begun")):
    run = shutil.copytree(short_run, tmp_path / "runs" / name)
    os.utime(run / "checkpoints", (1000 + 10 * i % 25, 1000 + 10 * i % 25))
  shutil.rmtree(run / "checkpoints")
  assert open_newest_run("runs").path == pathlib.Path("runs/middle")
  message = "takes the run that was saved last: --run_dir=runs/middle\n"
  assert capsys.readouterr().err == message
  assert open_newest_run("runs/old").path == pathlib.Path("runs/old")
  assert not capsys.readouterr().err


def test_the_bundled_run_is_found_by_its_name(
  short_run: pathlib.Path,
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  monkeypatch.chdir(tmp_path)
  assert open_run("english").path == ROOT / "models" / "english"
  shutil.copytree(short_run, tmp_path / "english")
  assert open_run("english").path == pathlib.Path("english")
