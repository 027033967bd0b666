"""The parts of `gpu_check.py`; each yields rows as it finds them.

A process runs one of them: `python -m benchmarks.gpu_parts NAME CHECK`.
"""

import importlib.metadata
import importlib.util
import json
import pathlib
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import numpy as np
import tensorflow as tf

from benchmarks import pool
from benchmarks.gpu_check import FAILED, Check, Row
from benchmarks.task import (
  BLOCK_CHARS,
  SAMPLE_CHARS,
  Run,
  Sizes,
  Task,
  Text,
  timed,
)
from benchmarks.worker import take_stdout
from charlm.config import Config
from charlm.data.batches import build_batches
from charlm.evaluation.dynamic import DynamicEvaluator
from charlm.evaluation.evaluator import Evaluator
from charlm.model.language_model import LanguageModel, model_of
from charlm.runs.checkpoints import find_checkpoint
from charlm.runs.metrics import read_records
from charlm.runs.provenance import describe_start
from charlm.runs.run import checkpoint_steps, open_run
from charlm.sampling.generator import GenerativeModel
from charlm.sampling.request import Request
from charlm.system.devices import (
  choose_device,
  create_strategy,
  kind_of_device,
  largest_divisor,
)
from charlm.system.flags import parse
from charlm.training import trainer as trainer_module
from charlm.training.replicas import Replicas, most_replicas
from charlm.training.trainer import Trainer, build_trainer, xla_compiles_steps
from charlm.training.workers import Cluster

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_FAST = [f"--flagfile={_ROOT}/recipes/fast.flags"]
_TOY: dict[str, Any] = {
  "batch_size": 4,
  "seq_length": 8,
  "embedding_dim": 4,
  "rnn_units": 8,
}
_STEP = "gpu_parts.build_step"
_MANY_WINDOWS = 256  # of a batch that several GPUs share
_NO_GPU = "no GPU: left out"


def devices(check: Check) -> Iterator[Row]:
  """What computes, and by which libraries."""
  start = describe_start(0, [])
  for name, version in {**start["versions"], **start["gpus"]}.items():
    yield Row(name, version)
  yield Row("processor", start["processor"])
  yield Row("XLA's tools", _tools_of_xla())
  for device in tf.config.list_logical_devices(kind_of_device()):
    yield _tried(f"first product on {device.name[-5:]}", _multiply, device.name)


def graphs(check: Check) -> Iterator[Row]:
  """Runs each graph of the package, with no operation moved to the CPU."""
  tf.config.set_soft_device_placement(False)
  text = Text(check.folder)
  trainings = _recipes(check)
  if not check.toy:
    trainings |= {
      "an LSTM": ["--layer=lstm"],
      "dropout and carried states": ["--dropout_rate=0.2", "--carry_state"],
    }
  for name, flags in trainings.items():
    yield _tried(f"training of {name}", _train, check, flags)
  ids = text.eval_ids[:400]
  for name, flags in _recipes(check).items():
    model = model_of(_config(_sized(check, flags)), len(text.vocab))
    yield _tried(f"evaluation of {name}", _score, model, ids)
    yield _tried(f"dynamic evaluation of {name}", _adapt, model, ids)
  generator = GenerativeModel(model, text.vocab)
  for request in (Request(num_chars=9), Request(num_samples=16, top_p=0.9)):
    name = f"sampling of {request.num_samples}, top_p {request.top_p:g}"
    yield _tried(name, generator.sample, request)


def steps(check: Check) -> Iterator[Row]:
  """Times training steps, beside those of Keras and PyTorch."""
  for recipe, flags in _recipes(check).items():
    options = {"flags": _sized(check, flags)}
    fused = options | {"gru": "fused"}
    ways = {
      "fused": _task(check, _STEP, fused | {"xla": False}),
      "fused, XLA": _task(check, _STEP, fused | {"xla": True}),
    }
    if kind_of_device() == "GPU":
      ways["cuDNN"] = _task(check, _STEP, options | {"gru": "keras"})
    if recipe == "default":
      ways["Keras fit"] = _task(check, "reference.build_step")
      if importlib.util.find_spec("torch"):
        ways["PyTorch nn.GRU"] = _task(check, "pytorch.build_step")
    tasks = {f"step of {recipe}, {way}": task for way, task in ways.items()}
    yield from _measure(check, tasks, "ms", lambda seconds: 1000 * seconds)


