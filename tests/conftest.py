"""What the tests share: logical CPU devices, small corpora and small runs.

The folders are those of the package, and `programs/` for the scripts. Read
first `programs/test_train.py`, what a run leaves; then
`training/test_trainer.py`, what a step computes; then
`programs/test_resume.py`, what survives stops and kills.
"""

import os
import pathlib
import random
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright

from charlm.system.process import import_quietly

import_quietly("tensorflow", "keras")
import tensorflow as tf
from helpers import EXPERIMENT, ROOT, SHARED_DATA, SPLIT, VOCAB, WORDS

from charlm.runs.run_dir import RunDir

# Before any test asks for a strategy: TensorFlow fixes its devices once.
tf.config.set_logical_device_configuration(
  tf.config.list_physical_devices("CPU")[0],
  [tf.config.LogicalDeviceConfiguration()] * 4,
)
assert len(tf.config.list_logical_devices("CPU")) == 4

# The default corpus is cached in the checkout, not in the user's home.
os.environ["XDG_CACHE_HOME"] = str(ROOT / ".pytest_cache" / "xdg")


@pytest.fixture(scope="session")
def shakespeare_path() -> pathlib.Path:
  """The corpus that the reference's published figures are about."""
  path = SHARED_DATA / "shakespeare.txt"
  if not path.exists():
    pytest.skip(f"{path} is not there")
  return path


@pytest.fixture(scope="session")
def lines() -> list[str]:
  """300 lines of words at random, about 9,000 characters."""
  rng = random.Random(0)
  return [" ".join(rng.choices(WORDS, k=rng.randint(3, 9))) for _ in range(300)]


@pytest.fixture(scope="session")
def corpus_path(
  lines: list[str], tmp_path_factory: pytest.TempPathFactory
) -> pathlib.Path:
  """The lines as a file."""
  path = tmp_path_factory.mktemp("corpus") / "small.txt"
  path.write_text("\n".join(lines) + "\n", encoding="utf-8")
  return path


@pytest.fixture(scope="session")
def train_args(corpus_path: pathlib.Path) -> list[str]:
  """Flags of `train.py` for a run of a second: 12 steps an epoch."""
  return [
    "train.py",
    f"--corpus={corpus_path}",
    "--eval_lines=50",
    "--seq_length=20",
    "--batch_size=24",
    "--embedding_dim=8",
    "--rnn_units=16",
    "--learning_rate=0.01",
    "--num_replicas=1",
    "--epochs=1",
  ]


@pytest.fixture(scope="session")
def trained_run(
  train_args: list[str], tmp_path_factory: pytest.TempPathFactory
) -> pathlib.Path:
  """A finished run; only to be read."""
  import train

  path = tmp_path_factory.mktemp("runs") / "trained"
  assert train.main([*train_args, f"--run_dir={path}", "--epochs=3"]) == 0
  return path


@pytest.fixture(scope="session")
def valid_run(
  train_args: list[str], tmp_path_factory: pytest.TempPathFactory
) -> pathlib.Path:
  """A finished run with a valid text of 30 lines; only to be read."""
  import train

  path = tmp_path_factory.mktemp("runs") / "valid"
  args = [*train_args, f"--run_dir={path}", "--valid_lines=30", "--epochs=4"]
  assert train.main(args) == 0
  return path


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
  """Debian's Chromium, without a window."""
  chromium = shutil.which("chromium")
  if not chromium:
    pytest.skip("no chromium is installed")
  with sync_playwright() as playwright:
    args = ["--no-sandbox"]  # which refuses to run as root
    yield playwright.chromium.launch(executable_path=chromium, args=args)


@pytest.fixture
def run(tmp_path: pathlib.Path) -> RunDir:
  run = RunDir(tmp_path / "run")
  with run.locked():
    run.create(EXPERIMENT, VOCAB, SPLIT)
  return run
