"""Exports a trained model for use without charlm."""

import dataclasses
import functools
import sys
from collections.abc import Callable
from pathlib import Path

from charlm.errors import InputError
from charlm.options import PATH, ModelOptions, one_of, option
from charlm.runs.run import open_newest_run
from charlm.system.process import DONE, import_quietly, run_command

# The default of --output, by format.
_NAMES = {
  "saved_model": "exported",
  "keras": "model.keras",
  "tflite": "step.tflite",
  "tflite-int8": "step-int8.tflite",
  "npz": "model.npz",
  "html": "model.html",
}


@dataclasses.dataclass(frozen=True)
class ExportOptions(ModelOptions):
  """The flags."""

  device: str = option(
    "auto",
    "cpu, gpu, or auto: the CPU, so that a SavedModel runs everywhere",
    one_of("auto", "cpu", "gpu"),
  )
  output: str | None = option(
    None,
    "new folder or file to write; default: exported, or model.keras, .npz, "
    ".html, step.tflite, step-int8.tflite",
    PATH,
    group="The output",
  )
  format: str = option(
    "saved_model",
    "saved_model or keras: a model from ids and states to log-probabilities "
    "and states; tflite: one step of it for TensorFlow Lite, or tflite-int8, a "
    "quarter as large; npz: the weights as a NumPy file; html: a page that "
    "writes",
    one_of(*_NAMES),
  )

  @property
  def path(self) -> Path:
    """The file or folder to write."""
    return Path(self.output or _NAMES[self.format])

  def __post_init__(self) -> None:
    super().__post_init__()
    suffix = Path(_NAMES[self.format]).suffix
    if not self.path.name.endswith(suffix):
      raise InputError(
        f"{self.path} does not end with {suffix}: give an --output that does"
      )


def main(argv: list[str]) -> int:
  """Exports; returns the exit code."""
  return run_command(
    command=lambda given: export(ExportOptions(**given)),
    options=ExportOptions,
    argv=argv,
    usage=__doc__,
  )


def export(options: ExportOptions) -> int:
  """Exports as the flags say; returns the exit code.

  Raises:
    InputError: bad input; nothing was written then.
  """
  outputs = [options.path]
  if options.format in ("keras", "tflite", "tflite-int8"):
    outputs += [
      options.path.with_suffix(f".{name}.json")
      for name in ("vocabulary", "settings")
    ]
  for path in outputs:
    if path.exists():
      raise InputError(f"{path} exists already: give another --output")
  # Before TensorFlow is imported, so that a wrong folder fails at once.
  run = open_newest_run(options.run_dir)
  import_quietly("tensorflow", "keras")
  from charlm.export.formats import (
    save_keras,
    save_numpy,
    save_saved_model,
    save_tflite,
  )
  from charlm.export.page import save_page
  from charlm.model.layers import import_layer
  from charlm.runs.trained_model import load_model, say_which
  from charlm.system.devices import choose_device

  # A graph traced for a GPU calls cuDNN, so it would not run on a CPU.
  choose_device("cpu" if options.device == "auto" else options.device)
  model, step = load_model(run, options.checkpoint, import_layer(options.layer))
  save: dict[str, Callable[..., None]] = {
    "saved_model": save_saved_model,
    "keras": save_keras,
    "tflite": save_tflite,
    "tflite-int8": functools.partial(save_tflite, int8=True),
    "npz": save_numpy,
  }
  if options.format == "html":
    save_page(model, run, step, options.path)
  else:
    save[options.format](model, run.vocab, options.path, run.config)
  say_which(run, options.checkpoint, step)
  for path in outputs:
    print(path)
  return DONE


if __name__ == "__main__":
  sys.exit(main(sys.argv))
