"""What the tests share: logical CPU devices, small corpora and small runs."""

import contextlib
import os
import pathlib
import random
import resource
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, sync_playwright

from charlm.system.process import import_quietly

import_quietly("tensorflow", "keras")
import keras
import tensorflow as tf

from charlm.config import Config
from charlm.data.corpus import Split
from charlm.model.language_model import build_model
from charlm.runs.checkpoints import Checkpoints
from charlm.runs.run_dir import RunDir, experiment_of

# Before any test asks for a strategy: TensorFlow fixes its devices once.
tf.config.set_logical_device_configuration(
  tf.config.list_physical_devices("CPU")[0],
  [tf.config.LogicalDeviceConfiguration()] * 4,
)
assert len(tf.config.list_logical_devices("CPU")) == 4

ROOT = pathlib.Path(__file__).parent.parent
# The default corpus is cached in the checkout, not in the user's home.
os.environ["XDG_CACHE_HOME"] = str(ROOT / ".pytest_cache" / "xdg")
SHARED_DATA = ROOT.parent / "shared" / "data"

# The characters of shared/data/shakespeare.txt.
SHAKESPEARE_VOCAB = ["[UNK]", "", "\t", "\n", *" !$&'(),-.0123456789:;?"]
SHAKESPEARE_VOCAB += [
  *"ABCDEFGHIJKLMNOPQRSTUVWXYZ[]abcdefghijklmnopqrstuvwxyz|"
]

WORDS = [
  "the",
  "king",
  "of",
  "night",
  "shall",
  "not",
  "come",
  "my",
  "lord,",
  "I",
]


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
    "--num_replicas=2",
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
def browser() -> Iterator[Browser]:
  """Debian's Chromium, without a window."""
  chromium = shutil.which("chromium")
  if not chromium:
    pytest.skip("no chromium is installed")
  with sync_playwright() as playwright:
    args = ["--no-sandbox"]  # which refuses to run as root
    yield playwright.chromium.launch(executable_path=chromium, args=args)


VOCAB = ["[UNK]", "", "\n", "a", "b"]
SPLIT = Split("ab", "", "ab\nba")
EXPERIMENT = experiment_of(
  Config(embedding_dim=4, rnn_units=6), "ab\nab\nba", VOCAB, SPLIT
)


@pytest.fixture
def run(tmp_path: pathlib.Path) -> RunDir:
  run = RunDir(tmp_path / "run")
  with run.locked():
    run.create(EXPERIMENT, VOCAB, SPLIT)
  return run


class NumberedCheckpoints(Checkpoints):
  """Those of a model that is not trained: each holds the step of its name."""

  def __init__(
    self, run: RunDir, max_to_keep: int, **objects: tf.Module
  ) -> None:
    self._optimizer = keras.optimizers.SGD()
    self._optimizer.build(objects["model"].trainable_variables)
    super().__init__(run, max_to_keep, optimizer=self._optimizer, **objects)

  def _save(self, *args: Any) -> bool:
    self._optimizer.iterations.assign(args[-1])
    return super()._save(*args)


def save_checkpoints(
  run: RunDir, *steps: int, best: tuple[int, ...] = ()
) -> keras.Model:
  """Saves a new model at some steps, or as the best; returns it."""
  model = build_model(len(VOCAB), 4, 6)
  checkpoints = NumberedCheckpoints(run, 3, model=model)
  for step in steps:
    checkpoints.save(step)
  for step in best:
    checkpoints.save_best(step)
  return model


def checkpoint_file(
  run: RunDir, step: int, suffix: str, folder: str = "checkpoints"
) -> pathlib.Path:
  """Returns where a file of a checkpoint is."""
  return run.path / folder / f"ckpt-{step}{suffix}"


def bound_by_permissions() -> list[str]:
  """Returns what a command of root's begins with to be refused as others are.

  Another user might not reach the interpreter.
  """
  if os.geteuid():
    return []
  return ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]


@contextlib.contextmanager
def file_size_limit(num_bytes: int) -> Iterator[None]:
  """Lets no file grow beyond some bytes, as a full disk would."""
  before = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
