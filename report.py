"""Tells which runs are better, and how surely: report.py FOLDER ..."""

import dataclasses
import functools
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from charlm.data.corpus import load_corpus, read_corpus
from charlm.data.passages import find_passages
from charlm.data.split import train_text
from charlm.data.text import Text
from charlm.data.vocabulary import unknown_characters
from charlm.errors import InputError
from charlm.evaluation.ngram import baselines
from charlm.options import (
  NOT_NEGATIVE,
  PATH,
  UTF8,
  ModelOptions,
  one_of,
  option,
)
from charlm.reporting.runs import (
  find_runs,
  metrics_sizes,
  read_run,
  short_names,
)
from charlm.runs.run import Run
from charlm.system.files import write_atomically
from charlm.system.messages import warn
from charlm.system.process import (
  DONE,
  import_quietly,
  run_command,
  when_changed,
)

if TYPE_CHECKING:
  from charlm.reporting.types import Numbers

_SECONDS_BETWEEN_LOOKS = 5.0  # of --follow, for new metrics
# Of reports that are no pages.
_BEGINNINGS = (b'{"groups"', b"text,sorted by", b"% charlm", b"<!-- charlm")


@dataclasses.dataclass(frozen=True)
class ReportOptions(ModelOptions):
  """The flags."""

  run_dir: str = option(
    "runs",
    "folders of runs, at any depth, or globs, separated by commas; english",
    UTF8,
    group="The run",
  )
  baseline: str = option(
    "",
    "a run or a setting with which the others are compared; default: the best",
    group="The report",
  )
  score: str = option(
    "auto",
    "models to load for samples and coloured text: none, best (of each eval "
    "text), or all; auto: a single run's, or the best with --text or "
    "--checkpoint",
    one_of("auto", "none", "best", "all"),
  )
  text: str | None = option(
    None,
    "text that is coloured by the loss of its characters, as train.py's "
    "--corpus; default: the eval text",
  )
  corpus: str | None = option(
    None, "corpus of the best run of the first eval text; adds baselines"
  )
  format: str = option(
    "html",
    "html: a page; json: all numbers; csv, latex, markdown: the table",
    one_of("html", "json", "csv", "latex", "markdown"),
  )
  output: str | None = option(
    None,
    "file to write, new or an earlier report; default: report.html, or stdout "
    "for other formats",
    PATH,
  )
  follow: bool = option(
    False, "write the page anew while the runs train", group="During training"
  )
  idle_timeout: float = option(
    600.0,
    "with --follow: seconds to wait for new metrics",
    NOT_NEGATIVE,
  )


def main(argv: list[str]) -> int:
  """Reports; returns the exit code."""
  return run_command(
    command=lambda given: report(ReportOptions(**given)),
    options=ReportOptions,
    argv=argv,
    usage=__doc__,
    unnamed="run_dir",
  )


def report(options: ReportOptions) -> int:
  """Reports as the flags say; returns the exit code.

  Raises:
    InputError: bad input.
  """
  output = options.output or ("report.html" if options.format == "html" else "")
  if output:
    _check_output(Path(output))
  runs, left_out = find_runs(options.run_dir)
  for line in left_out:
    warn(f"left out: {line}")
  if options.follow:
    sizes = functools.partial(metrics_sizes, options.run_dir)
    for _ in when_changed(sizes, options.idle_timeout, _SECONDS_BETWEEN_LOOKS):
      runs, left_out = find_runs(options.run_dir)
      _write(output, _report(options, runs, left_out, reloads=True))
    warn(f"no new metrics in {options.idle_timeout:g} seconds: --follow ends")
  _write(output, _report(options, runs, left_out))
  return DONE


def _write(output: str, text: str) -> None:
  """Writes a report to a file, and says so, or to stdout."""
  if output:
    write_atomically(Path(output), [text.encode()])
  print(output or text, end="\n" if output else "", flush=True)


