"""Writes a page about one run or several: curves, scores, hard passages."""

import pathlib
import sys
from typing import Any

from absl import flags

from charlm.command import DONE, import_quietly, run_command
from charlm.config import InputError
from charlm.corpus import Split, load_text, sha256, split_text
from charlm.files import write_atomically


def define_flags() -> flags.FlagValues:
  """Returns the flags."""
  values = flags.FlagValues()
  group = {"flag_values": values, "module_name": "Flags"}
  flags.DEFINE_list(
    "run_dir", ["runs/shakespeare"], "folders of runs, comma-separated", **group
  )
  for name, default, text in (
    ("checkpoint", "latest", "latest, best or a step"),
    ("corpus", None, "the corpus of the first run, for n-grams and xz"),
    ("output", "report.html", "the page"),
  ):
    flags.DEFINE_string(name, default, text, **group)
  flags.DEFINE_bool("help", False, "show this help", **group)
  return values


def main(argv: list[str]) -> int:
  """Reports; returns the exit code."""
  return run_command(report, define_flags(), argv, __doc__)


def report(args: Any) -> int:
  """Reports by parsed flags; returns the exit code.

  Raises:
    InputError: bad input.
  """
  if not args.run_dir:
    raise InputError("--run_dir is empty: give a folder")
  output = pathlib.Path(args.output)
  if output.is_dir():
    raise InputError(f"{output} is a folder: give a file as --output")
  try:
    import_quietly("tensorflow", "keras", "matplotlib")
  except ModuleNotFoundError as error:
    raise InputError(
      f"{error.name} is missing: pip install -e '.[report]'"
    ) from error
  from charlm.devices import let_gpu_memory_grow
  from charlm.reporting.page import evaluate, page
  from charlm.run_dir import RunDir

  let_gpu_memory_grow()
  runs = [RunDir(path) for path in args.run_dir]
  results = [evaluate(run, args.checkpoint) for run in runs]
  split = _split(args.corpus, runs[0]) if args.corpus else None
  text = page(results, split, runs[0].vocabulary())
  write_atomically(output, text.encode())
  print(output)
  return DONE


def _split(corpus: str, run: Any) -> Split:
  """Returns the parts of a run's corpus.

  Raises InputError: another corpus.
  """
  experiment = run.experiment()
  config = experiment.config
  text = load_text(corpus, config.lowercase, config.raw)
  if (found := sha256(text)) != experiment.corpus_sha256:
    raise InputError(
      f"{corpus} is not the corpus of {run.path} ({found} here, "
      f"{experiment.corpus_sha256} there): give that one"
    )
  return split_text(text, config)


if __name__ == "__main__":
  sys.exit(main(sys.argv))