def evaluation(check: Check) -> Iterator[Row]:
  """Times the scoring of a text."""
  tasks = {
    f"evaluation, {name}": _task(check, f"{module}.build_evaluation")
    for name, module in (("charlm", "ours"), ("Keras predict", "reference"))
  }
  yield from _measure(
    check, tasks, "characters/s", lambda seconds: BLOCK_CHARS / seconds
  )


def sampling(check: Check) -> Iterator[Row]:
  """Times the drawing of texts."""
  for number, device, name in (
    (1, "cpu", "1 text on the CPU"),
    (1, "auto", "1 text"),
    (64, "auto", "64 texts"),
  ):
    options = {"num_streams": number, "device": device}
    tasks = {name: _task(check, "ours.build_sampling", options)}
    microseconds = 1e6 / (number * SAMPLE_CHARS)
    yield from _measure(check, tasks, "us a character", microseconds.__mul__)


def replicas(check: Check) -> Iterator[Row]:
  """Checks several replicas, and how their number speeds up a step."""
  batch_size = _TOY["batch_size"] if check.toy else _MANY_WINDOWS
  numbers = range(1, most_replicas() + 1)
  counts = sorted({largest_divisor(batch_size, n) for n in numbers})
  if len(counts) == 1:
    yield Row("several replicas", "one device: left out")
    return
  flags = _sized(check, [f"--batch_size={batch_size}"])
  yield _tried("their checks", _check_replicas, check, flags, counts[-1])
  rates: list[float] = []
  for count in counts:
    options = {"flags": flags, "num_replicas": count}
    tasks = {f"{count} replicas": _task(check, _STEP, options)}
    (row,) = _measure(check, tasks, "steps/s", lambda seconds: 1 / seconds)
    yield row
    if not isinstance(row.value, str):
      rates.append(row.value)
      yield Row(f"speed-up of {count} replicas", row.value / rates[0])


def loss(check: Check) -> Iterator[Row]:
  """Trains on the GPU and on the CPU."""
  if kind_of_device() != "GPU":
    yield Row("GPU and CPU differ", _NO_GPU)
    return
  losses = []
  for device in ("gpu", "cpu"):
    run = pathlib.Path(check.folder, device)
    # Not the default sizes, with which a small CPU takes minutes.
    flags = [f"--device={device}", "--rnn_units=256", "--max_steps=300"]
    _finish(check, run, flags)
    losses.append(_last_loss(run))
    yield Row(f"after 300 steps on the {device.upper()}", losses[-1])
  yield Row("GPU and CPU differ", abs(losses[0] - losses[1]))


def dropout(check: Check) -> Iterator[Row]:
  """Compares masks with the CPU's, and trainings with and without XLA."""
  flags = _sized(check, ["--dropout_rate=0.2"])
  text, losses = Text(check.folder), []
  for xla in (False, True):
    trainer = _trainer(text, flags, gru="fused", xla=xla)
    trainer.train(3 if check.toy else 20)
    losses.append(trainer.take_metrics().loss)
  yield Row("loss with XLA differs", abs(losses[0] - losses[1]))
  draw = trainer.model.dropout_masks
  inputs = tf.cast(trainer.batches.batch(0)[:, :-1], tf.int64)
  seed = tf.constant([1, 2])
  here = tf.function(draw, autograph=False)(inputs, seed)
  with tf.device("CPU:0"):
    on_cpu = draw(inputs, seed)
  pairs = zip(here, on_cpu, strict=True)
  unlike = sum(np.count_nonzero(x.numpy() != y.numpy()) for x, y in pairs)
  yield Row("numbers unlike the CPU's", int(unlike))


