"""The JSON of a report, as `report_numbers` returns it.

A unit is what a run predicts: a character or a byte. A loss is in nats per
unit.
"""

from typing import NotRequired, TypedDict

from charlm.data.passages import FoundNumbers
from charlm.evaluation.score import ScoreNumbers
from charlm.reporting.ngram import Baseline


class Difference(TypedDict):
  """The loss of a run minus that of the best, paired unit by unit."""

  mean: float
  interval: tuple[float, float] | None  # None: of one unit alone
  excludes_0: bool  # the interval does


class Point(TypedDict):
  """A point of a learning curve."""

  step: int
  characters: int  # seen in training so far
  seconds: float | None  # wall time since step 0; None: not recorded
  loss: float
  valid_loss: NotRequired[float]  # only on `eval`, of a run with a valid text


class Run(TypedDict):
  """A run: its scores, curves and samples."""

  name: str
  step: int
  num_weights: int
  scores: dict[str, ScoreNumbers]  # by protocol
  difference_to_best: Difference | None  # None: it is the best
  curves: dict[str, list[Point]]  # by split, `train` and `eval`
  samples: list[str]


class RunGroup(TypedDict):
  """Runs with the same eval text."""

  eval_sha256: str
  num_characters: int  # predictions in the text
  runs: list[Run]  # the best first


class Memorised(TypedDict):
  """How much of some texts stands in the train text, too."""

  eval_text: float  # fraction of its characters
  samples: list[FoundNumbers]  # of the first run, in their order


class Character(TypedDict):
  """A character of the eval text, and what was expected in its place."""

  character: str
  nats: float
  expected: list[str]  # the most likely first
  probabilities: list[float]  # of these


class Numbers(TypedDict):
  """A whole report."""

  groups: list[RunGroup]  # that of the first run first
  first: str  # the name of the first of --run_dir, which the rest is about
  characters: list[Character]  # the first that are scored
  # With the train text of the first run, whose own score is the last baseline.
  baselines: NotRequired[list[Baseline]]
  memorised: NotRequired[Memorised]
