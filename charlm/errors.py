"""The errors that end a program with one line and a code of their own."""

from typing import Any

import numpy as np


def all_finite(*values: Any) -> bool:
  """Tells whether numbers are finite: else the model has diverged."""
  return all(np.isfinite(value).all() for value in values)


class InputError(ValueError):
  """Bad input: the message names the remedy, in one line for a terminal."""

  # Not 1, with which Python ends after a traceback: that is a fault of charlm.
  exit_code = 2


class DivergedError(ArithmeticError):
  """The loss or the gradient is not finite, or the replicas differ."""

  exit_code = 3


class LostRunError(RuntimeError):
  """A training cannot save, or lost a worker; what is saved is whole."""

  exit_code = 4


class HungError(RuntimeError):
  """GPUs do not answer, or answer with garbage: nothing can be agreed on.

  A program has to end by `os._exit`: the interpreter would wait for a call that
  does not end.
  """

  exit_code = 2
