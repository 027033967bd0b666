"""Fixtures: logical CPU devices, small corpora and small runs.

The folders mirror the package; `programs/` tests the scripts. Read
`test_train_eval_sample_as_processes` first; BUILD.md says how to go on.
"""

import contextlib
import fcntl
import gc
import os
import pathlib
import random
import shutil
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright

from charlm.system.process import import_quietly

import_quietly("tensorflow", "keras")
import tensorflow as tf
from helpers import (
  EXPERIMENT,
  PROGRAMS,
  ROOT,
  SHARED_DATA,
  SPLIT,
  VOCAB,
  WORDS,
  Once,
  evaluating_quickly,
  sweep_commands,
)

from charlm.runs import trained_model
from charlm.runs.run import Run

# Otherwise each refused checkpoint would be retried for 0.8 s.
trained_model._SECONDS_BETWEEN_ATTEMPTS = 0

# At the default of 700, garbage collection would take 5 % of the time.
gc.set_threshold(10_000)

# Before any test creates a strategy: TensorFlow configures its devices once.
tf.config.set_logical_device_configuration(
  tf.config.list_physical_devices("CPU")[0],
  [tf.config.LogicalDeviceConfiguration()] * 4,
)
assert len(tf.config.list_logical_devices("CPU")) == 4

# Caches the default corpus in the checkout, not in the user's home.
os.environ["XDG_CACHE_HOME"] = str(ROOT / ".pytest_cache" / "xdg")


@pytest.fixture(scope="session")
def shakespeare_path() -> pathlib.Path:
  """The corpus of the reference's published results."""
  path = SHARED_DATA / "shakespeare.txt"
  if not path.exists():
    pytest.skip(f"{path} is not there")
  return path


@pytest.fixture(scope="session")
def lines() -> list[str]:
  """300 lines of random words, about 8,000 characters."""
  rng = random.Random(0)
  return [" ".join(rng.choices(WORDS, k=rng.randint(3, 9))) for _ in range(300)]


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
  """Makes a file once for all workers, in the folder that they share."""
  folder = tmp_path_factory.getbasetemp()
  if "PYTEST_XDIST_WORKER" in os.environ:
    folder = folder.parent

  def make(name: str, write: Callable[[pathlib.Path], object]) -> pathlib.Path:
    path, made = folder / "shared" / name, folder / "shared" / f"{name}.made"
    made.parent.mkdir(exist_ok=True)
    with made.open("a") as file:
      fcntl.flock(file, fcntl.LOCK_EX)  # waits while another worker makes it
      if not made.stat().st_size:
        write(path)
        file.write("made")
    return path

  return make


@pytest.fixture(scope="session")
def corpus_path(lines: list[str], once: Once) -> pathlib.Path:
  """The lines as a file."""
  text = "\n".join(lines) + "\n"
  return once("small.txt", lambda path: path.write_text(text, "utf-8"))


@pytest.fixture(scope="session")
def train_args(corpus_path: pathlib.Path) -> list[str]:
  """Arguments of `train.py` for a run of a second: 12 steps per epoch."""
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
def trained(train_args: list[str], once: Once) -> Callable[..., pathlib.Path]:
  """Trains a read-only run once for all workers, with quick evaluations.

  Copy it to resume it. Its stdout is in a file beside it, NAME.out.
  """

  def make(name: str, *flags: str) -> pathlib.Path:
    def train(path: pathlib.Path) -> None:
      args = [*train_args, f"--run_dir={path}", *flags]
      with (
        path.with_name(f"{name}.out").open("w") as file,
        contextlib.redirect_stdout(file),
        evaluating_quickly(),
      ):
        assert PROGRAMS["train.py"].main(args) == 0

    return once(name, train)

  return make


@pytest.fixture(scope="session")
def trained_run(trained: Callable[..., pathlib.Path]) -> pathlib.Path:
  """A finished run of three epochs; read-only."""
  return trained("trained", "--epochs=3")


@pytest.fixture(scope="session")
def short_run(trained: Callable[..., pathlib.Path]) -> pathlib.Path:
  """A finished run of one epoch; read-only, copy it to extend it."""
  return trained("short")


@pytest.fixture(scope="session")
def two_layers_run(trained: Callable[..., pathlib.Path]) -> pathlib.Path:
  """A run of two layers; read-only."""
  return trained("two_trained_layers", "--num_layers=2")


@pytest.fixture(scope="session")
def valid_run(trained: Callable[..., pathlib.Path]) -> pathlib.Path:
  """A finished run with a valid text of 30 lines; read-only."""
  return trained("valid", "--valid_lines=30", "--epochs=4")


# Graphs that are quickly traced, for runs of 12 steps.
_SMALL = ["--eval_lines=2", "--valid_lines=2", "--seq_length=4"]
_SMALL += ["--batch_size=8", "--embedding_dim=4", "--rnn_units=4"]
_SMALL += ["--num_layers=1", "--num_replicas=1", "--dropout_rate=0"]
_SMALL += ["--optimizer=adam", "--precision=float32", "--warmup_steps=0"]
_SMALL += ["--max_steps=12", "--eval_every_steps=4", "--summary_every_steps=4"]


@pytest.fixture(scope="session")
def sweep(corpus_path: pathlib.Path, once: Once) -> pathlib.Path:
  """The folder in which docs/sweeps.md has trained 4 x 3 runs; read-only."""

  def train(folder: pathlib.Path) -> None:
    folder.mkdir()
    shutil.copy(corpus_path, folder / "my.txt")
    with evaluating_quickly() as patch:
      patch.chdir(folder)
      for command in sweep_commands():
        if command[0] == "train.py":
          assert PROGRAMS["train.py"].main([*command, *_SMALL]) == 0

  return once("sweep", train)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
  """Debian's Chromium, headless."""
  chromium = shutil.which("chromium")
  if not chromium:
    pytest.skip("no chromium is installed")
  with sync_playwright() as playwright:
    args = ["--no-sandbox"]  # the sandbox refuses to run as root
    yield playwright.chromium.launch(executable_path=chromium, args=args)


@pytest.fixture
def run(tmp_path: pathlib.Path) -> Run:
  """The folder of a run that has just been created."""
  run = Run(tmp_path / "run", EXPERIMENT, VOCAB)
  with run.locked():
    run.create(SPLIT)
  return run


@pytest.fixture
def start(train_args: list[str], tmp_path: pathlib.Path) -> Callable[..., int]:
  """Trains in the folder `run` with more flags; returns the exit code."""

  def train(*flags: str) -> int:
    args = [*train_args, f"--run_dir={tmp_path}/run", *flags]
    with evaluating_quickly():
      return PROGRAMS["train.py"].main(args)

  return train


@pytest.fixture
def quick_evaluations() -> Iterator[None]:
  """Applies `evaluating_quickly` to a test."""
  with evaluating_quickly():
    yield
