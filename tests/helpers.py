"""Helpers that the tests share."""

import contextlib
import multiprocessing
import os
import pathlib
import re
import resource
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from charlm.system.process import import_quietly

import_quietly("tensorflow", "keras")
import keras
import numpy as np
import pytest
import tensorflow as tf

import eval as eval_program
import export
import report
import sample
import train
from charlm.config import Config
from charlm.data.corpus import encode_text
from charlm.data.split import Split
from charlm.evaluation import dynamic, evaluator
from charlm.evaluation.score import Score
from charlm.model import language_model, output
from charlm.model.language_model import GRULM
from charlm.runs import checkpoints
from charlm.runs.checkpoints import Checkpoints
from charlm.runs.records import read_records
from charlm.runs.run import Experiment, Run
from charlm.training.loop import ChiefLoop
from charlm.training.trainer import TrainState

ROOT = pathlib.Path(__file__).parent.parent
SHARED_DATA = ROOT.parent / "shared" / "data"

# The characters of shared/data/shakespeare.txt.
SHAKESPEARE_VOCAB = ["[UNK]", "", "\t", "\n", *" !$&'(),-.0123456789:;?"]
SHAKESPEARE_VOCAB += [
  *"ABCDEFGHIJKLMNOPQRSTUVWXYZ[]abcdefghijklmnopqrstuvwxyz|"
]

WORDS = ["the", "king", "of", "night", "shall", "not", "come", "my"]
WORDS += ["lord,", "I"]

VOCAB = ["[UNK]", "", "\n", "a", "b"]

# Takes a name and a function that writes a file or folder; returns its path.
Once = Callable[[str, Callable[[pathlib.Path], object]], pathlib.Path]


def split_of(train: str, valid: str, eval_text: str) -> Split:
  """Returns a split with these parts."""
  return Split(*(encode_text([x]).text for x in (train, valid, eval_text)))


CORPUS = encode_text(["ab\nab\nba"])
SPLIT = split_of("ab", "", "ab\nba")
EXPERIMENT = Experiment.of(
  Config(embedding_dim=4, rnn_units=6), CORPUS, VOCAB, SPLIT
)


