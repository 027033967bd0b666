"""The errors that end a program with one line and a code of their own."""


class InputError(ValueError):
  """Bad input: its text names the remedy, in one line for a terminal."""

  exit_code = 2


class DivergedError(ArithmeticError):
  """The loss or the gradient is not finite."""

  exit_code = 3


class LostRunError(RuntimeError):
  """A run's folder was taken away from the process that holds its lock."""

  exit_code = 4
