import dataclasses
import json
import os
import pathlib
import subprocess
import sys

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
  checkpoint_file,
  save_checkpoints,
  split_of,
)

import train as train_program
from charlm.config import Config
from charlm.errors import InputError
from charlm.runs.run import create_run, experiment_of, open_run
from charlm.runs.run_dir import RunDir
from charlm.runs.trained_model import load_model


def test_what_was_created_is_read_back(run: RunDir) -> None:
  assert run.exists()
  opened = open_run(run.path)
  assert opened.experiment == EXPERIMENT
  assert opened.vocab == VOCAB
  assert str(opened.eval_text()) == "ab\nba"


def test_a_loaded_model_has_every_weight(run: RunDir) -> None:
  model = save_checkpoints(run, 10)
  loaded, step = load_model(open_run(run.path), "latest")
  assert step == 10
  for mine, theirs in zip(model.weights, loaded.weights, strict=True):
    np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("which", ["latest", "best", "7", "newest", "-1"])
def test_a_missing_checkpoint_is_refused(run: RunDir, which: str) -> None:
  with pytest.raises(InputError, match=r"no checkpoint .*another checkpoint"):
    run.find_checkpoint(which)


def test_a_folder_that_is_no_run_is_refused(tmp_path: pathlib.Path) -> None:
  with pytest.raises(InputError, match="not a run's folder"):
    load_model(open_run(tmp_path), "latest")


def test_checkpoints_without_a_config_are_not_overwritten(run: RunDir) -> None:
  save_checkpoints(run, 10)
  (run.path / "config.json").unlink()
  with pytest.raises(InputError, match=r"no config\.json"):
    create_run(run, EXPERIMENT, VOCAB, SPLIT)


def test_another_identity_is_refused_naming_the_fields(run: RunDir) -> None:
  config = Config(embedding_dim=5, rnn_units=6)
  other = dataclasses.replace(EXPERIMENT, config=config)
  with pytest.raises(InputError, match=r"embedding_dim .4 before, 5 now"):
    open_run(run.path).resume(other, 10)
  assert open_run(run.path).experiment == EXPERIMENT


def test_more_epochs_are_noted_and_fewer_are_not(run: RunDir) -> None:
  sizes = {"embedding_dim": 4, "rnn_units": 6}
  for epochs, expected in ((5, 10), (12, 12)):
    config = Config(epochs=epochs, **sizes)
    now = dataclasses.replace(EXPERIMENT, config=config)
    resumed = open_run(run.path).resume(now, 10)
    assert resumed.experiment == open_run(run.path).experiment
    assert resumed.config.epochs == expected
  # What counts is the end: 12 epochs of 10 steps, then 40, then 130.
  for epochs, max_steps, expected in ((20, 40, 12), (13, 0, 13)):
    config = Config(epochs=epochs, max_steps=max_steps, **sizes)
    now = dataclasses.replace(EXPERIMENT, config=config)
    resumed = open_run(run.path).resume(now, 10)
    assert resumed.experiment == open_run(run.path).experiment
    assert resumed.config.epochs == expected


@pytest.mark.parametrize(
  "name",
  [
    *("vocabulary.json", "eval.txt", "valid.txt", "metrics.jsonl"),
    *("starts.jsonl", "checkpoints/a", "best/a", "summaries/a"),
  ],
)
def test_the_files_of_others_are_left_alone(
  name: str, tmp_path: pathlib.Path
) -> None:
  file = tmp_path / name
  file.parent.mkdir(exist_ok=True)
  file.write_text("mine\n")
  holds = rf"holds {name.split('/')[0]}, which a run would replace"
  with pytest.raises(InputError, match=holds), RunDir(tmp_path).locked():
    pass
  assert file.read_text() == "mine\n"
  assert {path.name for path in tmp_path.iterdir()} == {name.split("/")[0]}


def test_the_folder_of_another_program_is_left_alone(
  train_args: list[str],
  tmp_path: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
) -> None:
  files = {"config.json": '{"name": 1}', "lock": "mine", ".config.json.5": ""}
  for name, text in files.items():
    (tmp_path / name).write_text(text)
  args = [*train_args, f"--run_dir={tmp_path}"]
  assert train_program.main(args) == 2
  assert "config.json" in capsys.readouterr().err
  there = {path.name: path.read_text() for path in tmp_path.iterdir()}
  assert there == files


def test_folders_may_be_made_beforehand(tmp_path: pathlib.Path) -> None:
  for name in ("checkpoints", "best", "summaries"):
    (tmp_path / name).mkdir()
  with RunDir(tmp_path).locked():
    pass


@pytest.mark.parametrize("lock", ["", "4711\n"])
def test_a_start_killed_before_there_was_a_config_is_made_again(
  lock: str, tmp_path: pathlib.Path
) -> None:
  (tmp_path / "lock").write_text(lock)
  (tmp_path / "vocabulary.json").write_text("[]")
  run = RunDir(tmp_path)
  with run.locked():
    create_run(run, EXPERIMENT, VOCAB, SPLIT)
  assert open_run(tmp_path).vocab == VOCAB


@pytest.mark.parametrize(
  ("name", "text"),
  [("vocabulary.json", '["[UNK]", "", "a", "b"]'), ("eval.txt", "ab")],
)
def test_edited_files_are_refused_naming_them(
  run: RunDir, name: str, text: str
) -> None:
  (run.path / name).write_text(text)
  with pytest.raises(InputError, match=f"{name}: it has changed"):
    open_run(run.path).resume(EXPERIMENT, 10)


