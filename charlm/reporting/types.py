"""The JSON of a report, as `report_numbers` returns it.

A unit is what a run predicts: a character or a byte. A loss is in nats per
unit.
"""

from typing import Literal, NotRequired, TypedDict

from charlm.evaluation.ngram import Baseline
from charlm.evaluation.score import ScoreNumbers

Part = Literal["valid", "eval"]


class Difference(TypedDict):
  """The mean loss of a setting minus that of the best, with 95 % intervals."""

  mean: float
  # For these runs on other passages: over the text, paired unit by unit.
  # None: the text is too short.
  text_interval: tuple[float, float] | None
  # For other seeds on this text: over the runs, by Welch. None: one of the two
  # settings has one seed alone.
  seed_interval: tuple[float, float] | None


class Losses(TypedDict):
  """The losses of a setting's runs on a part, by the protocol `stream`."""

  mean: float
  lowest: float
  highest: float
  standard_error: float | None  # of the mean; None: of one seed alone
  difference_to_best: Difference | None  # None: it is the best


class Point(TypedDict):
  """A point of a learning curve."""

  step: int
  characters: int  # seen in training so far
  seconds: float | None  # wall time since step 0; None: not recorded
  loss: float


class Setting(TypedDict):
  """Runs of one group that differ in the seed alone, one of each seed."""

  name: str  # the flags in which the settings of the group differ
  runs: list[str]  # their names
  losses: dict[Part, Losses]  # of what the group is ranked by, and of `eval`


class Run(TypedDict):
  """A run: its scores, curves and samples."""

  name: str
  recipe: str
  seed: int
  step: int
  checkpoint: str  # `best`, `latest`, or the step
  num_weights: int
  eval_score: ScoreNumbers  # by `stream`, as the next one
  valid_score: ScoreNumbers | None  # None: no valid text
  curves: dict[str, list[Point]]  # by split: train, valid, eval
  samples: list[str]


class RunGroup(TypedDict):
  """Runs with the same eval text."""

  eval_sha256: str
  num_characters: int  # predictions in the text
  ranked_by: Part  # `valid` if all have the same valid text
  summary: str  # which setting is best, and whether seeds could explain it
  settings: list[Setting]  # the best first
  runs: list[Run]  # the best first


class Expectations(TypedDict):
  """What a run expected of each character of a text but the first, N - 1."""

  run: str  # its name
  nats: list[float]
  expected: list[list[str]]  # the most likely characters first
  probabilities: list[list[float]]  # of these


class HeatMap(TypedDict):
  """A text, and how well runs that read texts alike predict it."""

  name: str
  text: str  # its first N characters
  num_characters: int  # of all of it
  runs: list[Expectations]


class Numbers(TypedDict):
  """A whole report."""

  groups: list[RunGroup]  # that of the first run first
  first: str  # the name of the first of --run_dir, which the rest is about
  heat_map: HeatMap
  # With the train text of the first run, whose own score is the last baseline.
  baselines: NotRequired[list[Baseline]]
  memorised: NotRequired[float]  # the share of the eval text
