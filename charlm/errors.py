"""Errors that end a program with one line on stderr and an exit code."""

from typing import Any

import numpy as np


def all_finite(*values: Any) -> bool:
  """Returns whether all values are finite; if not, training has diverged."""
  return all(np.isfinite(value).all() for value in values)


class InputError(ValueError):
  """Invalid input; the message is one line and names the remedy."""

  # Python exits with 1 after a traceback, which means a bug in charlm.
  exit_code = 2


class DivergedError(ArithmeticError):
  """The loss or the gradient is not finite."""

  exit_code = 3


class LostRunError(RuntimeError):
  """Training cannot save or lost a worker, or replicas differ.

  Saved checkpoints are intact.
  """

  exit_code = 4