def bound_logits(monkeypatch: pytest.MonkeyPatch, max_logits: int) -> list[int]:
  """Lowers `MAX_LOGITS`; returns a list that collects each chunk's logits."""
  held = []
  original = output._cross_entropy

  def cross_entropy(logits: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
    held.append(logits.shape.num_elements())
    return original(logits, targets)

  monkeypatch.setattr(language_model, "MAX_LOGITS", max_logits)
  monkeypatch.setattr(output, "MAX_LOGITS", max_logits)
  monkeypatch.setattr(output, "_cross_entropy", cross_entropy)
  return held


def in_a_graph(model: keras.Model) -> Callable[[np.ndarray], tf.Tensor]:
  """Compiles a model into one graph function of ids `[B, T]` of any shape.

  Eagerly, it would call TensorFlow for each operation of each time step.
  """
  spec = [tf.TensorSpec([None, None], tf.int32)]
  predict = tf.function(model, spec, autograph=False)
  return lambda ids: predict(ids.astype(np.int32))


class Gpus:
  """Fake GPUs of given compute capabilities."""

  def __init__(self, *capabilities: tuple[int, int]) -> None:
    self._capabilities = capabilities
    self.physical = [
      tf.config.PhysicalDevice(f"/physical_device:GPU:{i}", "GPU")
      for i in range(len(capabilities))
    ]
    self.visible = self.physical

  def list_visible(self, kind: str) -> list[tf.config.PhysicalDevice]:
    return self.visible if kind == "GPU" else []

  def list_physical(self, kind: str) -> list[tf.config.PhysicalDevice]:
    return self.physical if kind == "GPU" else []

  def see(self, gpus: list[tf.config.PhysicalDevice], kind: str) -> None:
    self.visible = gpus

  def details(self, gpu: tf.config.PhysicalDevice) -> dict:
    index = self.physical.index(gpu)
    capability = self._capabilities[index]
    return {"device_name": f"GPU {index}", "compute_capability": capability}


def pretend_kind(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
  """Makes all modules take the devices for `CPU` or `GPU`."""
  for name, module in list(sys.modules.items()):
    if name.startswith("charlm.") and "kind_of_device" in vars(module):
      monkeypatch.setattr(module, "kind_of_device", lambda: kind)


def pretend_gpus(monkeypatch: pytest.MonkeyPatch, gpus: Gpus) -> None:
  """Makes TensorFlow list these GPUs."""
  built = {"cuda_compute_capabilities": ["sm_60", "sm_89", "compute_90"]}
  monkeypatch.setattr(tf.sysconfig, "get_build_info", lambda: built)
  monkeypatch.setattr(tf.config, "get_visible_devices", gpus.list_visible)
  monkeypatch.setattr(tf.config, "list_physical_devices", gpus.list_physical)
  monkeypatch.setattr(tf.config, "set_visible_devices", gpus.see)
  experimental = tf.config.experimental
  monkeypatch.setattr(experimental, "get_device_details", gpus.details)
  for name in ("set_memory_growth", "enable_tensor_float_32_execution"):
    monkeypatch.setattr(experimental, name, lambda *_: None)


def score_of(
  nats: np.ndarray,
  unknown: np.ndarray | bool = False,
  lengths: np.ndarray | None = None,
) -> Score:
  """Returns a score of characters or, given lengths, of lines."""
  ids = np.where(np.broadcast_to(unknown, nats.shape), 0, 2)
  return Score(nats, ids, num_bytes=len(nats), line_lengths=lengths)


class NumberedCheckpoints(Checkpoints):
  """Checkpoints of an untrained model: each holds the step in its name."""

  def __init__(
    self,
    run: Run,
    model: GRULM,
    train_state: TrainState | None = None,
  ) -> None:
    self._optimizer = keras.optimizers.SGD()
    self._optimizer.build(model.trainable_variables)
    super().__init__(
      run,
      model=model,
      optimizer=self._optimizer,
      train_state=train_state or TrainState(tf.zeros([1, 0, 6])),
    )

  def _save(self, *args: Any) -> bool:
    self._optimizer.iterations.assign(args[-1])
    return super()._save(*args)


def build_model(*args: Any, **kwargs: Any) -> GRULM:
  """Returns `GRULM(*args, **kwargs)` with its weights built."""
  model = GRULM(*args, **kwargs)
  model.build([None, None])
  return model


def save_checkpoints(
  run: Run, *steps: int, best: tuple[int, ...] = ()
) -> keras.Model:
  """Saves a new model at these steps, and as the best; returns it."""
  model = build_model(len(VOCAB), 4, 6)
  checkpoints = NumberedCheckpoints(run, model)
  for step in steps:
    checkpoints.save(step)
  for step in best:
    # Each is better than the ones before.
    checkpoints.save_if_best(step, {step: -float(step) for step in best})
  return model


def checkpoint_file(
  run: Run, step: int, suffix: str, folder: str = "checkpoints"
) -> pathlib.Path:
  """Returns the path of a checkpoint's file."""
  return run.path / folder / f"ckpt-{step}{suffix}"


@contextlib.contextmanager
def file_size_limit(num_bytes: int) -> Iterator[None]:
  """Lets no file grow beyond `num_bytes`, as a full disk would."""
  before = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextlib.contextmanager
def evaluating_quickly() -> Iterator[pytest.MonkeyPatch]:
  """Evaluates without samples, and without XLA as on a GPU.

  Both take longer than a small training. Yields the patch, for adding others.
  """
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(ChiefLoop, "_sample", lambda *_, **__: "a sample")
    for module in (evaluator, dynamic):
      patch.setattr(module, "xla_compiles_scores", lambda _: False)
    yield patch


def modification_times(folder: pathlib.Path) -> dict[pathlib.Path, int]:
  """Returns the times of all paths in a folder except locks."""
  paths = (path for path in folder.rglob("*") if path.name != "lock")
  return {path: path.stat().st_mtime_ns for path in paths}


PROGRAMS = {
  "train.py": train,
  "eval.py": eval_program,
  "sample.py": sample,
  "export.py": export,
  "report.py": report,
}


def metrics(run_dir: pathlib.Path, split: str) -> list[dict]:
  """Returns the records of a split: `train`, `valid` or `eval`."""
  records = read_records(run_dir / "metrics.jsonl")
  return [record for record in records if record["split"] == split]


def sweep_commands() -> list[list[str]]:
  """Returns the commands of docs/sweeps.md: programs with their arguments."""
  page = (ROOT / "docs" / "sweeps.md").read_text()
  blocks = re.findall(r"^```sh\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
  # Prints its arguments, each followed by a NUL, and ends with another NUL.
  python = 'python() { printf "%s\\0" "$@" ""; }'
  script = "\n".join(["set -euo pipefail", python, *blocks])
  script = script.replace(".venv/bin/python", "python")
  printed = subprocess.check_output(["bash", "-c", script], text=True)
  return [x.split("\0") for x in printed.removesuffix("\0\0").split("\0\0")]


# Processes are forked from one that has imported TensorFlow, since the import
# takes as long as a small training.
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["helpers"])


class Program:
  """A script run as a process, with the methods of `subprocess.Popen`.

  It evaluates quickly, unless `whole` asks for evaluations as a user gets.
  """

  def __init__(
    self,
    *args: str | pathlib.Path,
    env: Mapping[str, str] = types.MappingProxyType({}),
    whole: bool = False,
  ) -> None:
    self._output: tuple[str, str] | None = None
    self._folder = pathlib.Path(tempfile.mkdtemp())
    for name in "12":
      (self._folder / name).touch()
    argv = [str(ROOT / args[0]), *map(str, args[1:])]
    self._process = _FORKS.Process(
      target=_run_script, args=(argv, self._folder, dict(env), whole)
    )
    with pytest.MonkeyPatch.context() as patch:
      # For the fork server: before 3.12.8, Python starts it without this
      # process's path, and silently skips modules that it does not find.
      path = f"{ROOT / 'tests'}{os.pathsep}{ROOT}"
      patch.setenv("PYTHONPATH", path, prepend=os.pathsep)
      self._process.start()

  def __enter__(self) -> "Program":
    return self

  def __exit__(self, *exception: object) -> None:
    if exception[0]:
      self.kill()
    self.wait()

  @property
  def returncode(self) -> int | None:
    return self._process.exitcode

  def poll(self) -> int | None:
    return self._process.exitcode

  def wait(self, timeout: float | None = None) -> int:
    self._process.join(timeout)
    if self._process.exitcode is None:
      raise subprocess.TimeoutExpired(str(self._process), timeout)
    if self._output is None:
      out, err = ((self._folder / n).read_text("utf-8") for n in "12")
      self._output = out, err
      shutil.rmtree(self._folder)
    return self._process.exitcode

  def send_signal(self, number: int) -> None:
    os.kill(self._process.pid, number)

  def kill(self) -> None:
    self._process.kill()

  def printed(self) -> str:
    """Returns its output so far."""
    return (self._folder / "1").read_text("utf-8")

  def communicate(self) -> tuple[str, str]:
    self.wait()
    return self._output


def _run_script(
  argv: list[str], folder: pathlib.Path, env: dict[str, str], whole: bool
) -> None:
  os.environ.update(env)
  for name in "12":
    os.dup2(os.open(folder / name, os.O_WRONLY), int(name))
  os.chdir(ROOT)
  # A shell's background jobs, perhaps these tests, ignore Ctrl-C.
  signal.signal(signal.SIGINT, signal.default_int_handler)
  sys.argv = argv
  checkpoints._VISIBLE_WITHIN = 3.0  # a refused worker would take a minute
  with contextlib.nullcontext() if whole else evaluating_quickly():
    runpy.run_path(argv[0], run_name="__main__")


def run_program(*args: str | pathlib.Path) -> subprocess.CompletedProcess:
  """Runs a script as a process, with evaluations as a user gets."""
  program = Program(*args, whole=True)
  out, err = program.communicate()
  return subprocess.CompletedProcess(args, program.returncode, out, err)