def resume(check: Check) -> Iterator[Row]:
  """Compares a training that was killed with one that was not."""
  flags = [f"--device={check.device}", *_FAST]
  flags += ["--epochs=9", f"--max_steps={100 if check.toy else 400}"]
  flags += ["--checkpoint_every_steps=20"]
  whole, killed = (
    pathlib.Path(check.folder, name) for name in ("whole", "killed")
  )
  _finish(check, whole, flags)
  process = _start(*_flags_of_run(check, killed, flags))
  while process.poll() is None:
    if max(checkpoint_steps(killed / "checkpoints"), default=0) > 0:
      process.kill()
      break
    time.sleep(0.01)
  process.wait()
  yield Row("killed after step", max(checkpoint_steps(killed / "checkpoints")))
  _finish(check, killed, flags)
  difference = abs(_last_loss(whole) - _last_loss(killed))
  yield Row("loss differs", difference)
  yield Row("variables differ", _num_different(whole, killed))


def memory(check: Check) -> Iterator[Row]:
  """The most memory of the GPU that a step needs."""
  if kind_of_device() != "GPU":
    yield Row("peak of a step", _NO_GPU)
    return
  for name, flags in _recipes(check).items():
    trainer = _trainer(Text(check.folder), _sized(check, flags))
    trainer.train(1)
    tf.config.experimental.reset_memory_stats("GPU:0")
    trainer.train(3)
    peak = tf.config.experimental.get_memory_info("GPU:0")["peak"]
    yield Row(f"peak of a step of {name}", peak / 2**20, "MiB")


PARTS: dict[str, Callable[[Check], Iterator[Row]]] = {
  part.__name__: part
  for part in (
    *(devices, graphs, steps, evaluation, sampling),
    *(replicas, loss, dropout, resume, memory),
  )
}


def build_step(
  sizes: Sizes,
  text: Text,
  flags: list[str],
  gru: str = "auto",
  xla: bool | None = None,
  num_replicas: int = 1,
) -> Run:
  """Training steps by flags of `train.py`, for a worker of `pool`."""
  choose_device("auto")
  trainer = _trainer(text, flags, gru=gru, xla=xla, num_replicas=num_replicas)
  return timed(lambda n: trainer.train(trainer.step + n))


def _trainer(
  text: Text,
  flags: list[str],
  *,
  gru: str = "auto",
  xla: bool | None = None,
  num_replicas: int = 1,
  strategy: tf.distribute.Strategy | None = None,
) -> Trainer:
  """Returns a trainer; XLA compiles its gradients as told, or as by default."""
  config = _config(flags)

  def compiles(config: Config, num_replicas: int) -> bool:
    """Tells whether XLA compiles the gradients."""
    return xla_compiles_steps(config, num_replicas) if xla is None else xla

  with mock.patch.object(trainer_module, "xla_compiles_steps", compiles):
    return build_trainer(
      config=config,
      vocab_size=len(text.vocab),
      batches=build_batches(text.train_ids, config),
      strategy=strategy or create_strategy(num_replicas),
      gru=gru,
    )


def _config(flags: list[str]) -> Config:
  return Config(**parse(flags, Config))


def _recipes(check: Check) -> dict[str, list[str]]:
  """Returns recipes by name, each as flags of `train.py`."""
  if check.toy:
    return {"default": []}
  return {"default": [], "fast.flags": _FAST, "an LSTM": ["--layer=lstm"]}


def _sized(check: Check, flags: list[str]) -> list[str]:
  """Returns flags that are followed by tiny sizes, if those are asked for."""
  toy = [f"--{name}={value}" for name, value in _TOY.items()]
  return [*flags, *(toy if check.toy else [])]


def _tried(name: str, work: Callable[..., object], *args: Any) -> Row:
  """Returns how long something took that may fail."""
  start = time.perf_counter()
  try:
    work(*args)
  except Exception as error:  # whatever it is, others follow
    return Row(name, f"{FAILED}: {' '.join(str(error).split())[:300]}")
  return Row(name, time.perf_counter() - start, "s")