def _report(
  options: ReportOptions,
  runs: list[Run],
  left_out: list[str],
  *,
  reloads: bool = False,
) -> str:
  """Returns the report in its format."""
  try:
    import_quietly("scipy.stats")
  except ModuleNotFoundError as error:
    raise InputError(
      f"{error.name} is missing: pip install -e '.[report]'"
    ) from error
  from charlm.reporting.page import page
  from charlm.reporting.rows import group_runs
  from charlm.reporting.tables import to_csv, to_latex, to_markdown

  names = short_names([str(run.path) for run in runs])
  opened = dict(zip(names, runs, strict=True))
  groups = group_runs(
    [read_run(run, name) for name, run in opened.items()], options.baseline
  )
  tables = {"csv": to_csv, "latex": to_latex, "markdown": to_markdown}
  if options.format in tables:
    return tables[options.format](groups)
  numbers: Numbers = {"groups": groups, "left_out": left_out, "scored": []}
  best = [group["runs"][0]["name"] for group in groups]
  if options.corpus is not None:
    _add_baselines(numbers, options.corpus, opened[best[0]])
  which = options.score
  asked = options.text is not None or options.checkpoint != "auto"
  if which == "auto" and (len(runs) == 1 or asked):
    which = "best"
  if which in ("best", "all"):
    scored = names if which == "all" else best
    _add_scores(numbers, options, {name: opened[name] for name in scored})
  if options.format == "json":
    return json.dumps(numbers) + "\n"
  return page(numbers, reloads=reloads)


def _add_baselines(numbers: "Numbers", corpus: str, run: Run) -> None:
  """Adds n-grams, xz, and the share of copied text.

  Raises InputError: this is not the run's corpus.
  """
  loaded = load_corpus(run.config, corpus)
  if loaded.sha256 != run.experiment.corpus_sha256:
    raise InputError(
      f"{corpus} is not the corpus of {run.path}: give the corpus of that run"
    )
  train, text = train_text(loaded.text, run.config), run.eval_text()
  numbers["baselines"] = baselines(
    str(train), str(text), vocab=run.vocab, encoding=train.encoding
  )
  best = numbers["groups"][0]["runs"][0]
  if best["eval_loss"] is not None:
    numbers["baselines"].append(
      {
        "name": best["name"],
        "nats": best["eval_loss"],
        "num_bytes": 4 * (best["num_weights"] or 0),  # float32
      }
    )
  (copied,) = find_passages([str(text)], train)
  numbers["memorised"] = copied.share


def _add_scores(
  numbers: "Numbers", options: ReportOptions, runs: dict[str, Run]
) -> None:
  """Adds scores, samples and the coloured text of runs, by their models.

  Warns of those that cannot be scored; raises InputError if the first cannot.
  """
  import_quietly("tensorflow", "keras")  # takes seconds
  from charlm.model.layers import import_layer
  from charlm.reporting.scored import MAX_SHOWN, score_run
  from charlm.system.devices import choose_device

  choose_device(options.device)
  layer = import_layer(options.layer)
  first, *_ = runs
  shown = _shown_text(options.text, runs[first])
  expected = []
  for name, run in runs.items():
    reads_alike = _reading(run) == _reading(runs[first])
    if not reads_alike:
      warn(f"{name} reads texts unlike {first}: it is not in the coloured text")
    try:
      scored, expectations = score_run(
        run,
        name=name,
        checkpoint=options.checkpoint,
        shown=shown if reads_alike else None,
        layer=layer,
      )
    except InputError as error:
      prefix = "" if str(error).startswith(str(run.path)) else f"{run.path}: "
      if name == first:
        raise InputError(f"{prefix}{error}") from error
      warn(f"not scored: {prefix}{error}")
      continue
    numbers["scored"].append(scored)
    expected += [expectations] if expectations else []
  numbers["heat_map"] = {
    "name": options.text or f"the eval text of {first}",
    "text": str(shown.part(0, MAX_SHOWN)),
    "num_characters": len(shown),
    "runs": expected,
  }


def _reading(run: Run) -> tuple[str, bool, bool]:
  """Returns the settings that decide how a run reads texts."""
  config = run.config
  return config.encoding, config.keeps_text, config.lowercase


def _shown_text(text: str | None, run: Run) -> Text:
  """Returns the coloured text, by default the run's eval text.

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
    if start and not page and not start.startswith(_BEGINNINGS):
      raise InputError(f"{path} is not a report: give another --output")


if __name__ == "__main__":
  sys.exit(main(sys.argv))
