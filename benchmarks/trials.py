"""Trains the settings of a table on its texts, and compares the losses.

    .venv/bin/python -m benchmarks.trials runs/lstm.toml --jobs 2

A table is a TOML file such as

    texts = ["novels-100k", "stdlib-300k"]
    seeds = 3
    scores = ["stream"]  # protocols for the eval text; may be left out
    baselines = true     # also score n-grams and xz
    [settings]
    now = "--recipe=auto --init_from="
    lstm = "--recipe=auto --layer=lstm --rnn_units=270"

All settings are compared with the first one. A text is `shakespeare`,
`tinyshakespeare`, or a name from `benchmarks/texts.py`. Every setting is
trained on every text with each seed below `seeds`. A file beside the table,
with the suffix `.jsonl`, gets a record of each run, which is not trained again
unless the setting's flags change: if a recipe, `models/english` or a text did,
delete its lines. Each of `--jobs` trainings has a core of its own. Ctrl-C stops
them, and the same command resumes them.
"""

import argparse
import concurrent.futures
import dataclasses
import functools
import hashlib
import itertools
import json
import math
import os
import pathlib
import re
import statistics
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import charlm
from charlm.system import process

process.import_quietly("tensorflow", "keras")
import numpy as np
from scipy import stats

from benchmarks import machine, texts
from benchmarks.task import markdown
from charlm.data.passages import find_passages
from charlm.data.split import Split
from charlm.data.vocabulary import SPECIAL, extend_vocab
from charlm.errors import DivergedError, InputError
from charlm.evaluation.ngram import baselines
from charlm.runs.records import read_records
from charlm.runs.run import open_run
from charlm.system.files import append_lines, read_json_lines
from charlm.system.flags import parse
from charlm.system.messages import warn
from charlm.training.options import TrainOptions
from charlm.training.prepare import Prepared, prepare

ROOT = pathlib.Path(__file__).resolve().parents[1]
_PROTOCOLS = {
  "stream": [],
  "windows": ["--protocol=windows", "--window=256"],
  "lines": ["--protocol=lines"],
  "dynamic": ["--dynamic"],  # the valid text chooses its learning rate
}
# Losses inside and outside passages of the train text, and the share inside.
_BY_COPYING = ("copied", "new", "share copied")
_FOLDER = ROOT / "runs" / "texts"  # of texts and runs
_READ_BY_BASELINES = 20_000_000  # characters at the end of the train text
_interrupted = threading.Event()  # Ctrl-C: no thread starts another program

Run = tuple[str, str, int]  # text, setting and seed
Record = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Table:
  """The runs to train, and their records."""

  path: pathlib.Path
  texts: list[str]
  settings: dict[str, str]  # flags of train.py by name
  seeds: int = 1
  scores: tuple[str, ...] = ()
  baselines: bool = False

  @classmethod
  def read(cls, path: pathlib.Path) -> "Table":
    """Reads a TOML file; raises InputError if it is not a table."""
    scores = (*_PROTOCOLS, *_BY_COPYING)
    try:
      plan = cls(path, **tomllib.loads(path.read_text()))
      if plan.seeds < 1 or not set(plan.scores) <= set(scores):
        raise InputError(f"give 1 seed or more, and scores of {scores}")
      # TOML takes every key below the heading for a setting.
      if {*map(type, plan.settings.values())} != {str}:
        raise InputError("[settings] comes last and gives flags to names")
    except (OSError, TypeError, ValueError) as error:
      raise InputError(f"{path}: {error}") from error
    return plan

  @property
  def records_path(self) -> pathlib.Path:
    """The file of the records."""
    return self.path.with_suffix(".jsonl")

  def records(self) -> list[Record]:
    """Returns the newest record of each run and baseline in the table.

    Leaves out those of flags that have changed. A baseline has the flags of the
    first setting, which split the text.
    """
    newest, first = {}, next(iter(self.settings.values()))
    for record in read_json_lines(self.records_path):
      text, setting, seed = (record[x] for x in ("text", "setting", "seed"))
      flags = first if seed is None else self.settings.get(setting)
      asked = seed is None or seed < self.seeds
      if text in self.texts and record["flags"] == flags and asked:
        newest[text, setting, seed] = record
    return list(newest.values())

  def missing(self) -> list[Run]:
    """Lists the runs without a record of all scores, by seed first."""
    scores = {*self.scores} - {"dynamic"}  # which not every run can have
    done = {
      (x["text"], x["setting"], x["seed"])
      for x in self.records()
      if scores <= {*x["scores"]}
    }
    runs = itertools.product(range(self.seeds), self.texts, self.settings)
    return [(x, y, seed) for seed, x, y in runs if (x, y, seed) not in done]

  def keep(self, records: Iterable[Record]) -> None:
    """Appends records to the file, all or none."""
    lines = "".join(f"{json.dumps(record)}\n" for record in records)
    append_lines(self.records_path, lines.encode())