def test_a_valid_text_is_kept_as_the_eval_text_is(
  tmp_path: pathlib.Path,
) -> None:
  config = Config(embedding_dim=4, rnn_units=6, valid_lines=1)
  # They are read in pieces.
  split = split_of("ab", "ba\n" * 2**20, "ab\n" * 2**20)
  experiment = experiment_of(config, CORPUS, VOCAB, split)
  run = create_run(RunDir(tmp_path), experiment, VOCAB, split)
  assert run.resume(experiment, 10) == run
  assert str(run.valid_text()) == str(split.valid)
  assert str(run.eval_text()) == str(split.eval)
  for path in (run.dir.valid_path, run.dir.eval_path):
    text = path.read_text()
    path.write_text("ab")
    with pytest.raises(InputError, match=f"{path.name}: it has changed"):
      run.resume(experiment, 10)
    path.write_text(text)


def test_a_second_trainer_is_refused_naming_the_first(run: RunDir) -> None:
  code = (
    "import sys\nfrom charlm.runs.run_dir import RunDir\n"
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
    with pytest.raises(InputError, match=f"process {other.pid} is training"):
      run.locked().__enter__()
    other.communicate("\n")
  with run.locked():
    assert (run.path / "lock").read_text() == f"{os.getpid()}\n"


def test_a_checkpoint_that_is_rotated_away_is_looked_up_again(
  run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
  save_checkpoints(run, 10)
  read = tf.train.Checkpoint.read

  def rotated_meanwhile(checkpoint: object, path: str) -> object:
    if path.endswith("ckpt-10"):
      save_checkpoints(run, 20, 30, 40)
      # Of a removal, this file is the last.
      checkpoint_file(run, 10, ".data-00000-of-00001").touch()
    return read(checkpoint, path)

  monkeypatch.setattr(tf.train.Checkpoint, "read", rotated_meanwhile)
  assert load_model(open_run(run.path), "latest")[1] == 40
  with pytest.raises(InputError, match="no checkpoint 10; it has 20, 30, 40"):
    load_model(open_run(run.path), "10")


def test_a_checkpoint_that_is_saved_again_meanwhile_is_read_again(
  run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
  save_checkpoints(run, 10)
  index = checkpoint_file(run, 10, ".index")
  whole, read = index.read_bytes(), tf.train.Checkpoint.read

  def torn(checkpoint: object, path: str) -> object:
    result = read(checkpoint, path)
    if torn_once:
      torn_once.clear()
      index.write_bytes(whole)  # the second of the two files
      raise ValueError("the files do not fit")
    return result

  torn_once = [True]
  monkeypatch.setattr(tf.train.Checkpoint, "read", torn)
  assert load_model(open_run(run.path), "latest")[1] == 10


def test_a_run_may_be_reached_through_a_link(run: RunDir) -> None:
  link = run.path.parent / "link"
  link.symlink_to(run.path)
  assert open_run(link).experiment == EXPERIMENT


@pytest.mark.parametrize(
  ("name", "content", "message"),
  [
    ("config.json", b"", "line 1"),
    ("config.json", b"\xff{", "decode"),
    ("config.json", b'{"format": 6}', "corpus_sha256"),
    ("vocabulary.json", b'["[UNK]", "", "a"', "line 1"),
    ("vocabulary.json", b'["[UNK]", "", "b", "b"]', "distinct"),
    ("vocabulary.json", None, "is missing"),
  ],
)
def test_a_damaged_file_is_refused_naming_it_and_a_remedy(
  run: RunDir, name: str, content: bytes | None, message: str
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
  run: RunDir, field: str, value: int
) -> None:
  save_checkpoints(run, 10)
  fields = json.loads((run.path / "config.json").read_text())
  (run.path / "config.json").write_text(json.dumps(fields | {field: value}))
  with pytest.raises(InputError, match="ckpt-10 does not fit"):
    load_model(open_run(run.path), "latest")


@pytest.mark.parametrize(("index", "value"), [(0, np.nan), (5, np.inf)])
def test_weights_that_are_not_finite_are_refused_or_skipped(
  run: RunDir, value: float, index: int, capsys: pytest.CaptureFixture[str]
) -> None:
  model = save_checkpoints(run, 10)
  weights = model.get_weights()
  weights[index].flat[-1] = value
  model.set_weights(weights)
  checkpoints = NumberedCheckpoints(run, 3, model)
  checkpoints.save(20)
  with pytest.raises(InputError, match="ckpt-20 has weights that are not"):
    load_model(open_run(run.path), "latest")
  # Training goes on from the one before.
  assert checkpoints.restore_latest() == 10
  assert all(np.isfinite(weight).all() for weight in model.get_weights())
  assert "ckpt-20: it has weights that are not" in capsys.readouterr().err


def test_a_start_that_was_cut_off_is_left_out(run: RunDir) -> None:
  assert run.starts() == []
  one, other = ({"step": step, "versions": {}} for step in (1, 2))
  for cut_off in (b"\xff[", b'{"step": 3'):
    (run.path / "starts.jsonl").unlink(missing_ok=True)
    run.log_start(one)
    with (run.path / "starts.jsonl").open("ab") as file:
      file.write(cut_off)
    assert run.starts() == [one]
    # What a full disk has cut off does not spoil the next line.
    run.log_start(other)
    assert run.starts() == [one, other]


def test_a_start_that_lacks_its_newline_is_kept(run: RunDir) -> None:
  starts = run.path / "starts.jsonl"
  starts.write_text('{"step": 1, "versions": {}}')
  run.log_start({"step": 2, "versions": {}})
  lines = starts.read_text().splitlines()
  assert [json.loads(line)["step"] for line in lines] == [1, 2]
