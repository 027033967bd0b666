"""The ranking of runs, and the comparison of settings."""

import dataclasses
import math

import numpy as np
import pytest
from helpers import EXPERIMENT, result_of

from charlm.data.corpus import encode_text
from charlm.reporting import numbers as module
from charlm.reporting.numbers import welch_interval
from charlm.reporting.page import page
from charlm.reporting.result import Result, setting_of
from charlm.reporting.types import Numbers
from charlm.runs.metrics import Record


def report_numbers(results: list[Result]) -> Numbers:
  """Returns a report's numbers without a text to show."""
  nothing = encode_text([]).text
  return module.report_numbers(
    results, train=None, shown=nothing, shown_name="nothing"
  )


def test_runs_of_one_text_are_ranked_and_compared() -> None:
  results = [
    result_of("worse", 3 * [2, 4, 3, 5], 3 * "night"),
    result_of("another text", [1, 1]),
    result_of("best", 3 * [1, 2, 3, 4], 3 * "night"),
    result_of("no worse", 3 * [1, 3, 2, 4], 3 * "night"),
  ]
  # The same characters in other bytes.
  results.append(dataclasses.replace(results[1], eval_sha256="1"))
  numbers = report_numbers(results)
  assert numbers["first"] == "worse"
  first, *others = numbers["groups"]
  assert first["num_characters"] == 14
  names = [run["name"] for run in first["runs"]]
  assert names == ["best", "no worse", "worse"]
  assert [setting["runs"] for setting in first["settings"]] == [
    [name] for name in names
  ]
  assert [len(group["runs"]) for group in others] == [1, 1]
  best, no_worse, worse = (x["losses"]["eval"] for x in first["settings"])
  assert (best["standard_error"], best["difference_to_best"]) == (None, None)
  assert no_worse["difference_to_best"]["mean"] == 0
  assert worse["difference_to_best"]["mean"] == 1
  assert worse["difference_to_best"]["seed_interval"] is None
  assert page(numbers).count("<td>needs two seeds</td>") == 2
  assert first["summary"] == (
    "Best of 3 settings: layer best, with the eval loss 2.5000 nats per "
    "character. Next: layer no worse, 0.0000 higher. The seeds could explain "
    "the difference: train each setting with two seeds or more."
  )


def test_settings_that_differ_only_in_texts_are_named_by_their_runs() -> None:
  results = []
  for name, layer, text in (
    ("a", "gru", "1"),
    ("b", "gru", "2"),
    ("c", "x", "1"),
  ):
    setting = (("layer", layer), ("corpus", True), ("corpus_sha256", text))
    result = result_of(name, [len(results) + 1.0, 1])
    results.append(dataclasses.replace(result, setting=setting))
  for chosen, names in (
    (results[:2], ["a", "b"]),
    (results, ["layer gru (a)", "layer gru (b)", "layer x (c)"]),
  ):
    (group,) = report_numbers(chosen)["groups"]
    assert [setting["name"] for setting in group["settings"]] == names


def test_runs_that_differ_only_in_seed_are_grouped() -> None:
  # Losses of 2, 3 and 4; and of 1, 3, 5, 7 and 9, with a copy of the last run.
  results = [
    result_of(f"a{seed}", [seed + 2, seed + 2], setting="a", seed=seed)
    for seed in range(3)
  ]
  results += [
    result_of(f"b{seed}", [2 * seed, 2 * seed + 2], setting="b", seed=seed)
    for seed in [0, 1, 2, 3, 4, 4]
  ]
  (group,) = report_numbers(results)["groups"]
  assert len(group["runs"]) == 9
  best, other = group["settings"]
  assert best["runs"] == ["a0", "a1", "a2"]
  assert best["losses"]["eval"] == {
    "mean": 3,
    "lowest": 2,
    "highest": 4,
    "standard_error": pytest.approx(1 / math.sqrt(3)),
    "difference_to_best": None,
  }
  assert other["runs"] == ["b0", "b1", "b2", "b3", "b4"]
  assert other["losses"]["eval"]["standard_error"] == pytest.approx(2**0.5)
  difference = other["losses"]["eval"]["difference_to_best"]
  assert difference["mean"] == 2
  low, high = difference["seed_interval"]
  assert low < 0 < 2 < high
  assert "The seeds could explain the difference (95" in group["summary"]
  assert other["name"] == "layer b"


def test_a_setting_groups_runs_trained_to_the_same_step() -> None:
  def setting(step: int, checkpoint: str, last_step: int) -> object:
    record: Record = {
      "step": last_step,
      "split": "eval",
      "loss": 1,
      "seconds": 1,
    }
    return setting_of(EXPERIMENT, step, checkpoint, [record])

  assert setting(9, "latest", 9) != setting(5, "latest", 5)
  assert setting(9, "best", 9) == setting(5, "best", 9)
  assert setting(5, "best", 9) != setting(5, "best", 5)
  assert setting(5, "5", 9) == setting(5, "5", 6)


def test_a_shared_valid_text_ranks_the_runs() -> None:
  one = result_of("one", [1, 1], valid=[2, 4], setting="a")
  two = result_of("two", [2, 3], valid=[2, 2], setting="b")
  (group,) = report_numbers([one, two])["groups"]
  assert group["ranked_by"] == "valid"
  assert [run["name"] for run in group["runs"]] == ["two", "one"]
  best, other = group["settings"]
  assert list(best["losses"]) == ["valid", "eval"]
  assert other["losses"]["valid"]["difference_to_best"]["mean"] == 1
  assert other["losses"]["eval"]["difference_to_best"]["mean"] == -1.5
  for changed in (
    result_of("none", [3, 3]),
    dataclasses.replace(two, valid_sha256="1"),
    # The same text in bytes.
    result_of("bytes", [2, 2], valid=[2, 2, 2]),
  ):
    (group,) = report_numbers([one, changed])["groups"]
    assert group["ranked_by"] == "eval"
    assert group["runs"][0]["name"] == "one"
    assert list(group["settings"][0]["losses"]) == ["eval"]


def test_the_interval_over_seeds_is_welch_s() -> None:
  one, other = np.array([1.0, 2, 3]), np.array([2.0, 4, 6, 8, 10])
  # Squared standard errors of 1/3 and 2 give 5.1579 degrees of freedom.
  half = 2.5470926 * math.sqrt(7 / 3)
  expected = (-4 - half, -4 + half)
  assert welch_interval(one, other) == pytest.approx(expected, abs=1e-6)
  assert welch_interval(one, other[:1]) is None


def test_settings_are_named_by_the_fields_that_differ() -> None:
  def names(settings: list[dict[str, object]]) -> list[str]:
    results = [
      dataclasses.replace(
        result_of(f"run {i}", [1 + i, 1 + i]), setting=tuple(setting.items())
      )
      for i, setting in enumerate(settings)
    ]
    for result, recipe in zip(results, ("small", "large"), strict=False):
      result.run["recipe"] = recipe
    (group,) = report_numbers(results)["groups"]
    return [setting["name"] for setting in group["settings"]]

  one = {"layer": "gru", "rnn_units": 9, "init_from": "", "eval_sha256": "a"}
  other = one | {"rnn_units": 8, "init_from": "x", "eval_sha256": "b"}
  assert names([one, other]) == [
    "rnn_units 9, init_from none",
    "rnn_units 8, init_from x",
  ]
  # If many fields differ, the recipe is the shorter name.
  many = [{f"field {i}": value for i in range(9)} for value in "ab"]
  assert names(many) == ["recipe small", "recipe large"]
  assert names([one]) == ["run 0"]
