import dataclasses
import json
import pathlib
from typing import Any

import pytest
from helpers import ROOT

from charlm.config import Config
from charlm.errors import InputError
from charlm.runs.run import Experiment
from charlm.system.flags import parse

SHA256 = "0" * 64
OF_FILES = ("2" * 64, "3" * 64, "4" * 64)


def _experiment(corpus_sha256: str = SHA256, **config: Any) -> Experiment:
  return Experiment(Config(**config), corpus_sha256, *OF_FILES)


def test_a_missing_field_has_its_default() -> None:
  experiment = _experiment(rnn_units=7)
  fields = json.loads(experiment.to_json())
  del fields["seed"], fields["epochs"]
  assert Experiment.from_json(fields) == experiment


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"format": 99}, "format"),
    ({"colour": "red"}, "field colour is unknown"),
    ({"seed": "0"}, "seed is '0'"),
    ({"seed": True}, "seed is True"),
  ],
)
def test_invalid_json_is_refused_and_the_field_named(
  change: dict, message: str
) -> None:
  fields = json.loads(_experiment().to_json()) | change
  with pytest.raises(InputError, match=message):
    Experiment.from_json(fields)


@pytest.mark.parametrize(
  ("name", "unused", "used"),
  [
    ("layer_norm", False, True),
    ("field", "", "text"),
    ("skip_bad", False, True),
  ],
)
def test_a_removed_field_is_refused_if_the_run_used_it(
  name: str, unused: object, used: object
) -> None:
  experiment = _experiment()
  fields = json.loads(experiment.to_json())
  assert Experiment.from_json(fields | {name: unused}) == experiment
  with pytest.raises(InputError, match=f"it used --{name}, .* commit"):
    Experiment.from_json(fields | {name: used})


@pytest.mark.parametrize(
  "change",
  [
    {"seq_length": 0},
    {"rnn_units": 2**31},
    {"epochs": -1},
    {"dropout_rate": 1.0},
    {"dropout_rate": float("nan")},
    {"learning_rate": 0.0},
    {"learning_rate": float("inf")},
    {"clip_norm": -1.0},
    {"precision": "float16"},
    {"warmup_steps": -1},
    {"warmup_steps": 5},
    {"seed": 2**32},
    {"eval_chars": 1},
    {"valid_lines": -2},
    {"reset_rate": 0.5},
  ],
)
def test_impossible_values_are_refused(change: dict) -> None:
  with pytest.raises(InputError, match=next(iter(change))):
    Config(**change)


def test_a_run_may_change_its_corpus_path_and_epochs() -> None:
  one = _experiment()
  assert one.changes(_experiment(corpus="x", epochs=99, max_steps=5)) == []
  other = _experiment("1" * 64, seed=1, rnn_units=7)
  assert one.changes(other) == [
    "rnn_units (512 before, 7 now)",
    "seed (0 before, 1 now)",
  ]
  assert one.changes(_experiment("1" * 64)) == [
    f"corpus_sha256 ({SHA256} before, {'1' * 64} now)"
  ]
  vocabulary, _, valid = OF_FILES
  other = Experiment(Config(), SHA256, vocabulary, "2" * 64, valid)
  (difference,) = one.changes(other)
  assert difference.startswith("eval_sha256 (")


@pytest.mark.parametrize("name", ["eval_corpus", "valid_corpus"])
def test_a_run_may_move_its_eval_file_but_not_drop_it(name: str) -> None:
  paths = ("", "a.txt", "b.txt")
  without, one, other = (_experiment(**{name: path}) for path in paths)
  assert one.changes(other) == []
  assert one.changes(without) == [f"{name} (a.txt before,  now)"]
  assert without.changes(one) == [f"{name} ( before, a.txt now)"]


def test_with_a_schedule_a_run_may_not_change_its_epochs() -> None:
  one = _experiment(schedule="cosine")
  changes = one.changes(_experiment(schedule="cosine", epochs=11))
  assert changes == ["epochs (10 before, 11 now)"]


def test_a_setting_excludes_the_seed_and_the_paths_of_texts() -> None:
  config = Config(eval_corpus="a.txt")
  one = Experiment(config, SHA256, *OF_FILES).setting

  def setting(corpus_sha256: str = SHA256, **flags: object) -> object:
    changed = dataclasses.replace(config, **flags)
    return Experiment(changed, corpus_sha256, *OF_FILES).setting

  assert setting(seed=1, corpus="x.txt", eval_corpus="b.txt") == one
  assert setting(eval_corpus="") != one
  assert setting(rnn_units=7) != one
  assert setting(init_from="run") != one
  assert setting("1" * 64) != one


@pytest.mark.parametrize("recipe", sorted((ROOT / "recipes").glob("*.flags")))
def test_recipes_are_valid(recipe: pathlib.Path) -> None:
  config = Config(**parse([f"--flagfile={recipe}"], Config))
  if recipe.stem == "reference":
    assert config == Config()