def _tools_of_xla() -> str:
  """Returns the version of the wheel with `ptxas`, or where else it is."""
  wheel = "nvidia-cuda-nvcc-cu12"
  try:
    return f"{wheel} {importlib.metadata.version(wheel)}"
  except importlib.metadata.PackageNotFoundError:
    return shutil.which("ptxas") or "none"


def _multiply(device: str) -> None:
  with tf.device(device):
    tf.linalg.matmul(tf.eye(99), tf.eye(99)).numpy()


def _score(model: LanguageModel, ids: np.ndarray) -> None:
  with tf.device(f"{kind_of_device()}:0"):
    Evaluator(model).stream(ids)


def _adapt(model: LanguageModel, ids: np.ndarray) -> None:
  with tf.device(f"{kind_of_device()}:0"):
    DynamicEvaluator(model, ids)


def _train(check: Check, flags: list[str]) -> None:
  _trainer(Text(check.folder), _sized(check, flags)).train(2)


def _check_replicas(check: Check, flags: list[str], number: int) -> None:
  strategy = create_strategy(number)
  trainer = _trainer(Text(check.folder), flags, strategy=strategy)
  checks = Replicas(Cluster(strategy), trainer)
  checks.check_start()
  trainer.train(2)
  checks.check_weights()


def _task(
  check: Check, builder: str, options: dict[str, Any] | None = None
) -> Task:
  """Returns a task for a worker, with the sizes of the default model."""
  sizes = Sizes(len(Text(check.folder).vocab), **(_TOY if check.toy else {}))
  return Task(builder, options or {}, sizes, check.folder)


def _measure(
  check: Check,
  tasks: dict[str, Task],
  unit: str,
  convert: Callable[[float], float],
) -> Iterator[Row]:
  """Measures tasks side by side; converts their seconds per unit of work."""
  timings = pool.measure(
    tasks,
    num_rounds=1 if check.toy else 3,
    seconds_per_turn=0.01 if check.toy else 0.5,
  )
  for name, timing in timings.items():
    if timing.error:
      yield Row(name, f"{FAILED}: {timing.error}")
    else:
      yield Row(name, convert(timing.median), unit)


def _start(*flags: str) -> subprocess.Popen[bytes]:
  """Starts `train.py`."""
  command = [sys.executable, str(_ROOT / "train.py"), *flags]
  return subprocess.Popen(command, stdout=sys.stderr)


def _flags_of_run(
  check: Check, run: pathlib.Path, flags: list[str]
) -> list[str]:
  corpus = pathlib.Path(check.folder, "corpus.txt")
  flags = [f"--corpus={corpus}", f"--run_dir={run}", *flags]
  return _sized(check, [*flags, "--eval_chars=2000"])


def _finish(check: Check, run: pathlib.Path, flags: list[str]) -> None:
  """Trains to the end.

  Raises RuntimeError: the training failed.
  """
  if code := _start(*_flags_of_run(check, run, flags)).wait():
    raise RuntimeError(f"train.py ended with exit code {code}")


def _last_loss(run: pathlib.Path) -> float:
  """Returns the loss of the last evaluation."""
  records = read_records(run / "metrics.jsonl")
  return [x["loss"] for x in records if x["split"] == "eval"][-1]


def _num_different(one: pathlib.Path, other: pathlib.Path) -> int:
  """Returns in how many variables the newest checkpoints differ."""
  mine, theirs = (
    tf.train.load_checkpoint(find_checkpoint(open_run(run), "latest")[1])
    for run in (one, other)
  )
  # The graph's description and the save's counter are no variables.
  names = [
    name
    for name in mine.get_variable_to_shape_map()
    if name.endswith("VARIABLE_VALUE") and not name.startswith("save_counter")
  ]
  return sum(
    not np.array_equal(mine.get_tensor(name), theirs.get_tensor(name))
    for name in names
  )


def main() -> None:
  """Runs the part that is named, and prints its rows."""
  answers = take_stdout()
  name, told = sys.argv[1:]
  check = Check(*json.loads(told))
  choose_device(check.device)
  for row in PARTS[name](check):
    print(json.dumps(row), file=answers, flush=True)


if __name__ == "__main__":
  main()
