"""What the trainer hands over, and asks, between its steps."""

import dataclasses
from collections.abc import Callable, Sequence


@dataclasses.dataclass(frozen=True)
class TrainMetrics:
  """Numbers of the steps since the metrics were last written."""

  loss: float  # the mean, in nats per character
  gradient_norm: float  # the mean, before clipping
  learning_rate: float  # of the step to come
  characters_per_second: float


class Hooks:
  """What the trainer calls between steps, which does nothing by default.

  `step` is the step reached.
  """

  def show_progress(self, step: int, loss: float, speed: float) -> None:
    """The trainer calls this after each call of the graph function.

    The loss is the mean of the call's steps, in nats per character; the speed
    is in characters per second.
    """

  def write_metrics(self, step: int, metrics: TrainMetrics) -> None:
    """The trainer calls this every `metrics_every` steps and at the last."""

  def periodic(self) -> Sequence[tuple[int, Callable[[int], object]]]:
    """Returns pairs of a period in steps and an action, in order of execution.

    At step `num_steps` every action runs; after a stop before it, none does.
    """
    return ()

  def next_stop(self, step: int, planned: int) -> int:
    """The trainer asks this before each call of the graph function.

    Returns where the call ends, or `step` to end the training. On several
    workers it is the chief's plan, which may differ from `planned`.
    """
    return planned