def prepare_run(
  plan: Table, text: str, setting: str, folder: pathlib.Path
) -> Prepared:
  """Completes a setting's flags as train.py does; raises InputError."""
  path = ROOT.parent / "shared" / "data" / f"{text}.txt"
  flags = plan.settings[setting].split()
  try:
    if "-" in text:
      path = texts.make(text, folder)
    flags += [f"--corpus={path}", f"--run_dir={folder}/none"]
    given = parse(flags, TrainOptions)
    if "layer" in given:  # may be FILE:CLASS
      given["layer"] = given["layer"].rpartition(":")[2]
    return prepare(given)
  except Exception as error:  # also absl's
    raise InputError(f"{plan.path}: {text}, {setting}: {error}") from error


def measure(plan: Table, run: Run, folder: pathlib.Path, core: int) -> Record:
  """Trains a run on one core, or resumes it, and scores it."""
  text, setting, seed = run
  flags = plan.settings[setting]
  prepared = prepare_run(plan, text, setting, folder)
  config = prepared.options.config
  # A folder of its own: a resume would keep other flags, or an older recipe.
  digest = hashlib.sha256(repr((flags, config)).encode()).hexdigest()[:8]
  run_dir = folder / "runs" / plan.path.stem / text
  run_dir /= f"{setting}-{seed}-{digest}"

  def call(program: str, *more: str) -> str:
    """Runs a program of charlm on the core; returns its output."""
    command = ["taskset", "-c", str(core), sys.executable, program, *more]
    command += [f"--run_dir={run_dir}", "--device=cpu"]
    if _interrupted.is_set():
      raise InputError("interrupted")
    return subprocess.run(
      command, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT
    ).stdout

  record: Record = {"text": text, "setting": setting, "seed": seed}
  record["flags"] = flags
  record["machine"] = machine.in_words(cores=1)
  try:
    # A setting's own --seed would make all seeds one.
    fixed = f"--corpus={config.corpus}", f"--seed={seed}", "--num_replicas=1"
    output = call("train.py", *flags.split(), *fixed)
  except subprocess.CalledProcessError as error:
    if error.returncode != DivergedError.exit_code:
      raise
    scores = dict.fromkeys(plan.scores, math.inf)
    return record | {"valid": math.inf, "scores": scores}
  trained = open_run(run_dir)
  records = read_records(trained.metrics_path)
  losses = [x["loss"] for x in records if x["split"] == "valid"]
  (weights,) = re.findall(r"^model .* (\S+) weights$", output, re.M)
  layer = [flag for flag in flags.split() if ".py:" in flag]
  scores = {
    name: json.loads(call("eval.py", "--json", *_PROTOCOLS[name], *layer))[
      "log_perplexity"
    ]
    for name in plan.scores
    if name in _PROTOCOLS and (losses or name != "dynamic")
  }
  if set(_BY_COPYING).intersection(plan.scores):
    scores |= _losses_by_copying(prepared.split, run_dir)
  return record | {
    "commit": trained.starts()[0]["commit"],
    "weights": int(weights.replace(",", "")),
    "minutes": max((x.get("seconds", 0) for x in records), default=0) / 60,
    "valid": min(losses) if losses else None,
    "scores": scores,
  }


def _losses_by_copying(split: Split, run_dir: pathlib.Path) -> dict[str, float]:
  """Returns the scores of `_BY_COPYING`."""
  text = split.eval
  (shared,) = find_passages([str(text)], split.train)
  copied = np.zeros(len(text), bool)
  for start, length, _ in shared.passages:
    copied[start : start + length] = True
  nats = charlm.load(str(run_dir), device="cpu").score([text])[0].nats
  copied = copied[1:]  # the first character is not scored
  losses = nats[copied].mean(), nats[~copied].mean(), copied.mean()
  return dict(zip(_BY_COPYING, map(float, losses), strict=True))


def measure_baselines(plan: Table, text: str, folder: pathlib.Path) -> None:
  """Records the scores of n-grams and xz on the first setting's split."""
  first, flags = next(iter(plan.settings.items()))
  prepared = prepare_run(plan, text, first, folder)
  train, scored = prepared.split.train, prepared.split.eval
  read = train.part(max(0, len(train) - _READ_BY_BASELINES), len(train))
  vocab = extend_vocab(SPECIAL, prepared.corpus.text.characters)
  *ngrams, xz = baselines(
    str(read), str(scored), vocab=vocab, encoding=train.encoding
  )
  best = min(ngrams, key=lambda order: order["nats"])
  base = {"text": text, "seed": None, "flags": flags, "characters": len(train)}
  plan.keep(
    base | {"setting": x["name"], "scores": {"stream": x["nats"]}}
    for x in (best, xz)
  )


