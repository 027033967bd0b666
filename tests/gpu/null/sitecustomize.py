"""Lets each Python process of charlm run to its end on the null card.

Python imports this module at start-up if its folder is on PYTHONPATH. Values
read from the card are garbage, and are replaced: numbers by 1, ids by 0, and
whether a variable is initialised by True. The number of steps is set from the
host. Checksums across cards are computed but may differ, since nothing is added
up.
"""

import contextlib
from typing import Any

import numpy as np

from charlm.errors import LostRunError
from charlm.system.process import import_quietly


def _replace_garbage() -> None:
  from tensorflow.python.framework import ops

  tensor = ops._EagerTensorBase
  read = tensor._numpy

  def readable(self: Any) -> Any:
    value = read(self)
    if "GPU" not in self.backing_device:
      return value
    if self.dtype.is_floating or self.dtype.is_bool:
      return np.ones_like(value)
    return value if np.ndim(value) == 0 else np.zeros_like(value)

  tensor._numpy = readable


def _count_steps() -> None:
  from charlm.training.trainer import Trainer

  make, take = Trainer.__init__, Trainer._run_steps

  def make_and_set(self: Any, **kwargs: Any) -> None:
    make(self, **kwargs)
    self.optimizer.iterations.assign(np.array(0))

  def run_and_count(self: Any, start: int, stop: int) -> float:
    loss = take(self, start, stop)
    self.optimizer.iterations.assign(np.array(stop))
    return loss

  Trainer.__init__, Trainer._run_steps = make_and_set, run_and_count


def _ignore_replicas() -> None:
  from charlm.training.replicas import Replicas

  check = Replicas.check_weights

  def run(self: Any) -> None:
    with contextlib.suppress(LostRunError):
      check(self)

  Replicas.check_weights = run


import_quietly("tensorflow", "keras")
_replace_garbage()
_count_steps()
_ignore_replicas()
