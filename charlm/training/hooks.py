"""What the trainer hands over, and asks, between its steps."""

from collections.abc import Callable, Sequence
from typing import NamedTuple


class TrainMetrics(NamedTuple):
  """Numbers of the steps since the metrics were last written."""

  loss: float  # the mean, in nats per character
  gradient_norm: float  # the mean, before clipping
  learning_rate: float  # of the step to come
  characters_per_second: float


class Hooks(NamedTuple):
  """What the trainer calls between steps; by default nothing.

  Each function takes, as its first argument, the step that was reached.
  """

  # Periods in steps, and actions: an action runs at each multiple of its period
  # and at the last step of the run, in this order. A training that is stopped
  # earlier ends without further actions.
  actions: Sequence[tuple[int, Callable[[int], object]]] = ()
  # Called before each call of the graph function, with the step reached and the
  # step at which that call is planned to end. Returns the step at which it is
  # to end; with several workers, the one that the chief has chosen. To end the
  # training, it returns the step reached.
  next_stop: Callable[[int, int], int] = lambda step, planned: planned
  # Called after each call of the graph function, with the mean loss of its
  # steps, in nats per character, and the speed, in characters per second.
  show_progress: Callable[[int, float, float], object] = lambda *_: None
  # Called when metrics are due, and at the last step.
  write_metrics: Callable[[int, TrainMetrics], object] = lambda *_: None
