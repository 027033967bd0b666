"""Whatever a run's folder is called, it is trained and read like any other."""

import pathlib

import pytest
from helpers import EXPERIMENT, SPLIT, VOCAB, save_checkpoints

import eval as eval_program
import export as export_program
import sample as sample_program
import train as train_program
from charlm.runs.run import create_run
from charlm.runs.run_dir import RunDir


@pytest.fixture(autouse=True)
def temporary(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> pathlib.Path:
  """A folder for temporary files, in which no link may be left."""
  path = tmp_path / "temporary"
  path.mkdir()
  monkeypatch.setattr("tempfile.tempdir", str(path))
  yield path
  assert list(path.glob("tmp*")) == []  # as `tempfile` names folders


def _make(path: pathlib.Path) -> RunDir:
  run = RunDir(path)
  with run.locked():
    create_run(run, EXPERIMENT, VOCAB, SPLIT)
  return run


def _files(folder: pathlib.Path) -> set[str]:
  return {path.name for path in folder.iterdir()}


def test_no_other_folder_matches_the_name(tmp_path: pathlib.Path) -> None:
  others = [_make(tmp_path / name) for name in ("axb", "axxb")]
  for other in others:
    save_checkpoints(other, 10, 20, 30)
  before = [_files(other.latest) for other in others]
  for name in ("a?b", "a*b"):
    save_checkpoints(_make(tmp_path / name), 10, 20, 30, 40, 50)
  assert [_files(other.latest) for other in others] == before


@pytest.mark.usefixtures("quick_evaluations")
def test_all_programs_work_there(
  train_args: list[str],
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture[str],
) -> None:
  monkeypatch.chdir(tmp_path)
  name = "[a] b*c?/back\\slash/<b> & $HOME '\" l\u00e4uf/"
  run = f"--run_dir={name}"
  args = [*train_args, run, "--checkpoint_every_steps=3", "--max_to_keep=2"]
  assert train_program.main(args) == 0
  assert train_program.main([*args, "--epochs=2"]) == 0
  indices = pathlib.Path(name, "checkpoints").glob("*.index")
  assert {path.stem for path in indices} == {"ckpt-21", "ckpt-24"}
  summaries = pathlib.Path(name, "summaries")
  assert len([*summaries.glob("eval/events.out.*")]) == 1  # they are made anew
  assert eval_program.main(["eval.py", run]) == 0
  assert sample_program.main(["sample.py", run, "--num_chars=9"]) == 0
  export = ["export.py", run, "--output=a[1].keras", "--format=keras"]
  assert export_program.main(export) == 0
  assert pathlib.Path("a[1].keras").exists()
  assert capsys.readouterr().err == ""
  start = [*train_args, f"--init_from={name}", "--run_dir=next", "--epochs=0"]
  assert train_program.main(start) == 0
  index = pathlib.Path(name, "checkpoints", "ckpt-24.index")
  index.write_bytes(b"rubbish")
  assert eval_program.main(["eval.py", run]) == 2
  assert str(index.with_suffix("")) in capsys.readouterr().err
