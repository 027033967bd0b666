"""Scores of a training that goes on meanwhile."""

import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest
import tensorflow as tf
from helpers import ROOT

import eval as eval_program
from charlm.runs import loading
from charlm.runs.loading import follow_checkpoints
from charlm.runs.run_dir import RunDir
from charlm.system import files


def _curve(folder: pathlib.Path) -> dict[int, float]:
  """Reads the losses of event files."""
  losses = {}
  for file in sorted(folder.glob("events.out.*")):
    for event in tf.compat.v1.train.summary_iterator(str(file)):
      for value in event.summary.value:
        if value.tag == "1 loss/loss":
          losses[event.step] = float(tf.make_ndarray(value.tensor))
  return losses


def _scores(output: str) -> dict[int, float]:
  scores = [json.loads(line) for line in output.splitlines()]
  return {score["step"]: score["log_perplexity"] for score in scores}


def test_each_checkpoint_is_scored_as_by_a_call_of_its_own(
  trained_run: pathlib.Path,
  tmp_path: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
) -> None:
  run = shutil.copytree(trained_run, tmp_path / "run")
  before = {path for path in run.rglob("*") if path.is_file()}
  (tmp_path / "text").write_text("the king of night")
  args = ["eval.py", f"--run_dir={run}", f"--text={tmp_path}/text", "--json"]
  assert eval_program.main([*args, "--follow", "--name=other"]) == 0
  scores = _scores(capsys.readouterr().out)
  assert len(scores) == 3
  for step, score in scores.items():
    assert eval_program.main([*args, f"--checkpoint={step}"]) == 0
    assert json.loads(capsys.readouterr().out)["log_perplexity"] == score
  assert _curve(run / "summaries" / "other") == pytest.approx(scores)
  (new,) = {path for path in run.rglob("*") if path.is_file()} - before
  assert new.parent == run / "summaries" / "other"


def test_a_training_is_followed_to_its_end(
  train_args: list[str], tmp_path: pathlib.Path
) -> None:
  run = tmp_path / "run"
  args = [*train_args[1:], f"--run_dir={run}", "--epochs=60"]
  train = subprocess.Popen(
    [sys.executable, ROOT / "train.py", *args, "--checkpoint_every_steps=40"],
    stdout=subprocess.DEVNULL,
  )
  with train:
    while not (run / "metrics.jsonl").exists():
      assert train.poll() is None
    flags = [f"--run_dir={run}", "--follow", "--name=again", "--json"]
    follow = subprocess.run(
      [sys.executable, ROOT / "eval.py", *flags],
      capture_output=True,
      text=True,
    )
  assert train.returncode == 0
  assert (follow.returncode, follow.stderr) == (0, "")
  scores = _scores(follow.stdout)
  assert max(scores) == 720
  assert list(scores) == sorted(scores)
  assert _curve(run / "summaries" / "again") == pytest.approx(scores)
  own = _curve(run / "summaries" / "eval")
  assert own[720] == pytest.approx(scores[720])


