"""Programs on GPUs that compute nothing (tests/gpu/null/README.md)."""

import importlib.util
import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest
from helpers import ROOT

_NULL = ROOT / "tests" / "gpu" / "null"
_TRAIN = (
  *("train.py", "--device=gpu", "--epochs=9", "--max_steps=12"),
  *("--eval_chars=300", "--valid_chars=300", "--warmup_steps=2"),
  *("--seq_length=20", "--batch_size=8", "--rnn_units=16"),
)


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  """The folder with the libraries that compute nothing."""
  if not shutil.which("gcc"):
    pytest.skip("there is no C compiler")
  if not importlib.util.find_spec("nvidia"):
    pytest.skip("CUDA's wheels are not installed")
  folder = tmp_path_factory.mktemp("null")
  subprocess.run([sys.executable, _NULL / "build.py", folder], check=True)
  return folder


def _run(libraries: pathlib.Path, cards: int, *command: str) -> str:
  variables = {
    "LD_LIBRARY_PATH": str(libraries),
    "NULL_CARDS": str(cards),
    "PYTHONPATH": f"{ROOT}:{_NULL}",
  }
  done = subprocess.run(
    [sys.executable, *command],
    capture_output=True,
    text=True,
    env=os.environ | variables,
    cwd=ROOT,
    timeout=900,
  )
  assert done.returncode == 0, done.stderr
  return done.stdout


@pytest.mark.release
@pytest.mark.parametrize("cards", [1, 2])
@pytest.mark.parametrize(
  "flags",
  [
    ("--recipe=fast",),
    ("--recipe=best", "--layer=lstm"),
    ("--recipe=fast", "--gru=fused"),
    ("--recipe=fast", f"--layer={ROOT}/examples/mingru.py:MinGRU"),
  ],
  ids=" ".join,
)
def test_all_programs_run_on_one_and_two_cards(
  cards: int,
  flags: tuple[str, ...],
  libraries: pathlib.Path,
  corpus_path: pathlib.Path,
  tmp_path: pathlib.Path,
) -> None:
  run = f"--run_dir={tmp_path / 'run'}"
  more = (run, f"--corpus={corpus_path}", f"--num_replicas={cards}", *flags)
  printed = _run(libraries, cards, *_TRAIN, *more)
  assert f"GPU ({cards} x a card that computes nothing)" in printed
  assert "trained to step 12" in printed
  _run(libraries, cards, *_TRAIN, *more)
  starts = (tmp_path / "run" / "starts.jsonl").read_text().splitlines()
  assert [json.loads(start)["step"] for start in starts] == [0, 12]
  layer = [flag for flag in flags if ".py" in flag]
  for protocol in ("stream", "windows", "lines"):
    protocol = f"--protocol={protocol}"
    _run(libraries, 1, "eval.py", "--device=gpu", run, protocol, *layer)
  samples = ("--num_samples=9", "--num_chars=9")
  _run(libraries, 1, "sample.py", "--device=gpu", run, *samples, *layer)


@pytest.mark.release
def test_no_check_of_the_gpu_fails(libraries: pathlib.Path) -> None:
  printed = _run(libraries, 2, "-m", "benchmarks.gpu_check")
  # Keras builds its vocabulary on the card, from garbage.
  assert "failed" not in printed.replace("Keras (the reference) failed", "")
