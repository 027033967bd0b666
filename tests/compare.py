"""Compares the results of the working directory with those of a commit.

    python tests/compare.py 15b8925
    python tests/compare.py 15b8925 --samples --only adam muon

It trains and scores tiny runs on this machine, first with the code of the
commit, then with that in the working directory. Both must have the same
variables in the newest and in the best checkpoint, the same metrics, and the
same scores, bit by bit, or to 1e-6 where XLA compiles. Otherwise the exit code
is 1.
"""

import argparse
import io
import json
import math
import pathlib
import random
import subprocess
import sys
import tarfile
import tempfile
from typing import Any

import numpy as np

from charlm.system.process import import_quietly

_ROOT = pathlib.Path(__file__).resolve().parent.parent
# All flags that a run depends on, so that no default matters. Each corpus is
# named after its number of letters.
_FLAGS = (
  "--corpus={corpora}/30.txt --eval_lines=30 --valid_lines=30 --seq_length=20 "
  "--batch_size=24 --embedding_dim=8 --rnn_units=16 --num_layers=1 --seed=1 "
  "--optimizer=adam --learning_rate=0.01 --epochs=9 --max_steps=60 --gru=fused "
  "--device=cpu --num_replicas=1 --eval_every_steps=30 "
  "--checkpoint_every_steps=30 --summary_every_steps=10 "
)
_RUNS = {
  "adam": "",
  "muon": "--optimizer=muon --weight_decay=0.1 --carry_state --reset_rate=0.05",
  "bfloat16": "--precision=bfloat16",
  "dropout": "--dropout_rate=0.2 --num_layers=2",
  "large_vocabulary": "--corpus={corpora}/600.txt",
  # 64 x 100 x 6,000 logits are more than 2^25.
  "chunked_logits": "--corpus={corpora}/6000.txt --batch_size=64 "
  "--seq_length=100 --max_steps=6 --eval_every_steps=3",
  "keras_gru": "--gru=keras",
  "few_windows": "--batch_size=8",
  "two_replicas": "--num_replicas=2",
  "clipping": "--clip_norm=0.1 --schedule=cosine --warmup_steps=10",
}
_SCORES = (
  "eval.py --json --checkpoint=latest --protocol=stream",
  "eval.py --json --checkpoint=latest --protocol=windows --window=64",
  "eval.py --json --checkpoint=latest --protocol=lines",
  "eval.py --json --checkpoint=latest --protocol=stream --dynamic",
  "eval.py --json --checkpoint=best --protocol=stream",
)
_SAMPLES = (
  "sample.py --checkpoint=latest --seed=1 --num_chars=200 --num_samples=3",
  "sample.py --checkpoint=latest --seed=1 --num_chars=200 --top_p=0.9",
)
# One process for all commands, since importing TensorFlow takes longest.
_RUN_COMMANDS = """
import contextlib, importlib, io, json, sys
for line in sys.stdin:
  argv, file = line.split(), io.TextIOWrapper(io.BytesIO(), "utf-8")
  with contextlib.redirect_stdout(file):
    code = importlib.import_module(argv[0].removesuffix(".py")).main(argv)
  file.flush()
  if code:
    sys.exit(f"exit code {code}: {line}")
  print(json.dumps(file.buffer.getvalue().decode("utf-8")))
"""
_TOLERANCE = 1e-6  # where XLA compiles
_COMPILED_RUN = "few_windows"
_COMPILED = ("scores", "metrics of valid")  # of any run
Numbers = dict[str, dict[str, Any]]  # by part of the comparison, then by name


def measure(
  tree: pathlib.Path, folder: pathlib.Path, names: list[str], samples: bool
) -> dict[str, Numbers]:
  """Trains and scores runs with the code in `tree`; returns their numbers."""
  numbers: dict[str, Numbers] = {name: {} for name in names}
  for name in names:
    print(f"{folder.name}: {name}", file=sys.stderr, flush=True)
    flags = (_FLAGS + _RUNS[name]).format(corpora=folder.parent).split()
    command = [sys.executable, "train.py", f"--run_dir={folder / name}", *flags]
    subprocess.run(command, cwd=tree, stdout=subprocess.DEVNULL, check=True)
    _read_variables(folder / name, numbers[name])
    _read_metrics(folder / name, numbers[name])
  print(f"{folder.name}: scores", file=sys.stderr, flush=True)
  commands = [*_SCORES, *(_SAMPLES if samples else ())]
  calls = [(name, command) for name in names for command in commands]
  printed = subprocess.run(
    [sys.executable, "-c", _RUN_COMMANDS],
    cwd=tree,
    input="".join(
      f"{c} --device=cpu --run_dir={folder / n}\n" for n, c in calls
    ),
    stdout=subprocess.PIPE,
    text=True,
    check=True,
  ).stdout
  for (name, command), line in zip(calls, printed.splitlines(), strict=True):
    out = json.loads(line)
    if command in _SAMPLES:
      numbers[name].setdefault("samples", {})[command] = out
    else:
      score = json.loads(out)
      del score["protocol"]  # a description
      score.pop("interval", None)  # older commits have one
      scores = {f"{command} {key}": value for key, value in score.items()}
      numbers[name].setdefault("scores", {}).update(scores)
  return numbers


