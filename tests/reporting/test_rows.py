"""The comparison of settings, and its tables."""

import csv
import io
from typing import Any

import numpy as np
import pytest
from scipy import stats

from charlm.data.text import sha256
from charlm.errors import InputError
from charlm.reporting.rows import group_runs, table
from charlm.reporting.tables import to_csv, to_latex, to_markdown
from charlm.reporting.types import Group, Run


def _run(
  name: str,
  loss: float | None,
  seed: int = 0,
  *,
  eval_loss: float | None = 2.0,
  state: str = "finished",
  recipe: str = "",
  **setting: Any,
) -> Run:
  """Returns a run with a valid text."""
  usual = {"unit": "character", "eval_sha256": "e", "valid_sha256": "v"}
  usual |= {"vocabulary_sha256": "a", "steps": 9}
  return {
    "name": name,
    "corpus": "my.txt",
    "recipe": recipe,
    "setting": usual | setting,
    "seed": seed,
    "state": state,
    "step": 9,
    "last_step": 9,
    "valid_loss": loss,
    "eval_loss": eval_loss,
    "minutes": 1.5,
    "num_weights": 1234,
    "characters_per_second": 1000.0,
    "characters_per_step": 10,
    "curves": {
      split: {"steps": [], "losses": [], "minutes": []}
      for split in ("train", "valid", "eval")
    },
    "sample": "",
  }


def _sweep(**losses: list[float]) -> list[Run]:
  """Returns runs of a setting for each layer, with seeds from 0."""
  return [
    _run(f"{layer}-{seed}", loss, seed, layer=layer)
    for layer, of_seeds in losses.items()
    for seed, loss in enumerate(of_seeds)
  ]


def _group(runs: list[Run], baseline: str = "") -> Group:
  (group,) = group_runs(runs, baseline)
  return group


def _verdicts(group: Group) -> list[str]:
  return [row["difference"]["verdict"] for row in group["rows"][1:]]


# Means of 1.020, 1.030 and 1.112; differences by pairs, not by means.
BEST = [1.00, 1.02, 1.04, 1.01, 1.03]
NEAR = [1.01, 1.01, 1.07, 1.00, 1.06]
FAR = [1.09, 1.12, 1.12, 1.10, 1.13]


def test_settings_are_compared_by_pairs_of_seeds() -> None:
  runs = _sweep(far=FAR, near=NEAR, best=BEST)
  group = _group(runs[::-1])  # in any order
  best, near, far = group["rows"]
  assert [row["name"] for row in (best, near, far)] == [
    "layer best",
    "layer near",
    "layer far",
  ]
  assert best["loss"] == pytest.approx(1.02)
  assert best["spread"] == pytest.approx(np.std(BEST, ddof=1))
  assert (best["best"], best["difference"]) == (1.0, None)
  for row, losses in ((near, NEAR), (far, FAR)):
    test = stats.ttest_rel(losses, BEST)
    low, high = test.confidence_interval(0.95)
    compared = row["difference"]
    assert (compared["low"], compared["high"]) == pytest.approx((low, high))
    assert compared["mean"] == pytest.approx(np.mean(losses) - 1.02)
    # Holm: the smaller of two p values is doubled.
    assert compared["p"] == pytest.approx(
      test.pvalue * (2 if row is far else 1)
    )
  assert _verdicts(group) == [
    "cannot be told with five seeds: higher by 0.0100, 95 % between -0.0148 "
    "and +0.0348",
    "higher by 0.0920, 95 % between 0.0816 and 0.1024, five pairs",
  ]
  assert group["summary"] == (
    "Best of 3 settings: layer best, valid loss 1.0200 nats per character, "
    f"mean of 5 seeds (eval loss 2.0000). Next: layer near, "
    f"{_verdicts(group)[0]}."
  )


def test_a_difference_among_many_settings_needs_more() -> None:
  small = [x + y for x, y in zip(BEST, [1, 3, 2, 3, 1], strict=True)]
  others = {f"x{i}": [9 + i, 3, 12 - i, 8, 4 + i] for i in range(6)}
  (alone,) = _verdicts(_group(_sweep(best=BEST, small=small)))
  assert alone.startswith("higher by 2.0000, 95 % between")
  among = _verdicts(_group(_sweep(best=BEST, small=small, **others)))[0]
  assert among == f"cannot be told among 8 settings: {alone}"


@pytest.mark.parametrize(
  ("losses", "verdict"),
  [
    ([1.5], "higher by 0.5000, one pair: nothing can be said"),
    ([1.5, 1.1], "cannot be told with two seeds: higher by 0.2900, 95 %"),
    # As a flag without an effect gives.
    (BEST, "higher by 0.0000 in each of five pairs"),
  ],
)
def test_few_pairs_tell_little(losses: list[float], verdict: str) -> None:
  (told,) = _verdicts(_group(_sweep(best=BEST, other=losses), "best-0"))
  assert told.startswith(verdict)


def test_settings_without_a_common_seed_are_not_compared() -> None:
  runs = [_run("a", 1, 0, layer="a"), _run("b", 2, 1, layer="b")]
  (told,) = _verdicts(_group(runs))
  assert told == "no seed in common: nothing can be said"


