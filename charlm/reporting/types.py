"""The JSON of a report.

A unit is a character or, for byte-level runs, a byte. Losses are in nats per
unit.
"""

from typing import TYPE_CHECKING, Literal, NotRequired, TypedDict

from charlm.evaluation.ngram import Baseline

if TYPE_CHECKING:  # this imports TensorFlow
  from charlm.evaluation.score import ScoreNumbers

Part = Literal["valid", "eval"]
State = Literal["finished", "running", "stopped", "diverged"]


class Curve(TypedDict):
  """Losses of one part of the text during training, N points."""

  steps: list[int]
  losses: list[float]
  # Wall time since step 0, without pauses between starts.
  minutes: list[float]


class Run(TypedDict):
  """A run, as its own files describe it."""

  name: str
  corpus: str
  recipe: str
  # All that runs share if they differ only in the seed.
  setting: dict[str, object]
  seed: int
  state: State
  step: int  # the last one that has metrics
  last_step: int | None  # where the training ends; None: not recorded
  # The lowest one; None: there is no valid text, or no score yet.
  valid_loss: float | None
  # At the step of the lowest valid loss or, without a valid text, the last.
  eval_loss: float | None
  minutes: float
  num_weights: int | None  # None: not recorded
  characters_per_second: float | None
  characters_per_step: int
  curves: dict[str, Curve]  # by split: train, valid, eval
  sample: str  # of the step of the losses


class Difference(TypedDict):
  """How much a row's loss exceeds the baseline's, over the common seeds."""

  pairs: int
  mean: float | None  # None: no pair
  # At 95 %, by Student's distribution; None: fewer than two pairs.
  low: float | None
  high: float | None
  p: float | None  # of no difference, corrected by Holm for all comparisons
  verdict: str


class Row(TypedDict):
  """Runs that differ only in the seed."""

  name: str  # the values of the columns
  settings: dict[str, str]  # the fields in which the group's rows differ
  finished: bool  # otherwise, no run is: the losses are those so far
  unfinished: str  # how many runs are running, stopped or diverged
  runs: list[str]  # their names, one for each seed, the best first
  loss: float  # on the part that sorts the rows, as `spread` and `best`
  spread: float | None  # the standard deviation over seeds; None: one seed
  best: float
  eval_loss: float | None
  minutes: float | None
  num_weights: int | None
  characters_per_second: float | None
  difference: Difference | None  # None: this is the baseline, or unfinished


class Group(TypedDict):
  """Runs with the same eval text."""

  eval_sha256: str
  unit: str
  sorted_by: Part  # `valid` if all have the same valid text
  baseline: str  # with which the rows are compared
  summary: str  # the best row, and how surely it is
  notes: list[str]
  rows: list[Row]  # the best first, the unfinished ones last
  runs: list[Run]  # in the order of the rows, then those without a row


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


class Scored(TypedDict):
  """A run whose model was loaded."""

  name: str
  step: int
  checkpoint: str  # `best`, `latest`, or the step
  eval_score: "ScoreNumbers"  # both with protocol `stream`
  valid_score: "ScoreNumbers | None"  # None: no valid text
  samples: list[str]


class Numbers(TypedDict):
  """A whole report."""

  groups: list[Group]  # one for each eval text
  left_out: list[str]  # a line for each folder that is not in the report
  scored: list[Scored]
  heat_map: NotRequired[HeatMap]  # of the scored runs
  # With --corpus; the score of the run `baselines_of` comes last.
  baselines: NotRequired[list[Baseline]]
  # Share of the eval text that is copied from the train text.
  memorised: NotRequired[float]
