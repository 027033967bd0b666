"""Runs that start from another run, an exported model, or the bundled one."""

import codecs
import dataclasses
import io
import json
import pathlib
import re
import shutil
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from helpers import ROOT, SHARED_DATA

import charlm
import export as export_program
import train as train_program
from charlm.errors import InputError
from charlm.model.language_model import model_of
from charlm.runs import run as run_module
from charlm.runs.initial import open_initial
from charlm.runs.run import open_run
from charlm.runs.trained_model import load_initial

pytestmark = pytest.mark.usefixtures("quick_evaluations")


@pytest.fixture(scope="module")
def exported(
  two_layers_run: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> pathlib.Path:
  path = tmp_path_factory.mktemp("exported") / "my.npz"
  args = [f"--run_dir={two_layers_run}", "--format=npz", f"--output={path}"]
  assert export_program.main(["export.py", *args]) == 0
  return path


def test_a_run_starts_from_an_exported_model(
  exported: pathlib.Path,
  two_layers_run: pathlib.Path,
  corpus_path: pathlib.Path,
  tmp_path: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
) -> None:
  (tmp_path / "my.txt").write_text(corpus_path.read_text() + "\u00ef\n")
  begun = []
  for source in (exported, two_layers_run):
    run = tmp_path / source.stem
    args = [f"--init_from={source}", f"--corpus={tmp_path}/my.txt"]
    args += [f"--run_dir={run}", "--epochs=0", "--valid_lines=30"]
    args += ["--batch_size=24", "--seq_length=20", "--num_replicas=1"]
    assert train_program.main(["train.py", *args]) == 0
    begun.append(charlm.load(run))
  out, err = capsys.readouterr()
  # Sizes and layer come from the initial model, new embeddings from the seed.
  one, two = begun
  assert one.config.num_layers == 2
  assert one.vocabulary == [*open_run(two_layers_run).vocab, "\u00ef"]
  for ours, theirs in zip(
    one.model.get_weights(), two.model.get_weights(), strict=True
  ):
    np.testing.assert_array_equal(ours, theirs)
  # The line before training reports this model's loss.
  said = re.findall(r"^initial .* loss (\S+) \(n-grams: (\S+)\), ", out, re.M)
  (score,) = one.score([(tmp_path / "my" / "valid.txt").read_text()])
  assert [float(x) for x, _ in said] == pytest.approx(
    [score.log_perplexity] * 2, abs=6e-5
  )
  assert err.count("knows little of this text") == 2


def test_a_run_starts_from_the_best_checkpoint_of_another(
  valid_run: pathlib.Path,
  train_args: list[str],
  tmp_path: pathlib.Path,
) -> None:
  args = [*train_args, f"--init_from={valid_run}", "--epochs=0"]
  assert train_program.main([*args, f"--run_dir={tmp_path}/run"]) == 0
  begun = charlm.load(tmp_path / "run").model.get_weights()
  best = charlm.load(valid_run, checkpoint="best").model.get_weights()
  for one, other in zip(begun, best, strict=True):
    np.testing.assert_array_equal(one, other)


def test_a_truncated_first_save_does_not_lose_the_initial_weights(
  valid_run: pathlib.Path, train_args: list[str], tmp_path: pathlib.Path
) -> None:
  args = [*train_args, f"--init_from={valid_run}", "--epochs=0"]
  args.append(f"--run_dir={tmp_path}/run")
  assert train_program.main(args) == 0
  begun = charlm.load(tmp_path / "run").model.get_weights()
  (tmp_path / "run" / "starts.jsonl").unlink()  # written after the save
  (tmp_path / "run" / "checkpoints" / "ckpt-0.index").write_bytes(b"")
  assert train_program.main(args) == 0
  again = charlm.load(tmp_path / "run").model.get_weights()
  for one, other in zip(begun, again, strict=True):
    np.testing.assert_array_equal(one, other)


def _without_settings(arrays: dict[str, np.ndarray]) -> None:
  del arrays["settings"]


def _not_finite(arrays: dict[str, np.ndarray]) -> None:
  arrays["dense_bias"][0] = np.nan


def _with_code(arrays: dict[str, np.ndarray]) -> None:
  arrays["dense_bias"] = np.array([_Code()])


class _Code:
  """Creates a file when it is unpickled."""

  def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
    return pathlib.Path.touch, (pathlib.Path("executed"),)


@pytest.mark.parametrize(
  "change", [_without_settings, _with_code, _not_finite, None]
)
def test_an_invalid_exported_model_is_refused_in_one_line(
  change: Callable[[dict[str, np.ndarray]], None] | None,
  exported: pathlib.Path,
  corpus_path: pathlib.Path,
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture[str],
) -> None:
  monkeypatch.chdir(tmp_path)
  file = io.BytesIO()
  with np.load(exported) as arrays:
    changed = dict(arrays)
  if change:
    change(changed)
  np.savez(file, **changed)
  path = tmp_path / "bad.npz"
  path.write_bytes(file.getvalue()[: None if change else 999])
  args = [f"--init_from={path}", f"--corpus={corpus_path}"]
  args.append(f"--run_dir={tmp_path}/run")
  assert train_program.main(["train.py", *args]) == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert re.search(rf"{path}.* export it again$", line)
  assert [path.name for path in tmp_path.iterdir()] == ["bad.npz"]


def test_an_exported_model_with_layer_normalisation_is_refused(
  exported: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  with np.load(exported) as arrays:
    changed = dict(arrays)
  settings = json.loads(str(changed["settings"]))
  changed["settings"] = json.dumps(settings | {"layer_norm": True})
  np.savez(tmp_path / "old.npz", **changed)
  with pytest.raises(InputError, match="load it with commit 288d677"):
    open_initial(str(tmp_path / "old.npz"))


def test_new_characters_get_the_weights_of_the_seed(
  two_layers_run: pathlib.Path,
) -> None:
  initial = open_initial(str(two_layers_run))
  assert initial
  config = dataclasses.replace(open_run(two_layers_run).config, seed=7)
  size = len(initial.vocab)
  begun = load_initial(initial, config=config, vocab_size=size + 3)
  keras.utils.set_random_seed(7)  # as a run from random weights
  fresh = model_of(config, size + 3)
  known = charlm.load(two_layers_run).model
  for old, new, random in zip(
    known.get_weights(), begun.get_weights(), fresh.get_weights(), strict=True
  ):
    kept = tuple(slice(size) for size in old.shape)
    np.testing.assert_array_equal(new[kept], old)
    added = np.ones(new.shape, bool)
    added[kept] = False
    np.testing.assert_array_equal(new[added], random[added])


@pytest.fixture
def auto(tmp_path: pathlib.Path) -> list[str]:
  """Arguments that begin a run on English by auto, in the folder `run`."""
  text = (ROOT / "models" / "english" / "eval.txt").read_text()
  (tmp_path / "my.txt").write_text(text[:30_000])
  args = ["--recipe=auto", "--epochs=0", f"--run_dir={tmp_path}/run"]
  return ["train.py", *args, f"--corpus={tmp_path}/my.txt"]


def test_auto_begins_with_english_where_that_is_better(
  auto: list[str], tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
  def begin(*flags: str) -> tuple[str, str, list[str]]:
    assert train_program.main([*auto, *flags]) == 0
    config = open_run(flags[0].removeprefix("--run_dir=")).config
    out, err = capsys.readouterr()
    assert not err
    lines = re.findall("^initial .*", out, re.M)
    return config.init_from, config.recipe, lines

  run = f"--run_dir={tmp_path}/run"
  english = ("english", "finetune")
  *chosen, (line,) = begin(run)
  assert tuple(chosen) == english
  loss, ngrams = re.findall(r"\d\.\d{4}", line)
  assert float(loss) < float(ngrams)
  assert "--init_from= " in line
  # A resumed run keeps its choice.
  assert begin(run) == (*english, [])
  # A flag overrides it.
  assert begin(f"{run}-2", "--init_from=") == ("", "text-100k", [])
  # Another language, as it were.
  text = (tmp_path / "my.txt").read_text()
  (tmp_path / "my.txt").write_text(codecs.encode(text, "rot13"))
  *chosen, (line,) = begin(f"{run}-3")
  assert chosen == ["", "text-100k"]
  assert len(re.findall(r"\d\.\d{4}", line)) == 2
  assert "random weights" in line


@pytest.mark.parametrize("name", ["config.json", "best/*.index"])
def test_auto_refuses_a_model_of_english_that_was_cut_off(
  name: str,
  auto: list[str],
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture[str],
) -> None:
  shutil.copytree(ROOT / "models", tmp_path / "models")
  monkeypatch.setattr(run_module, "_MODELS", tmp_path / "models")
  (file,) = (tmp_path / "models" / "english").glob(name)
  file.write_bytes(file.read_bytes()[:300])
  assert train_program.main(auto) == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert line.endswith("begin without english: --init_from=")
  assert not (tmp_path / "run").exists()


def test_the_english_model_beats_n_grams_on_new_text(
  tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
  path = SHARED_DATA / "tinyshakespeare.txt"
  if not path.exists():
    pytest.skip(f"{path} is not there")
  (tmp_path / "my.txt").write_text(path.read_text()[:30_000])
  args = [f"--corpus={tmp_path}/my.txt", "--epochs=0", "--num_replicas=1"]
  args += ["--init_from=english", f"--run_dir={tmp_path}/run"]
  assert train_program.main(["train.py", *args]) == 0
  out, err = capsys.readouterr()
  (loss, ngrams) = re.search(
    r"^initial .* loss (\S+) \(n-grams: (\S+)\), ", out, re.M
  ).groups()
  assert float(loss) < float(ngrams) - 0.2
  assert not err
