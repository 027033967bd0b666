"""Trains the settings of a table on its texts, and compares them.

    .venv/bin/python -m benchmarks.trials results/other.toml --jobs 2

A table is a file such as

    texts = ["novels-100k", "stdlib-300k"]
    seeds = 3
    scores = ["stream"]  # how the eval text is scored, or nothing
    baselines = true     # n-grams and xz, too
    [settings]
    now = "--recipe=auto"
    lstm = "--recipe=auto --layer=lstm --rnn_units=270"

The first setting is the one that the others are compared with. A text is
`shakespeare`, `tinyshakespeare`, or a name of `benchmarks/texts.py`. Each text
and setting is trained with each seed below `seeds`. What was measured is
appended to the file with the suffix `.jsonl`, a run a line, and not measured
again; a training that was stopped is resumed.
"""

import argparse
import concurrent.futures
import dataclasses
import json
import math
import os
import pathlib
import queue
import re
import statistics
import subprocess
import sys
import threading
import tomllib
from collections.abc import Sequence
from typing import Any

import charlm
from charlm.system.process import import_quietly

import_quietly("tensorflow", "keras")
import numpy as np

from benchmarks import machine, texts
from benchmarks.tables import table
from charlm.data.corpus import load_corpus
from charlm.data.passages import find_passages
from charlm.data.split import train_text
from charlm.data.vocabulary import SPECIAL, extend_vocab
from charlm.evaluation.ngram import baselines
from charlm.evaluation.score import student_quantile
from charlm.runs.metrics import read_records
from charlm.runs.provenance import describe_start
from charlm.runs.run import open_run
from charlm.system.flags import parse
from charlm.training.options import TrainOptions
from charlm.training.prepare import prepare

ROOT = pathlib.Path(__file__).resolve().parents[1]
_PROTOCOLS = {
  "stream": [],
  "windows": ["--protocol=windows", "--window=256"],
  "lines": ["--protocol=lines"],
  "dynamic": ["--dynamic"],
}
# The parts of the eval text that are in passages of the train text, and not.
_COPIED, _NEW = "copied", "new"
_DIVERGED = 3  # the exit code
_READ_BY_BASELINES = 20_000_000  # characters at the end of the train text
_WRITING = threading.Lock()

Record = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Table:
  """Which runs there are to be, and what was measured of them."""

  path: pathlib.Path
  texts: list[str]
  settings: dict[str, str]  # flags of train.py, by a name
  seeds: int = 1
  scores: tuple[str, ...] = ()
  baselines: bool = False

  @classmethod
  def read(cls, path: pathlib.Path) -> "Table":
    """Reads a file of TOML."""
    return cls(path, **tomllib.loads(path.read_text()))

  @property
  def records_path(self) -> pathlib.Path:
    """Where the records are."""
    return self.path.with_suffix(".jsonl")

  def records(self) -> list[Record]:
    """Returns what was measured of this table's texts and settings."""
    if not self.records_path.exists():
      return []
    lines = self.records_path.read_text().splitlines()
    found = [json.loads(line) for line in lines]
    return [x for x in found if x["text"] in self.texts]

  def missing(self) -> list[tuple[str, str, int]]:
    """Lists text, setting and seed of what was not measured, by seed first."""
    done = {(x["text"], x["setting"], x["seed"]) for x in self.records()}
    runs = [
      (text, setting, seed)
      for seed in range(self.seeds)
      for text in self.texts
      for setting in self.settings
    ]
    return [run for run in runs if run not in done]

  def keep(self, record: Record) -> None:
    """Appends a record."""
    with _WRITING, self.records_path.open("a") as file:
      file.write(json.dumps(record) + "\n")


def measure(
  plan: Table,
  *,
  text: str,
  setting: str,
  seed: int,
  folder: pathlib.Path,
  core: int,
) -> Record:
  """Trains a run on one core, or resumes it, and scores it."""
  run_dir = folder / "runs" / plan.path.stem / text / f"{setting}-{seed}"
  flags = plan.settings[setting].split()

  def call(program: str, *more: str) -> str:
    """Runs a program of charlm on the core; returns what it prints."""
    command = ["taskset", "-c", str(core), sys.executable, program, *more]
    command += [f"--run_dir={run_dir}", "--device=cpu"]
    return subprocess.run(
      command, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT
    ).stdout

  record: Record = {
    "text": text,
    "setting": setting,
    "seed": seed,
    "flags": plan.settings[setting],
    "commit": describe_start(0, [])["commit"],
    "machine": machine.in_words(machine.describe() | {"cores": 1}),
  }
  try:
    said = call(
      "train.py",
      f"--corpus={path_of(text, folder)}",
      f"--seed={seed}",
      "--num_replicas=1",
      *flags,
    )
  except subprocess.CalledProcessError as error:
    if error.returncode != _DIVERGED:
      raise
    return record | {"valid": math.inf}
  records = read_records(open_run(run_dir).metrics_path)
  losses = [x["loss"] for x in records if x["split"] == "valid"]
  (weights,) = re.findall(r"^model .* (\S+) weights$", said, re.M)
  layer = [flag for flag in flags if ".py:" in flag]
  scores = {
    name: json.loads(call("eval.py", "--json", *_PROTOCOLS[name], *layer))[
      "log_perplexity"
    ]
    for name in plan.scores
    if name in _PROTOCOLS
    # The valid text chooses its rate.
    and (losses or name != "dynamic")
  }
  if _NEW in plan.scores:
    scores |= _losses_by_copying(run_dir)
  return record | {
    "weights": int(weights.replace(",", "")),
    "minutes": max(x.get("seconds", 0) for x in records) / 60,
    "valid": min(losses) if losses else None,
    "scores": scores,
  }