def test_a_baseline_is_a_run_or_a_row() -> None:
  runs = _sweep(far=FAR, near=NEAR, best=BEST)
  for baseline in ("near-3", "layer near"):
    group = _group(runs, baseline)
    best, near, far = group["rows"]
    assert near["difference"] is None
    assert best["difference"]["mean"] == pytest.approx(-0.01)
    assert far["difference"]["mean"] == pytest.approx(0.082)
    assert "Compared with layer near: cannot be told" in group["summary"]
  with pytest.raises(InputError, match="such as --baseline='layer best'"):
    group_runs(runs, "nobody")


def test_a_baseline_is_compared_over_all_texts() -> None:
  runs = _sweep(near=NEAR[:2], best=BEST[:2])
  for run in _sweep(near=NEAR[2:], best=BEST[2:]):
    run["name"] += " of another text"
    run["setting"]["eval_sha256"] = "other"
    runs.append(run)
  first, _ = group_runs(runs, "layer best")
  (verdict,) = _verdicts(_group(_sweep(near=NEAR, best=BEST)))
  verdict = verdict.replace("five seeds", "five pairs")
  assert first["notes"] == [f"Over all texts, layer near: {verdict}."]


def test_only_finished_runs_count_and_copies_count_once() -> None:
  runs = [
    *_sweep(a=[1.2, 1.0]),
    _run("a-copy", 1.0, 0, layer="a"),
    _run("a-more", 0.1, 2, layer="a", state="diverged"),
    _run("early", 0.5, 0, layer="b", eval_loss=None, state="running"),
    _run("begun", None, 0, layer="c", eval_loss=None, state="running"),
  ]
  group = _group(runs)
  one, early = group["rows"]
  assert one["runs"] == ["a-1", "a-0"]
  assert (one["loss"], one["unfinished"]) == (1.1, "1 diverged")
  # A better loss so far stands below.
  assert (early["runs"], early["unfinished"]) == (["early"], "1 running")
  assert (early["finished"], early["difference"]) == (False, None)
  assert group["notes"] == [
    "a-copy has the settings and the seed of a-0: counted once.",
    "No valid loss yet: begun.",
  ]
  # The best first, also within a row, and those without a row last.
  names = [run["name"] for run in group["runs"]]
  assert names == ["a-1", "a-0", "early", "a-copy", "a-more", "begun"]


def test_runs_of_different_texts_are_never_ranked_together() -> None:
  runs = [
    _run("a", 1, eval_loss=5),
    _run("b", 2, eval_loss=4, vocabulary_sha256="other"),
    _run("bytes", 3, unit="byte"),
    _run("other", 4, eval_sha256="other"),
  ]
  first, *others = group_runs(runs)
  assert [row["loss"] for row in first["rows"]] == [1, 2]
  assert [len(group["rows"]) for group in others] == [1, 1]
  assert "[UNK]" in first["notes"][0]
  # Without a common valid text, the eval loss must sort, and this is said.
  runs[1]["setting"]["valid_sha256"] = "w"
  first, *_ = group_runs(runs)
  assert first["sorted_by"] == "eval"
  assert [row["loss"] for row in first["rows"]] == [4, 5]
  assert first["notes"][0] == "The valid texts differ: sorted by the eval loss."
  nothing = {"valid_sha256": sha256([])}
  (group,) = group_runs([_run("a", None, **nothing)])
  assert group["notes"] == ["There is no valid text: sorted by the eval loss."]
  assert group["summary"] == "a: eval loss 2.0000 nats per character."


def test_columns_are_the_settings_that_differ() -> None:
  def columns(*runs: Run) -> list[list[str]]:
    return [list(row["settings"].items()) for row in _group([*runs])["rows"]]

  one = {"layer": "gru", "rnn_units": 9, "init_from": "", "learning_rate": 0.1}
  assert columns(
    _run("a", 1, **one), _run("b", 2, **one | {"init_from": "x"}, steps=5)
  ) == [[("init_from", "none")], [("init_from", "x")]]
  # What follows from the recipe is left to its name.
  many = one | {"rnn_units": 8, "layer": "lstm"}
  assert columns(
    _run("a", 1, recipe="small", **one),
    _run("b", 2, recipe="large", **many),
    _run("c", 3, recipe="large", **many | {"learning_rate": 0.25}),
  ) == [
    [("recipe", "small"), ("learning_rate", "0.1")],
    [("recipe", "large"), ("learning_rate", "0.1")],
    [("recipe", "large"), ("learning_rate", "0.25")],
  ]
  # Hashes name what nothing else tells apart.
  assert columns(
    _run("a", 1, corpus_sha256=10 * "1"), _run("b", 2, corpus_sha256=10 * "2")
  ) == [[("corpus_sha256", 8 * "1")], [("corpus_sha256", 8 * "2")]]


def test_all_formats_have_the_same_rows() -> None:
  group = _group(_sweep(**{"a|b_%": BEST, 'with "quotes", comma': FAR}))
  rows = table(group)
  read = list(csv.DictReader(io.StringIO(to_csv([group]))))
  for row, in_csv in zip(rows, read, strict=True):
    for name, value in row.items():
      text = in_csv[name]
      assert text == ("" if value is None else str(value))
  latex, markdown = to_latex([group]), to_markdown([group])
  assert r"a|b\_\% & 5 & 1.0200 & 0.0158 & 1.0000 & 2.0000" in latex
  assert r"| a\|b_% | 5 | 1.0200 | 0.0158 | 1.0000 | 2.0000 |" in markdown
  body = [line for line in latex.splitlines() if line.endswith(r"\\")]
  assert len({line.count(" & ") for line in body}) == 1
