"""The errors that end a program with one line and a code of their own."""


class InputError(ValueError):
  """Bad input: its text names the remedy, in one line for a terminal."""


class DivergedError(ArithmeticError):
  """The loss or the gradient is not finite."""


class LostRunError(RuntimeError):
  """A run's folder was taken away from the trainer that holds its lock."""