def _losses_by_copying(run_dir: pathlib.Path) -> dict[str, float]:
  """Returns the losses of characters in passages of the train text, and not."""
  run = open_run(run_dir)
  corpus = load_corpus(run.config, run.config.corpus)
  text = run.eval_text()
  (found,) = find_passages([str(text)], train_text(corpus.text, run.config))
  copied = np.zeros(len(text), bool)
  for start, length, _ in found.passages:
    copied[start : start + length] = True
  nats = charlm.load(str(run_dir), device="cpu").score([text])[0].nats
  copied = copied[1:]  # the first character is not scored
  return {
    _COPIED: float(nats[copied].mean()),
    _NEW: float(nats[~copied].mean()),
    "share copied": float(copied.mean()),
  }


def measure_baselines(plan: Table, text: str, folder: pathlib.Path) -> None:
  """Keeps the scores of n-grams and of xz, on the first setting's split."""
  flags = next(iter(plan.settings.values())).split()
  flags += [f"--corpus={path_of(text, folder)}", f"--run_dir={folder}/none"]
  prepared = prepare(parse(flags, TrainOptions))
  train, scored = prepared.split.train, prepared.split.eval
  size = len(train)
  read = train.part(max(0, size - _READ_BY_BASELINES), size)
  vocab = extend_vocab(SPECIAL, prepared.corpus.text.characters)
  *ngrams, xz = baselines(
    str(read), str(scored), vocab=vocab, encoding=train.encoding
  )
  for found in (min(ngrams, key=lambda each: each["nats"]), xz):
    plan.keep(
      {
        "text": text,
        "setting": found["name"],
        "seed": None,
        "characters": size,
        "scores": {"stream": found["nats"]},
      }
    )


def to_markdown(plan: Table) -> str:
  """Returns the table: of each text and setting, the means over the seeds."""
  found = plan.records()
  scores = [
    name
    for name in plan.scores
    if any(name in record.get("scores", {}) for record in found)
  ]
  rows = []
  for text in plan.texts:
    here = [record for record in found if record["text"] == text]
    others = (record["setting"] for record in here)  # n-grams and xz
    for setting in dict.fromkeys([*plan.settings, *others]):
      runs = [record for record in here if record["setting"] == setting]
      if not runs:
        continue
      minutes = [run["minutes"] for run in runs if "minutes" in run]
      cells = [text, setting]
      cells.append(f"{runs[0]['weights']:,}" if "weights" in runs[0] else "")
      cells.append("" if runs[0]["seed"] is None else str(len(runs)))
      cells.append(_mean_and_range([run.get("valid") for run in runs]))
      for name in scores:
        losses = [run.get("scores", {}).get(name) for run in runs]
        cells.append(_mean_and_range(losses))
      cells.append(f"{statistics.median(minutes):.1f}" if minutes else "")
      rows.append(cells)
  header = ("text", "setting", "weights", "seeds", "valid", *scores, "minutes")
  return table(header, rows)


def verdicts(plan: Table) -> list[str]:
  """Compares each setting with the first one, in pairs of text and seed."""
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
      lines.append(f"{other}: a training diverged")
    elif len(differences) > 1:
      mean = statistics.mean(differences)
      error = statistics.stdev(differences) / math.sqrt(len(differences))
      half = student_quantile(len(differences) - 1) * error
      lines.append(
        f"{other} - {first}: {mean:+.4f} (95 % interval {mean - half:+.4f} to "
        f"{mean + half:+.4f}), {len(differences)} pairs of text and seed"
      )
  return lines


def _mean_and_range(losses: Sequence[float | None]) -> str:
  known = [loss for loss in losses if loss is not None]
  if not known:
    return ""
  mean = f"{statistics.mean(known):.4f}"
  if len(known) == 1:
    return mean
  return f"{mean} ({min(known):.4f} to {max(known):.4f})"


def path_of(text: str, folder: pathlib.Path) -> pathlib.Path:
  """Returns the file of a text, which may be fetched into the folder."""
  if "-" in text:
    return texts.make(text, folder)
  return ROOT.parent / "shared" / "data" / f"{text}.txt"


def main(argv: list[str]) -> int:
  """Measures what is missing, and prints the table; returns the exit code."""
  parser = argparse.ArgumentParser("trials", description=__doc__)
  parser.add_argument("table", type=pathlib.Path)
  parser.add_argument("--jobs", type=int, default=1, help="one core for each")
  parser.add_argument(
    "--folder",
    type=pathlib.Path,
    default=ROOT / "runs" / "texts",
    help="where texts and runs are kept",
  )
  args = parser.parse_args(argv[1:])
  plan, folder = Table.read(args.table), args.folder.resolve()
  for text in plan.texts:
    path_of(text, folder)  # before two trainings fetch it at once
    known = any(x["text"] == text and x["seed"] is None for x in plan.records())
    if plan.baselines and not known:
      measure_baselines(plan, text, folder)
  cores: queue.SimpleQueue[int] = queue.SimpleQueue()
  for core in sorted(os.sched_getaffinity(0))[: args.jobs]:
    cores.put(core)

  def train(text: str, setting: str, seed: int) -> None:
    """Measures one run on a core that is free."""
    core = cores.get()
    try:
      print(f"{text}, {setting}, seed {seed}", file=sys.stderr)
      plan.keep(
        measure(
          plan,
          text=text,
          setting=setting,
          seed=seed,
          folder=folder,
          core=core,
        )
      )
    finally:
      cores.put(core)

  with concurrent.futures.ThreadPoolExecutor(cores.qsize()) as pool:
    for future in [pool.submit(train, *run) for run in plan.missing()]:
      future.result()
  print(to_markdown(plan))
  print("\n".join(verdicts(plan)))
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv))