def to_markdown(plan: Table) -> str:
  """Returns the means over the seeds, a row for each text and setting."""
  records = plan.records()
  measured = {name for record in records for name in record["scores"]}
  scores = [name for name in plan.scores if name in measured]
  others = sorted(x["setting"] for x in records if x["seed"] is None)
  settings = [*plan.settings, *others]  # with n-grams and xz
  rows = []
  for text, setting in itertools.product(plan.texts, dict.fromkeys(settings)):
    runs = [x for x in records if (x["text"], x["setting"]) == (text, setting)]
    if not runs:
      continue
    minutes = [run["minutes"] for run in runs if "minutes" in run]
    cells = [text, setting]
    cells.append(f"{runs[0]['weights']:,}" if "weights" in runs[0] else "")
    cells.append("" if runs[0]["seed"] is None else str(len(runs)))
    cells.append(_mean_and_range([run.get("valid") for run in runs]))
    for name in scores:
      cells.append(_mean_and_range([run["scores"].get(name) for run in runs]))
    cells.append(f"{statistics.median(minutes):.1f}" if minutes else "")
    rows.append(cells)
  header = ["text", "setting", "weights", "seeds", "valid", *scores, "minutes"]
  return markdown([header, *rows])


def verdicts(plan: Table) -> list[str]:
  """Compares the valid losses with the first setting's, by text and seed."""
  valid = {
    (x["text"], x["setting"], x["seed"]): x.get("valid") for x in plan.records()
  }
  first, *others = plan.settings
  lines = []
  for other in others:
    differences = [
      loss - valid[text, first, seed]
      for (text, setting, seed), loss in valid.items()
      if setting == other and loss and valid.get((text, first, seed))
    ]
    if not all(map(math.isfinite, differences)):
      lines.append(f"{other} - {first}: a training diverged")
    elif len(differences) < 2:
      lines.append(f"{other} - {first}: fewer than 2 pairs")
    else:
      mean = statistics.mean(differences)
      low, high = stats.ttest_1samp(differences, 0).confidence_interval(0.95)
      lines.append(
        f"{other} - {first}: {mean:+.4f} (95 % interval {low:+.4f} to "
        f"{high:+.4f}), {len(differences)} pairs of text and seed"
      )
  return lines


def _mean_and_range(losses: Sequence[float | None]) -> str:
  known = [loss for loss in losses if loss is not None]
  mean = f"{statistics.mean(known):.4f}" if known else ""
  if len(known) < 2:
    return mean
  return f"{mean} ({min(known):.4f} to {max(known):.4f})"


def train_runs(
  plan: Table, runs: Iterator[Run], folder: pathlib.Path, core: int
) -> None:
  """Measures runs on a core until none is left; warns of those that fail."""
  for run in runs:
    name = "{}, {}, seed {}".format(*run)
    warn(name)
    try:
      plan.keep([measure(plan, run, folder, core)])
    except (InputError, subprocess.CalledProcessError) as error:
      warn(f"{name}: {error}")


def main(argv: list[str]) -> int:
  """Trains the missing runs, and prints the table; returns the exit code."""
  cores = sorted(os.sched_getaffinity(0))
  jobs = range(1, len(cores) + 1)
  parser = argparse.ArgumentParser("trials", description=__doc__)
  parser.add_argument("table", type=pathlib.Path)
  parser.add_argument("--jobs", type=int, default=1, choices=jobs)
  parser.add_argument("--folder", type=pathlib.Path, default=_FOLDER)
  args = parser.parse_args(argv[1:])
  folder = args.folder.resolve()
  try:
    plan = Table.read(args.table)
    missing = plan.missing()
    for text, setting in dict.fromkeys(run[:2] for run in missing):
      prepare_run(plan, text, setting, folder)  # refuses bad input at once
    known = {x["text"] for x in plan.records() if x["seed"] is None}
    for text in plan.texts if plan.baselines else ():
      if text not in known:
        measure_baselines(plan, text, folder)
    train = functools.partial(train_runs, plan, iter(missing), folder)
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
      try:
        list(pool.map(train, cores[: args.jobs]))
      except BaseException:
        missing.clear()
        _interrupted.set()
        raise
  except (InputError, OSError) as error:
    return process.fail("trials", error)
  except KeyboardInterrupt:
    return process.INTERRUPTED
  print("\n".join([to_markdown(plan), *verdicts(plan)]))
  if number := len(plan.missing()):
    warn(f"runs that failed: {number}; the same command tries them again")
  return process.INCOMPLETE if number else process.DONE


if __name__ == "__main__":
  sys.exit(main(sys.argv))
