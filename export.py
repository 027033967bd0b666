"""Writes a trained model for use without charlm."""

import pathlib
import sys
from typing import Any

from absl import flags

from charlm.command import DONE, import_quietly, run_command
from charlm.config import InputError


def define_flags() -> flags.FlagValues:
  """Returns the flags."""
  values = flags.FlagValues()
  group = {"flag_values": values, "module_name": "Flags"}
  for name, default, text in (
    ("run_dir", "runs/shakespeare", "folder of the run"),
    ("checkpoint", "latest", "latest, best or a step"),
    ("output", None, "folder, or file.keras; default: exported, model.keras"),
  ):
    flags.DEFINE_string(name, default, text, **group)
  flags.DEFINE_enum(
    "format",
    "saved_model",
    ["saved_model", "keras"],
    "with strings in and out, or with ids in and log-probabilities out",
    **group,
  )
  flags.DEFINE_bool("help", False, "show this help", **group)
  return values


def main(argv: list[str]) -> int:
  """Exports; returns the exit code."""
  return run_command(export, define_flags(), argv, __doc__)


def export(args: Any) -> int:
  """Exports by parsed flags; returns the exit code.

  Raises:
    InputError: bad input; nothing was written then.
  """
  is_keras = args.format == "keras"
  default = "model.keras" if is_keras else "exported"
  output = pathlib.Path(args.output or default)
  files = [output]
  if is_keras:
    if output.suffix != ".keras":
      raise InputError(
        f"{output} does not end with .keras: give such an --output"
      )
    files.append(output.with_suffix(".vocabulary.json"))
  for path in files:
    if path.exists():
      raise InputError(f"{path} is there already: give another --output")
  import_quietly("tensorflow", "keras")
  from charlm.devices import let_gpu_memory_grow
  from charlm.exported import save_keras, save_saved_model
  from charlm.run_dir import RunDir

  let_gpu_memory_grow()
  run = RunDir(args.run_dir)
  model, _ = run.load_model(args.checkpoint)
  save = save_keras if is_keras else save_saved_model
  for path in save(model, run.vocabulary(), output):
    print(path)
  return DONE


if __name__ == "__main__":
  sys.exit(main(sys.argv))
