"""Trains on texts of other kinds, sizes, and writing systems; scores them.

    .venv/bin/python -m benchmarks.other_texts --only kjv-100k quran-300k

A text is trained with one replica by `--recipe=auto`, by the defaults of
`train.py`, and by the settings that were the best of the trials in
`recipes/LOG.md`. `--minutes` times `--recipe=auto` instead. What was measured
is kept as JSON in `results/other/`, for the table of `results/README.md`.
"""

import argparse
import pathlib
import shutil
import sys
import time
from typing import Any

from benchmarks import machine, texts
from benchmarks.trainings import (
  ROOT,
  call,
  eval_loss,
  keep,
  lowest_valid_loss,
  read,
  train,
)
from charlm.config import Config
from charlm.data.split import load_texts
from charlm.data.vocabulary import SPECIAL, extend_vocab
from charlm.evaluation.ngram import baselines

OTHER = ROOT / "results" / "other"
# Characters of the train text that n-grams and xz read.
_READ_BY_BASELINES = 20_000_000
_NAMES_BY_SIZE = {
  "100k": ("kjv", "stdlib", "quran"),
  "300k": ("kjv", "stdlib", "quran"),
  "1M": ("kjv", "stdlib", "dictionary"),
  "10M": ("stdlib", "dictionary", "linux"),
  "100M": ("linux",),
}
NAMES = [
  f"{name}-{size}" for size, names in _NAMES_BY_SIZE.items() for name in names
]
# The best settings of the trials, by the valid text, where they are not the
# recipe's.
_MUON = (
  "--optimizer=muon --learning_rate=0.012 --schedule=cosine --warmup_steps=50 "
  "--clip_norm=1 --precision=bfloat16 --num_layers=2 --rnn_units=312 "
  "--embedding_dim=64 --carry_state --reset_rate=0.1 --seq_length=100 "
  "--batch_size=16"
)
_BEST_FOUND = {
  "stdlib-100k": f"{_MUON} --epochs=25 --dropout_rate=0.2 --weight_decay=1",
  "quran-100k": f"{_MUON} --epochs=25 --dropout_rate=0.1 --weight_decay=2",
  "stdlib-300k": f"{_MUON} --epochs=20 --dropout_rate=0.1 --weight_decay=0.5",
  "quran-300k": f"{_MUON} --epochs=20 --dropout_rate=0.1 --weight_decay=1",
}


def measure(name: str, folder: pathlib.Path) -> dict[str, Any]:
  """Trains by each setting, and scores; returns what came of it."""
  path = texts.make(name, folder)
  settings = {"auto": "--recipe=auto"}
  if not name.endswith("100M"):  # ten epochs would take a day
    settings["defaults"] = "--valid_lines=-1"
  if name in _BEST_FOUND:
    settings["best_found"] = f"--valid_lines=-1 {_BEST_FOUND[name]}"
  runs = {}
  for setting, flags in settings.items():
    run_dir = folder / "runs" / name / setting
    train(run_dir, f"--corpus={path}", *flags.split())
    runs[setting] = {
      "flags": flags,
      "loss": eval_loss(run_dir),
      "valid_loss": lowest_valid_loss(run_dir),
    }
  config = Config(corpus=str(path), valid_lines=-1)
  corpus, split = load_texts(config)
  num_characters = len(split.train)
  first = max(0, num_characters - _READ_BY_BASELINES)
  vocab = extend_vocab(SPECIAL, corpus.text.characters)
  scored = baselines(
    str(split.train.part(first, num_characters)),
    str(split.eval),
    vocab=vocab,
    encoding=split.train.encoding,
  )
  ngram = min(scored[:-1], key=lambda baseline: baseline["nats"])
  return {
    "machine": machine.describe(),
    "num_characters": num_characters,
    "vocabulary": len(vocab),
    "settings": runs,
    "ngram": [ngram["name"], ngram["nats"]],
    "xz": scored[-1]["nats"],
  }


def time_auto(name: str, folder: pathlib.Path) -> dict[str, Any]:
  """Returns the minutes that `--recipe=auto` takes on all cores."""
  path = texts.make(name, folder)
  run_dir = folder / "runs" / name / "timed"
  shutil.rmtree(run_dir, ignore_errors=True)  # of another measurement
  start = time.perf_counter()
  call("train.py", f"--corpus={path}", f"--run_dir={run_dir}", "--recipe=auto")
  return {"minutes": (time.perf_counter() - start) / 60}


def main(argv: list[str]) -> int:
  """Measures and writes; returns the exit code."""
  parser = argparse.ArgumentParser("other_texts.py", description=__doc__)
  parser.add_argument("--only", nargs="*", choices=NAMES, default=NAMES)
  parser.add_argument("--minutes", action="store_true")
  parser.add_argument(
    "--folder", type=pathlib.Path, default=ROOT / "runs" / "texts"
  )
  args = parser.parse_args(argv[1:])
  work = time_auto if args.minutes else measure
  for name in args.only:
    path = OTHER / f"{name}.json"
    result = read(path) or {"name": name}
    keep(path, result | work(name, args.folder.resolve()))
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv))