@pytest.mark.parametrize("list_of_locks", ["/proc/locks", "/nowhere"])
def test_it_waits_while_somebody_trains_and_takes_no_lock(
  list_of_locks: str,
  short_run: pathlib.Path,
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  monkeypatch.setattr(files, "_LOCKS", pathlib.Path(list_of_locks))
  monkeypatch.setattr(loading, "_SECONDS_BETWEEN_LOOKS", 0.01)
  run = RunDir(shutil.copytree(short_run, tmp_path / "run"))
  assert not RunDir(tmp_path / "none").is_training()
  with run.locked():
    assert run.is_training()
    found = [step for _, step in follow_checkpoints(run, 0.2)]
    assert found == [3, 6, 9, 12][-len(found) :]
    # Nothing ends it without a timeout but the end of the training.
    ended = threading.Event()

    def follow() -> None:
      list(follow_checkpoints(run))
      ended.set()

    thread = threading.Thread(target=follow)
    thread.start()
    assert not ended.wait(1)
    if list_of_locks == "/nowhere":  # this process goes on
      (run.path / "lock").write_text("")
  thread.join(10)
  assert ended.is_set()
  assert not run.is_training()


def test_other_locks_and_any_content_are_no_training(
  short_run: pathlib.Path,
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  run = RunDir(shutil.copytree(short_run, tmp_path / "run"))
  lock = run.path / "lock"
  status, locks = lock.stat(), tmp_path / "locks"
  major, inode = os.major(status.st_dev), status.st_ino
  monkeypatch.setattr(files, "_LOCKS", locks)
  for kind, place in (
    ("FLOCK", f"{major + 1:02x}:00:{inode}"),
    ("POSIX", f"{major:02x}:00:{inode}"),
    ("-> FLOCK", f"{major:02x}:00:{inode}"),
  ):
    locks.write_text(f"1: {kind}  ADVISORY  WRITE 1 {place} 0 EOF\n")
    assert not run.is_training()
  # Another minor number is another device, as there are of tmpfs, unless the
  # process is the one in the file: btrfs.
  minor = os.minor(status.st_dev)
  for process, number, training in (
    (1, minor, True),
    (1, minor + 1, False),
    (4711, minor + 1, True),
  ):
    lock.write_text("4711\n")
    place = f"{major:02x}:{number:02x}:{inode}"
    locks.write_text(f"1: FLOCK ADVISORY WRITE {process} {place} 0 EOF\n")
    assert run.is_training() == training
  locks.unlink()  # as elsewhere than on Linux
  for data in (b"", b"\xff", b"9" * 20, b"x"):
    lock.write_bytes(data)
    assert not run.is_training()


def test_the_program_ends_after_its_timeout(
  short_run: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  run = RunDir(shutil.copytree(short_run, tmp_path / "run"))
  args = ["eval.py", f"--run_dir={run.path}", "--follow", "--name=other"]
  with contextlib.ExitStack() as training:
    training.enter_context(run.locked())
    # Else the program would end with the training, and fail this test.
    end_of_training = threading.Timer(300, training.close)
    end_of_training.daemon = True
    training.callback(end_of_training.cancel)
    end_of_training.start()
    assert eval_program.main([*args, "--idle_timeout=0.2"]) == 0
    assert end_of_training.is_alive()


def test_a_checkpoint_that_training_removes_is_left_out(
  trained_run: pathlib.Path,
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  run = RunDir(shutil.copytree(trained_run, tmp_path / "run"))
  load: Callable = loading.load_model
  steps = sorted(run.checkpoint_steps())

  def load_late(run: RunDir, which: str) -> object:
    for folder in (run.latest, run.best):
      for path in folder.glob(f"ckpt-{steps[1]}.*"):
        path.unlink()
    return load(run, which)

  monkeypatch.setattr(loading, "load_model", load_late)
  found = [step for _, step in follow_checkpoints(run)]
  assert found == [steps[0], *steps[2:]]


@pytest.mark.parametrize(
  ("flags", "words"),
  [
    (["--follow"], "name is ''"),
    (["--follow", "--name=train"], "none of train, eval, outdated"),
    (["--follow", "--name=eval"], "none of train, eval, outdated"),
    (["--follow", "--name=outdated"], "none of train, eval, outdated"),
    (["--follow", "--name=../eval"], "name is '../eval'"),
    (["--follow", "--name=a", "--checkpoint=best"], "every checkpoint"),
    (["--follow", "--name=a", "--dynamic"], "every checkpoint"),
    (["--name=a"], "need --follow"),
    (["--idle_timeout=3"], "need --follow"),
    (["--follow", "--name=a", "--idle_timeout=-1"], "of 0 or more"),
  ],
)
def test_flags_that_cannot_be_followed_are_refused(
  flags: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
  assert eval_program.main(["eval.py", "--run_dir=none", *flags]) == 2
  assert words in capsys.readouterr().err


def test_a_folder_without_a_run_is_refused(
  tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
  args = ["eval.py", f"--run_dir={tmp_path}/none", "--follow", "--name=other"]
  assert eval_program.main(args) == 2
  assert "none is not a run's folder" in capsys.readouterr().err
  assert not list(tmp_path.iterdir())
