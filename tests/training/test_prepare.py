"""The settings of a start, and where they come from."""

import pathlib
from typing import Any

import pytest

from charlm.config import Config
from charlm.data.split import load_texts
from charlm.errors import InputError
from charlm.runs import run as run_module
from charlm.runs.run import Experiment, Run
from charlm.system.flags import parse
from charlm.training import prepare as module
from charlm.training import recipes as recipes_module
from charlm.training.options import TrainOptions
from charlm.training.prepare import prepare

TEXT = "".join(f"line {i} of a small text\n" for i in range(100))


@pytest.fixture(autouse=True)
def recipes(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
  """Two recipes, and a text in the current folder."""
  folder = tmp_path / "recipes"
  folder.mkdir()
  small = "--rnn_units=8\n--epochs=3\n--valid_lines=-1\n"
  (folder / "small.flags").write_text(small)
  large = "--rnn_units=16\n--valid_lines=-1\n"
  (folder / "large.flags").write_text(large)
  (folder / "finetune.flags").write_text("--epochs=2\n--valid_lines=-1\n")
  (tmp_path / "my.txt").write_text(TEXT)
  monkeypatch.setattr(recipes_module, "_RECIPES", folder)
  sizes = ((3_000, "small"), (9**9, "large"))
  for each in (module, recipes_module):
    monkeypatch.setattr(each, "SIZES_OF_AUTO", sizes)
  monkeypatch.chdir(tmp_path)


def options_of(**given: Any) -> TrainOptions:
  return prepare({"corpus": "my.txt", "run_dir": "run"} | given).options


def begin(run_dir: str, **given: Any) -> None:
  """Makes the folder of a run with these settings."""
  given = {"corpus": "my.txt", "run_dir": run_dir} | given
  options, corpus, split, *_ = prepare(given)
  vocab = ["[UNK]", "", *corpus.text.characters]
  experiment = Experiment.of(options.config, corpus, vocab, split)
  run = Run(run_dir, experiment, vocab)
  with run.locked():
    run.create(split)


def test_auto_chooses_by_the_size_of_the_train_text(
  tmp_path: pathlib.Path,
) -> None:
  options = options_of(recipe="auto")
  assert (options.recipe, options.rnn_units) == ("small", 8)
  (tmp_path / "my.txt").write_text(TEXT * 9)
  assert options_of(recipe="auto").rnn_units == 16
  # By the train text, not by the whole corpus.
  assert (
    options_of(recipe="auto", eval_chars=20_000, valid_chars=9).rnn_units == 8
  )


def test_flags_override_the_recipe() -> None:
  options = options_of(recipe="small", rnn_units=5, valid_chars=50)
  assert (options.rnn_units, options.epochs) == (5, 3)
  # One flag that chooses the valid text replaces all of the recipe's.
  assert (options.valid_lines, options.valid_chars) == (0, 50)


def test_a_missing_or_malformed_recipe_is_refused(
  tmp_path: pathlib.Path,
) -> None:
  with pytest.raises(InputError, match="auto, finetune, large, small"):
    options_of(recipe="other")
  (tmp_path / "recipes" / "mine.flags").write_text("--epochs=2x\n")
  with pytest.raises(InputError, match=r"mine\.flags: .*epochs"):
    options_of(recipe="mine")


def test_a_run_is_resumed_with_its_own_settings() -> None:
  begin("run", recipe="small", seed=7)
  for more in ({}, {"recipe": "auto"}, {"recipe": "small"}, {"epochs": 5}):
    options = prepare({"run_dir": "run"} | more).options
    assert (options.seed, options.rnn_units) == (7, 8)
    assert options.recipe == "small"
    assert options.epochs == more.get("epochs", 3)
  with pytest.raises(InputError, match=r"--init_from=run .*--recipe=large"):
    prepare({"run_dir": "run", "recipe": "large"})


def test_a_run_that_began_on_cleaned_lines_resumes_with_them(
  tmp_path: pathlib.Path,
) -> None:
  (tmp_path / "my.txt").write_text(TEXT.replace("9 of", "9\n\n  of"))
  begin("run", recipe="small")
  recipe = tmp_path / "recipes" / "small.flags"
  recipe.write_text(recipe.read_text() + "--raw\n")
  resumed = prepare({"run_dir": "run", "recipe": "auto"})
  assert not resumed.options.raw
  assert "\n\n" not in str(resumed.split.train)
  for raw, given in ((True, {}), (False, {"raw": False})):
    new = prepare(
      {"corpus": "my.txt", "run_dir": "new", "recipe": "auto"} | given
    )
    assert new.options.raw == raw
    assert ("\n\n  " in str(new.split.train)) == raw


def test_a_run_with_a_schedule_cannot_be_made_longer(
  tmp_path: pathlib.Path,
) -> None:
  begin("run", recipe="small", schedule="cosine")
  command = (
    "begin a new run, train.py --init_from=run --corpus=my.txt "
    "--valid_lines=-1 --recipe=small --epochs=20 --run_dir=another/folder"
  )
  with pytest.raises(InputError, match=f"falls to zero at its end.* {command}"):
    prepare({"run_dir": "run", "epochs": 20})
  assert prepare({"run_dir": "run", "epochs": 3}).options.epochs == 3


def test_a_new_run_without_a_corpus_is_announced(
  monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
  monkeypatch.setattr(
    module, "load_texts", lambda config: load_texts(Config(corpus="my.txt"))
  )
  begin("run")
  for run_dir, line in (
    ("run", ""),
    (
      "rum",
      "a new run, on plays of Shakespeare (or --corpus), in rum\n",
    ),
  ):
    prepare({"run_dir": run_dir})
    assert capsys.readouterr().out == line


def test_a_new_run_takes_unit_and_sizes_of_its_initial_run() -> None:
  begin("bytes", unit="byte")
  assert options_of(init_from="bytes").unit == "byte"
  begin("initial", rnn_units=24, num_layers=2, dropout_rate=0.3)
  options = options_of(init_from="initial", recipe="small")
  assert (options.rnn_units, options.num_layers) == (24, 2)
  assert (options.epochs, options.dropout_rate) == (3, 0.0)
  # A flag wins here; the start refuses it later.
  assert options_of(init_from="initial", rnn_units=9).rnn_units == 9


def test_auto_fine_tunes_an_initial_model_on_a_small_text(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  begin("initial", rnn_units=24)
  options = options_of(init_from="initial", recipe="auto")
  assert (options.recipe, options.rnn_units) == ("finetune", 24)
  assert options_of(init_from="initial", recipe="small").epochs == 3
  monkeypatch.setattr(recipes_module, "FINETUNE_AT_MOST", 1000)
  options = options_of(init_from="initial", recipe="auto")
  assert (options.recipe, options.rnn_units) == ("small", 24)


def test_auto_may_take_the_model_of_english_where_it_fits(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  def english_of(**given: Any) -> TrainOptions | None:
    given = {"corpus": "my.txt", "run_dir": "run", "recipe": "auto"} | given
    other = prepare(given).english
    return other.options if other else None

  options = english_of(epochs=7)
  assert options
  assert (options.recipe, options.init_from) == ("finetune", "english")
  assert (options.layer, options.epochs) == ("lstm", 7)
  for given in (
    {"init_from": ""},
    {"init_from": "english"},
    {"recipe": "small"},
    {"rnn_units": 9},
    {"layer": "Mine"},
    {"unit": "byte"},
  ):
    assert not english_of(**given)
  monkeypatch.setattr(module, "FINETUNE_AT_MOST", 1000)
  assert not english_of()
  monkeypatch.undo()
  monkeypatch.setattr(run_module, "_MODELS", pathlib.Path("none"))
  assert not english_of(corpus=__file__)


def test_more_epochs_drop_max_steps() -> None:
  begin("run", max_steps=3, epochs=2)
  assert prepare({"run_dir": "run", "epochs": 2}).options.max_steps == 3
  assert prepare({"run_dir": "run", "epochs": 4}).options.max_steps == 0


def test_a_resume_asks_for_a_moved_corpus(tmp_path: pathlib.Path) -> None:
  begin("run")
  (tmp_path / "my.txt").rename(tmp_path / "moved.txt")
  with pytest.raises(InputError, match=r"config.json.*give --corpus"):
    prepare({"run_dir": "run"})
  moved = {"run_dir": "run", "corpus": "moved.txt"}
  assert str(prepare(moved).corpus.text).startswith("line 0")


def test_auto_reads_a_text_once(monkeypatch: pytest.MonkeyPatch) -> None:
  calls = []

  def load(*args: Any) -> Any:
    calls.append(args)
    return load_texts(*args)

  monkeypatch.setattr(module, "load_texts", load)
  assert options_of(recipe="auto").valid_lines == -1
  assert len(calls) == 1  # standard input could not be read again


def test_the_recipes_of_auto_read_and_split_a_text_alike(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  monkeypatch.undo()  # the recipes of charlm
  splits = []
  names = ["finetune", *(name for _, name in module.SIZES_OF_AUTO)]
  for name in names:
    options = TrainOptions(
      **parse([f"--flagfile=recipes/{name}.flags"], Config)
    )
    sizes = (options.eval_lines, options.eval_chars, options.valid_chars)
    splits.append((options.raw, options.valid_lines, *sizes))
    if name in ("finetune", "text-100k", "text-300k"):
      # The devices are set up before it is known which of these it will be.
      assert (options.batch_size, options.precision) == (32, "bfloat16")
  assert set(splits) == {(True, -1, 0, 0, 0)}


def test_flags_remove_dependent_settings_of_a_recipe(
  tmp_path: pathlib.Path,
) -> None:
  cosine = "--schedule=cosine\n--warmup_steps=5\n"
  carried = "--carry_state\n--reset_rate=0.1\n"
  (tmp_path / "recipes" / "full.flags").write_text(cosine + carried)
  options = options_of(recipe="full", schedule="constant", carry_state=False)
  assert (options.warmup_steps, options.reset_rate) == (0, 0.0)


def test_the_suggested_command_for_another_recipe_keeps_the_split() -> None:
  begin("a run", eval_chars=200, recipe="small")
  with pytest.raises(InputError, match=r"'--init_from=a run' .*eval_chars=200"):
    prepare({"run_dir": "a run", "recipe": "large"})