def _write_corpus(folder: pathlib.Path, num_letters: int, size: int) -> None:
  """Writes each letter once, then random letters by Zipf's law, in lines."""
  letters = [chr(0x4E00 + i) for i in range(num_letters)]
  weights = [1 / (i + 1) for i in range(num_letters)]
  text = "".join(letters + random.Random(0).choices(letters, weights, k=size))
  lines = [text[i : i + 40] + "\n" for i in range(0, len(text), 40)]
  (folder / f"{num_letters}.txt").write_text("".join(lines), "utf-8")


def _read_variables(run_dir: pathlib.Path, numbers: Numbers) -> None:
  import_quietly("tensorflow")
  import tensorflow as tf

  for index in [
    *run_dir.glob("checkpoints/*.index"),
    *run_dir.glob("best/*.index"),
  ]:
    reader = tf.train.load_checkpoint(str(index.with_suffix("")))
    for name in reader.get_variable_to_shape_map():
      part = name.split("/")[0]
      if part.startswith("_") or part == "save_counter":
        continue
      if name.startswith("train_state/best_loss"):  # comes from an evaluation
        part = "scores"
      key = f"{index.parent.name}/{index.stem}/{name}"
      numbers.setdefault(part, {})[key] = reader.get_tensor(name)


def _read_metrics(run_dir: pathlib.Path, numbers: Numbers) -> None:
  from charlm.runs.records import read_records

  for record in read_records(run_dir / "metrics.jsonl"):
    split, names = record["split"], {"loss"}
    if split == "train":
      names = record.keys() - {"seconds", "characters_per_second", "time"}
    # The eval text is compared by its scores.
    for name in names if split != "eval" else ():
      key = f"step {record['step']} {name}"
      numbers.setdefault(f"metrics of {split}", {})[key] = record[name]


def difference(one: Any, other: Any) -> float:
  """Returns the largest difference, relative to the largest value of `one`.

  It is infinity if the types or shapes differ, or a number is not finite.
  """
  x, y = np.asarray(one), np.asarray(other)
  if (x.dtype, x.shape, x.tobytes()) == (y.dtype, y.shape, y.tobytes()):
    return 0.0
  if x.dtype != y.dtype or x.shape != y.shape or x.dtype.kind not in "fiu":
    return math.inf
  x, y = x.astype(np.float64), y.astype(np.float64)
  largest = np.abs(x - y).max() / np.abs(x).max()
  return float(largest) if np.isfinite(largest) else math.inf


def compare(name: str, base: Numbers, now: Numbers) -> bool:
  """Prints the rows of a run; returns whether all differences are allowed."""
  good = True
  for part in sorted(base.keys() | now.keys()):
    one, other = base.get(part, {}), now.get(part, {})
    compiled = name == _COMPILED_RUN or part in _COMPILED
    differences = {k: difference(one.get(k), other.get(k)) for k in one | other}
    worst = max(differences, key=lambda key: differences[key])
    largest = differences[worst]
    allowed = largest <= (_TOLERANCE if compiled else 0)
    good &= allowed
    verdict = f"{largest:.1e} {'allowed' if allowed else 'DIFFERS'}: {worst}"
    print(f"{name:17} {part:17} {verdict if largest else 'equal'}")
  return good


def main(argv: list[str]) -> int:
  """Compares; returns the exit code."""
  parser = argparse.ArgumentParser("compare.py")
  parser.add_argument("base", help="a commit")
  parser.add_argument("--only", nargs="+", choices=_RUNS, default=[*_RUNS])
  parser.add_argument("--samples", action="store_true", help="compare samples")
  args = parser.parse_args(argv[1:])
  archive = ["git", "-C", _ROOT, "archive", args.base]
  code = subprocess.run(archive, stdout=subprocess.PIPE, check=True).stdout
  with tempfile.TemporaryDirectory() as temporary:
    folder = pathlib.Path(temporary)
    with tarfile.open(fileobj=io.BytesIO(code)) as file:
      file.extractall(folder / "code", filter="data")
    for num_letters, size in ((30, 12_000), (600, 12_000), (6000, 40_000)):
      _write_corpus(folder, num_letters, size)
    base = measure(folder / "code", folder / "base", args.only, args.samples)
    now = measure(_ROOT, folder / "now", args.only, args.samples)
  good = [compare(name, base[name], now[name]) for name in args.only]
  return 0 if all(good) else 1


if __name__ == "__main__":
  sys.exit(main(sys.argv))
