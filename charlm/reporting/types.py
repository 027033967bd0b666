"""The JSON of a report, as `report_numbers` returns it.

A unit is a character or, for byte-level runs, a byte. Losses are in nats per
unit.
"""

from typing import Literal, NotRequired, TypedDict

from charlm.evaluation.ngram import Baseline
from charlm.evaluation.score import ScoreNumbers

Part = Literal["valid", "eval"]


class Difference(TypedDict):
  """How much a setting's mean loss exceeds the best."""

  mean: float
  # At 95 %, for other seeds on the same text: over the runs (Welch). None: one
  # of the two settings has a single seed.
  seed_interval: tuple[float, float] | None


class Losses(TypedDict):
  """The losses of a setting's runs on a part, with protocol `stream`."""

  mean: float
  lowest: float
  highest: float
  standard_error: float | None  # of the mean; None: a single seed
  difference_to_best: Difference | None  # None: this is the best


class Point(TypedDict):
  """A point of a learning curve."""

  step: int
  characters: int  # seen in training so far
  # Wall time since step 0, without pauses between starts; None: not recorded.
  seconds: float | None
  loss: float


class Setting(TypedDict):
  """Runs of a group that differ only in the seed, one for each seed."""

  name: str  # the flags in which the group's settings differ
  runs: list[str]  # their names
  losses: dict[Part, Losses]  # on the part that ranks the group, and on `eval`


class Run(TypedDict):
  """A run: its scores, curves and samples."""

  name: str
  recipe: str
  seed: int
  step: int
  checkpoint: str  # `best`, `latest`, or the step
  num_weights: int
  eval_score: ScoreNumbers  # both with protocol `stream`
  valid_score: ScoreNumbers | None  # None: no valid text
  curves: dict[str, list[Point]]  # by split: train, valid, eval
  samples: list[str]


class RunGroup(TypedDict):
  """Runs with the same eval text."""

  eval_sha256: str
  num_characters: int  # predictions in the text
  ranked_by: Part  # `valid` if all have the same valid text
  summary: str  # the best setting, and whether the seeds could explain it
  settings: list[Setting]  # the best first
  runs: list[Run]  # the best first


class Expectations(TypedDict):
  """A run's predictions of N characters: N - 1, since the first has none."""

  run: str  # its name
  nats: list[float]
  expected: list[list[str]]  # the most likely characters first
  probabilities: list[list[float]]  # of the expected characters


class HeatMap(TypedDict):
  """A text, and the predictions of the runs that read texts the same way."""

  name: str
  text: str  # its first N characters
  num_characters: int  # of the whole text
  runs: list[Expectations]


class Numbers(TypedDict):
  """A whole report."""

  groups: list[RunGroup]  # the first run's group comes first
  first: str  # name of the first run of --run_dir; the rest is about it
  heat_map: HeatMap
  # Only with the first run's train text; its own score comes last.
  baselines: NotRequired[list[Baseline]]
  # Share of the eval text that is copied from the train text.
  memorised: NotRequired[float]
