"""Reports on runs: ranking, curves, scores, samples, top predictions."""

import dataclasses
import glob
import json
import os
import pathlib
import sys
from typing import TYPE_CHECKING, Any

from charlm.data.corpus import load_corpus, train_text
from charlm.data.text import Text
from charlm.errors import InputError
from charlm.options import Options, device_option, one_of, option
from charlm.system.files import write_atomically
from charlm.system.process import DONE, import_quietly, run_command

if TYPE_CHECKING:  # it imports TensorFlow
  from charlm.runs.run_dir import RunDir


@dataclasses.dataclass(frozen=True)
class ReportOptions(Options):
  """The flags."""

  run_dir: tuple[str, ...] = option(
    ("runs/shakespeare",), "folders of runs, or globs, separated by commas"
  )
  checkpoint: str = option("latest", "latest, best, or a step")
  device: str = device_option()
  corpus: str | None = option(
    None,
    "corpus of the first run; adds scores of n-grams and xz, and what is "
    "memorised",
  )
  format: str = option(
    "html", "html: a page; json: its numbers", one_of("html", "json")
  )
  output: str | None = option(
    None, "file to write; default: report.html, or standard output for json"
  )

  def __post_init__(self) -> None:
    super().__post_init__()
    if not self.run_dir:
      raise InputError("--run_dir is empty: give a folder")


def main(argv: list[str]) -> int:
  """Reports; returns the exit code."""
  return run_command(report, ReportOptions, argv, __doc__)


def report(options: ReportOptions) -> int:
  """Reports as the flags say; returns the exit code.

  Raises:
    InputError: bad input.
  """
  output = pathlib.Path(options.output or "report.html")
  printed = options.format == "json" and not options.output
  # A link or a device would be replaced by a file.
  special = output.is_symlink() or (output.exists() and not output.is_file())
  if special and not printed:
    raise InputError(f"{output} is not a regular file: give one as --output")
  if not output.parent.is_dir():
    raise InputError(f"{output.parent} is not a folder: give another --output")
  folders = [path for name in options.run_dir for path in _folders(name)]
  try:
    # Only now: the import takes seconds, and what is wrong is told at once.
    import_quietly("tensorflow", "keras", "matplotlib")
  except ModuleNotFoundError as error:
    raise InputError(
      f"{error.name} is missing: pip install -e '.[report]'"
    ) from error
  from charlm.reporting.numbers import report_numbers
  from charlm.reporting.page import page
  from charlm.reporting.result import score_run
  from charlm.runs.run_dir import RunDir
  from charlm.system.devices import choose_device

  choose_device(options.device)
  runs = [RunDir(path) for path in folders]
  # Before the scoring: the corpus may be refused.
  train = _train_text(options.corpus, runs[0]) if options.corpus else None
  results = [score_run(run, options.checkpoint) for run in runs]
  numbers = report_numbers(results, train)
  text = _to_json(numbers) if options.format == "json" else page(numbers)
  if printed:
    print(text, end="")
    return DONE
  write_atomically(output, [text.encode()])
  print(output)
  return DONE


def _to_json(numbers: dict[str, Any]) -> str:
  """Returns a line of JSON, which knows no infinity: null stands for it."""
  text = json.dumps(numbers)
  return json.dumps(json.loads(text, parse_constant=lambda _: None)) + "\n"


def _folders(name: str) -> list[str]:
  """Returns a folder, or those of a glob that hold runs, sorted.

  Raises InputError: a glob without a run.
  """
  # A folder's name may have characters of a pattern.
  if glob.escape(name) == name or os.path.exists(name):
    return [name]
  found = glob.glob(name)
  # A glob matches other folders, too.
  folders = [f for f in found if os.path.exists(f"{f}/config.json")]
  if not folders:
    raise InputError(f"{name} matches no folder of a run: give another")
  return sorted(folders)


def _train_text(corpus: str, run: "RunDir") -> Text:
  """Returns what a run was trained on.

  Raises InputError: another corpus.
  """
  experiment = run.experiment()
  loaded = load_corpus(experiment.config, corpus)
  if loaded.sha256 != experiment.corpus_sha256:
    raise InputError(
      f"{corpus} is not the corpus of {run.path} (SHA-256 {loaded.sha256}, not "
      f"{experiment.corpus_sha256}): give the corpus of that run"
    )
  return train_text(loaded.text, experiment.config)


if __name__ == "__main__":
  sys.exit(main(sys.argv))
