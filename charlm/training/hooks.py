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


@dataclasses.dataclass(frozen=True)
class Hooks:
  """What the trainer calls between steps; by default nothing.

  Each takes the step reached first.
  """

  # Pairs of a period in steps and an action, in order of execution. At step
  # `num_steps` every action runs; after a stop before it, none does.
  actions: Sequence[tuple[int, Callable[[int], object]]] = ()
  # The trainer asks this before each call of the graph function. It takes the
  # step where the call is planned to end, too, and returns where it ends, or
  # the step reached to end the training. On several workers it is the chief's
  # plan, which may be another one.
  next_stop: Callable[[int, int], int] = lambda step, planned: planned
  # Called after each call of the graph function, with the mean loss of its
  # steps, in nats per character, and the speed, in characters per second.
  show_progress: Callable[[int, float, float], object] = lambda *_: None
  # Called every `metrics_every` steps and at the last.
  write_metrics: Callable[[int, TrainMetrics], object] = lambda *_: None
