"""Reports on runs: ranking, curves, scores, samples, top predictions."""

import dataclasses
import glob
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from charlm.data.corpus import load_corpus, read_corpus
from charlm.data.split import train_text
from charlm.data.text import Text
from charlm.data.vocabulary import unknown_characters
from charlm.errors import InputError
from charlm.options import PATH, UTF8, ModelOptions, one_of, option
from charlm.runs.run import Run, open_newest_run, open_run
from charlm.system.files import write_atomically
from charlm.system.messages import warn
from charlm.system.process import DONE, import_quietly, run_command

if TYPE_CHECKING:  # these import TensorFlow
  from charlm.model.layers import RecurrentLayer
  from charlm.reporting.result import Result


@dataclasses.dataclass(frozen=True)
class ReportOptions(ModelOptions):
  """The flags."""

  run_dir: str = option(
    "runs",
    "folders or globs, separated by commas; english; or a folder of runs: the "
    "one saved last",
    UTF8,
    group="The run",
  )
  corpus: str | None = option(
    None,
    "corpus of the first run; adds baselines",
    group="The report",
  )
  text: str | None = option(
    None,
    "text that is coloured by the loss of its characters, as train.py's "
    "--corpus; default: the eval text of the first run",
  )
  format: str = option(
    "html", "html: a page; json: its numbers", one_of("html", "json")
  )
  output: str | None = option(
    None,
    "file to write, new or an earlier report; default: report.html, or stdout "
    "for json",
    PATH,
  )


def main(argv: list[str]) -> int:
  """Reports; returns the exit code."""
  return run_command(
    command=lambda given: report(ReportOptions(**given)),
    options=ReportOptions,
    argv=argv,
    usage=__doc__,
  )


def report(options: ReportOptions) -> int:
  """Reports as the flags say; returns the exit code.

  Raises:
    InputError: bad input.
  """
  output = Path(options.output or "report.html")
  printed = options.format == "json" and not options.output
  if not printed:
    _check_output(output)
  runs = _find_runs(options.run_dir, options.checkpoint)
  try:
    # Takes seconds, so the checks above come first.
    import_quietly("tensorflow", "keras", "matplotlib", "scipy")
  except ModuleNotFoundError as error:
    raise InputError(
      f"{error.name} is missing: pip install -e '.[report]'"
    ) from error
  from charlm.model.layers import import_layer
  from charlm.reporting.numbers import report_numbers, short_names
  from charlm.reporting.page import page
  from charlm.system.devices import choose_device

  choose_device(options.device)
  layer = import_layer(options.layer)
  # Before the scoring, since the corpus may be refused.
  train = _train_text(options.corpus, runs[0]) if options.corpus else None
  shown = _shown_text(options.text, runs[0])
  names = short_names([str(run.path) for run in runs])
  numbers = report_numbers(
    _score_runs(options, runs, names=names, shown=shown, layer=layer),
    train=train,
    shown=shown,
    shown_name=options.text or f"the eval text of {names[0]}",
  )
  as_json = options.format == "json"
  text = json.dumps(numbers) + "\n" if as_json else page(numbers)
  if printed:
    print(text, end="")
    return DONE
  write_atomically(output, [text.encode()])
  print(output)
  return DONE


def _score_runs(
  options: ReportOptions,
  runs: list[Run],
  *,
  names: list[str],
  shown: Text,
  layer: "type[RecurrentLayer] | None",
) -> "list[Result]":
  """Scores the runs; warns of those that cannot be scored, and skips them.

  Raises InputError: the first run, or one given by name, cannot be scored.
  """
  from charlm.reporting.result import score_run

  results = []
  for run, name in zip(runs, names, strict=True):
    reads_alike = _reading(run) == _reading(runs[0])
    if not reads_alike:
      warn(f"{name} reads texts unlike {names[0]}: it is not in the heat map")
    try:
      results.append(
        score_run(
          run,
          name=name,
          checkpoint=options.checkpoint,
          shown=shown if reads_alike else None,
          layer=layer,
        )
      )
    except InputError as error:
      # `--corpus` and parts of the page are about the first run.
      spec = options.run_dir
      named = os.path.exists(spec) or glob.escape(spec) == spec
      prefix = "" if str(error).startswith(str(run.path)) else f"{run.path}: "
      if named or run is runs[0]:
        raise InputError(f"{prefix}{error}") from error
      warn(f"left out: {prefix}{error}")
  return results


def _reading(run: Run) -> tuple[str, bool, bool]:
  """Returns the settings that decide how a run reads texts."""
  config = run.config
  return config.encoding, config.keeps_text, config.lowercase


def _shown_text(text: str | None, run: Run) -> Text:
  """Returns the text of the heat map, by default the run's eval text.

  Raises InputError: it cannot be read, or is too short.
  """
  from charlm.evaluation.score import refuse_short

  if text is None:
    return run.eval_text()
  shown = read_corpus(run.config, text).text
  refuse_short(shown, text)
  if unknown := unknown_characters(shown.characters, run.vocab):
    warn(f"characters of {text} that are read as [UNK]: {unknown}")
  return shown


def _check_output(path: Path) -> None:
  """Refuses to overwrite anything but an empty file or a report.

  Raises InputError: another file, not a file, or a folder that is missing.
  """
  if path.exists() and not path.is_file():
    raise InputError(f"{path} is not a regular file: give one as --output")
  if not path.parent.is_dir():
    raise InputError(f"{path.parent} is not a folder: give another --output")
  if path.exists():
    with path.open("rb") as file:
      start = file.read(300)  # enough to reach a page's title
    page = start.startswith(b"<!DOCTYPE html>") and b">charlm report<" in start
    if start and not (page or start.startswith(b'{"groups"')):
      raise InputError(f"{path} is not a report: give another --output")


def _find_runs(spec: str, checkpoint: str) -> list[Run]:
  """Opens the runs in a list of folders and globs, separated by commas.

  Raises InputError: a folder or a glob without a run.
  """
  # A folder's name may itself contain commas or wildcards.
  names = [spec] if os.path.exists(spec) else spec.split(",")
  runs: dict[str, Run] = {}  # by real path, so that each comes once
  for name in (os.path.expanduser(name.strip()) for name in names):
    pattern = glob.escape(name) != name and not os.path.exists(name)
    for run in (
      _matching(name, checkpoint) if pattern else [open_newest_run(name)]
    ):
      runs.setdefault(os.path.realpath(run.path), run)
  return list(runs.values())


def _matching(pattern: str, checkpoint: str) -> list[Run]:
  """Opens the runs that match a glob, sorted by folder.

  Raises InputError: there is none.
  """
  import_quietly("tensorflow", "keras")  # the next import needs them
  from charlm.runs.checkpoints import find_checkpoint

  runs = []
  for folder in sorted(glob.glob(pattern)):
    if os.path.exists(f"{folder}/config.json"):
      try:
        run = open_run(folder)
        find_checkpoint(run, checkpoint)
        runs.append(run)
      except InputError as error:  # such as a run that has just begun
        warn(f"left out: {error}")
  if not runs:
    raise InputError(f"{pattern} matches no folder of a run: give another")
  return runs


def _train_text(corpus: str, run: Run) -> Text:
  """Returns the run's train text.

  Raises InputError: this is not the run's corpus.
  """
  loaded = load_corpus(run.config, corpus)
  if loaded.sha256 != run.experiment.corpus_sha256:
    raise InputError(
      f"{corpus} is not the corpus of {run.path}: give the corpus of that run"
    )
  return train_text(loaded.text, run.config)


if __name__ == "__main__":
  sys.exit(main(sys.argv))
