"""Trains a character-level language model; the same command resumes a run."""

import sys
from typing import Any

from charlm.system import process
from charlm.training.options import TrainOptions
from charlm.training.prepare import prepare


def main(argv: list[str]) -> int:
  """Trains; returns the exit code."""
  return process.run_command(
    command=train, options=TrainOptions, argv=argv, usage=__doc__
  )


def train(given: dict[str, Any]) -> int:
  """Trains as the flags say; returns the exit code.

  Raises:
    InputError: the input is bad.
    DivergedError: a loss or a gradient is not finite.
    LostRunError: the run's folder was moved or removed, nothing can be saved, a
      worker was lost, or the replicas differ.
  """
  # Before importing TensorFlow, so that a wrong path is refused at once.
  file, _, name = given.get("layer", "").rpartition(":")
  prepared = prepare(given | {"layer": name} if file else given)
  process.import_quietly("tensorflow", "keras")
  from charlm.model.layers import import_layer
  from charlm.training.start import start

  layer = import_layer(f"{file}:{name}" if file else "")
  exit_code = start(prepared, layer)
  # A closed stdout must not turn a saved run into an error.
  process.flush_or_drop_output()
  return exit_code


if __name__ == "__main__":
  sys.exit(main(sys.argv))
