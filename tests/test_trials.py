"""The runner of trials: what it measures, and what it concludes."""

import json
import pathlib
import subprocess
import threading
from typing import Any

import pytest

from benchmarks import texts, trials
from charlm.errors import DivergedError, InputError

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


def keep(plan: trials.Table, run: trials.Run, loss: float) -> None:
  """Records a run's loss on the valid text."""
  text, setting, seed = run
  record = {"text": text, "setting": setting, "seed": seed, "valid": loss}
  plan.keep([record | {"flags": plan.settings[setting], "scores": {}}])


def loss_of(text: str, setting: str, seed: int) -> float:
  change = 0.01 * (2 * seed - 1) - 0.25
  return 1.5 * (text == "b-100k") + 0.1 * seed + 2 + change * (setting == "new")


def test_each_run_is_measured_once(
  plan: trials.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
  trained = []

  def measure(plan: trials.Table, run: trials.Run, *_: Any) -> trials.Record:
    trained.append(run)
    text, setting, seed = run
    loss = loss_of(*run)
    record = {"text": text, "setting": setting, "seed": seed, "valid": loss}
    record["flags"] = plan.settings[setting]
    return record | {"scores": {"stream": loss}, "minutes": 3.0}

  monkeypatch.setattr(trials, "measure", measure)
  monkeypatch.setattr(trials, "prepare_run", lambda *_: None)
  plan.keep([measure(plan, ("a-100k", "now", 0))])
  with plan.records_path.open("a") as file:
    file.write('{"text": "b-1')  # by a runner that was killed
  command = ["trials", str(plan.path)]
  assert trials.main(command) == 0
  assert len(trained) == len(set(trained)) == 8
  assert trials.main(command) == 0
  assert len(trained) == 8
  first, *_ = plan.records_path.read_text().splitlines()
  assert json.loads(first)["valid"] == 2
  row = "| b-100k | new |  | 2 | 3.3000 (3.2400 to 3.3600) | 3.3000 (3.2400"
  assert row in trials.to_markdown(plan)
  # The means have no losses of other flags, and none twice.
  plan.keep([measure(plan, ("b-100k", "new", 0)) for _ in range(2)])
  assert row in trials.to_markdown(plan)
  plan.path.write_text(TOML.replace("0.2", "0.3"))
  changed = trials.Table.read(plan.path)
  assert "new" not in trials.to_markdown(changed)
  assert {setting for _, setting, _ in changed.missing()} == {"new"}
  plan.path.write_text(TOML.replace("seeds = 2", "seeds = 1"))
  fewer = trials.Table.read(plan.path)
  assert "| b-100k | new |  | 1 | 3.2400 | 3.2400" in trials.to_markdown(fewer)
  assert fewer.missing() == []
  plan.path.write_text(TOML.replace('"stream"', '"stream", "lines", "dynamic"'))
  assert len(trials.Table.read(plan.path).missing()) == 8


def test_changed_flags_and_ctrl_c_resume_no_other_run(
  plan: trials.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
  folder = plan.path.parent
  (folder / "a-100k.txt").write_text("a line\n" * 9_999)
  monkeypatch.setattr(texts, "make", lambda *_: folder / "a-100k.txt")
  commands: list[list[str]] = []

  def run(command: list[str], **_: Any) -> None:
    commands.append(command)
    raise subprocess.CalledProcessError(DivergedError.exit_code, command)

  monkeypatch.setattr(subprocess, "run", run)
  for flags in ("--recipe=auto", "--recipe=auto --eval_every_steps=1000"):
    plan.settings["now"] = flags
    record = trials.measure(plan, ("a-100k", "now", 0), folder, core=0)
    assert record["valid"] == float("inf")
  first, second = (command[-2] for command in commands)
  assert first.startswith("--run_dir=")
  assert first != second
  interrupted = threading.Event()
  interrupted.set()
  monkeypatch.setattr(trials, "_interrupted", interrupted)
  with pytest.raises(InputError, match="interrupted"):
    trials.measure(plan, ("a-100k", "now", 0), folder, core=0)
  assert len(commands) == 2


@pytest.mark.parametrize(
  ("line", "changed"),
  [
    ("seeds = 2", "seed = 2"),
    ("seeds = 2", "seeds = 0"),
    ('"stream"', '"strem"'),
    ("[settings]", "[settings]\nbaselines = true"),
    ("novels-100k", "novels-50k"),
    ("novels-100k", "nowhere"),
    ("=0.2", "=2"),
    ("dropout_rate", "dropout_rat"),
  ],
)
def test_a_mistake_in_the_table_gets_one_line(
  plan: trials.Table,
  line: str,
  changed: str,
  capsys: pytest.CaptureFixture[str],
) -> None:
  table = TOML.replace("a-100k", "novels-100k").replace("b-100k", "verse-100k")
  plan.path.write_text(table.replace(line, changed))
  folder = plan.path.parent
  for name in ("novels-100k", "verse-100k"):
    (folder / f"{name}.txt").write_text("a line\n" * 99)
  assert trials.main(["trials", str(plan.path), f"--folder={folder}"]) == 2
  assert capsys.readouterr().err.count("\n") == 1


def test_settings_are_compared_in_pairs_of_text_and_seed(
  plan: trials.Table,
) -> None:
  # Differences of -0.26, -0.24, -0.26 and -0.24, on texts 1.5 apart: by hand,
  # their mean has a standard error of 0.01 / sqrt(3), and Student's t is 3.182.
  for run in plan.missing():
    keep(plan, run, loss_of(*run))
  assert trials.verdicts(plan) == [
    "new - now: -0.2500 (95 % interval -0.2684 to -0.2316), "
    "4 pairs of text and seed"
  ]


def test_a_training_that_diverges_is_reported(plan: trials.Table) -> None:
  for run in plan.missing():
    keep(plan, run, loss=float("inf") if "new" in run else 2.0)
  assert trials.verdicts(plan) == ["new - now: a training diverged"]
