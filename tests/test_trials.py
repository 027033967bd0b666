"""The runner of trials: what it measures, and what it concludes."""

import json
import pathlib
from typing import Any

import pytest

from benchmarks import trials

TOML = """
texts = ["a-100k", "b-100k"]
seeds = 2
scores = ["stream"]
[settings]
now = "--recipe=auto"
new = "--recipe=auto --dropout_rate=0.2"
"""


@pytest.fixture
def plan(tmp_path: pathlib.Path) -> trials.Table:
  """A table of two texts, two settings and two seeds."""
  path = tmp_path / "mine.toml"
  path.write_text(TOML)
  return trials.Table.read(path)


def loss_of(text: str, setting: str, seed: int) -> float:
  return 1.5 * (text == "b-100k") + 0.1 * seed + 2 - 0.25 * (setting == "new")


def test_what_is_missing_is_measured_once(
  plan: trials.Table, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
  trained = []

  def measure(plan: trials.Table, **run: Any) -> trials.Record:
    trained.append((run["text"], run["setting"], run["seed"]))
    del run["folder"], run["core"]
    loss = loss_of(**run)
    return run | {"valid": loss, "scores": {"stream": loss}, "minutes": 3.0}

  monkeypatch.setattr(trials, "measure", measure)
  monkeypatch.setattr(trials, "path_of", lambda *_: tmp_path)
  plan.keep(
    measure(plan, text="a-100k", setting="now", seed=0, folder=0, core=0)
  )
  command = ["trials", str(plan.path), "--jobs=2"]
  assert trials.main(command) == 0
  assert len(trained) == len(set(trained)) == 8
  assert trials.main(command) == 0
  assert len(trained) == 8
  first, *_ = plan.records_path.read_text().splitlines()
  assert json.loads(first)["valid"] == 2
  row = "| b-100k | new |  | 2 | 3.3000 (3.2500 to 3.3500) | 3.3000 (3.2500"
  assert row in trials.to_markdown(plan)


def test_settings_are_compared_in_pairs_of_text_and_seed(
  plan: trials.Table,
) -> None:
  # Differences of -0.26, -0.24, -0.26 and -0.24, on texts 1.5 apart: by hand,
  # their mean has a standard error of 0.01 / sqrt(3), and Student's t is 3.182.
  for text, setting, seed in plan.missing():
    loss = loss_of(text, setting, seed)
    loss += 0.01 * (2 * seed - 1) * (setting == "new")
    plan.keep({"text": text, "setting": setting, "seed": seed, "valid": loss})
  assert trials.verdicts(plan) == [
    "new - now: -0.2500 (95 % interval -0.2684 to -0.2316), "
    "4 pairs of text and seed"
  ]


def test_a_training_that_diverges_is_said(plan: trials.Table) -> None:
  for text, setting, seed in plan.missing():
    loss = float("inf") if setting == "new" else 2.0
    plan.keep({"text": text, "setting": setting, "seed": seed, "valid": loss})
  assert trials.verdicts(plan) == ["new: a training diverged"]
