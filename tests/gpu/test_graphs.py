"""What a GPU would run, told from graphs that are traced as if there were one.

Only hardware can tell that it computes the right numbers, and how fast.
"""

import dataclasses
import importlib
import types
from collections.abc import Iterator
from typing import cast

import graphs
import numpy as np
import pytest
import tensorflow as tf
from helpers import ROOT, build_model

from charlm.config import Config
from charlm.data.batches import build_batches
from charlm.evaluation.dynamic import DynamicEvaluator
from charlm.evaluation.evaluator import Evaluator
from charlm.model.language_model import LanguageModel, model_of
from charlm.sampling.generator import GenerativeModel
from charlm.sampling.gumbel import numbers_of_texts
from charlm.sampling.request import Limits
from charlm.system.flags import parse
from charlm.training import trainer as trainer_module
from charlm.training.replicas import Replicas
from charlm.training.trainer import Trainer, build_trainer
from charlm.training.workers import Cluster

_V, _T = 12, 20
_SIZES = ("--seq_length=20", "--embedding_dim=8", "--rnn_units=16")
# And the kernels that a step may start. Before these went to cuDNN, fast.flags
# had 4,300.
_BY_CUDNN = {"reference": 100, "fast": 240, "text-1M": 410}
_LAYERS = ("gru", "lstm")
# Not `CPU:0`, which stands for the host.
_GPUS = ["CPU:1", "CPU:2"]


@pytest.fixture(autouse=True, scope="module")
def gpu() -> Iterator[None]:
  """Pretends that there is a GPU, for charlm and for Keras."""
  visible = tf.config.get_visible_devices
  keras_rnn = importlib.import_module("keras.src.backend.tensorflow.rnn")
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(
      tf.config,
      "get_visible_devices",
      lambda kind=None: ["a GPU"] if kind == "GPU" else visible(kind),
    )
    patch.setattr(keras_rnn, "_is_gpu_available", lambda: True)
    yield


def _flat(tensors: dict) -> list[tf.Tensor]:
  return [*map(tf.convert_to_tensor, tf.nest.flatten(list(tensors.values())))]


def _config(recipe: str, **changes: object) -> Config:
  """Returns the config of a flag file, at a small size."""
  flags = [f"--flagfile={ROOT}/recipes/{recipe}.flags", *_SIZES]
  config = Config(**parse(flags, Config))
  return dataclasses.replace(config, **changes)


def _trainer(
  config: Config,
  gru: str = "auto",
  strategy: tf.distribute.Strategy | None = None,
) -> Trainer:
  ids = np.random.default_rng(0).integers(2, _V, 60_000, np.uint8)
  strategy = strategy or tf.distribute.MirroredStrategy(
    _GPUS[:1], cross_device_ops=tf.distribute.ReductionToOneDevice()
  )
  batches = build_batches(ids, config)
  return build_trainer(config, _V, batches, strategy, gru=gru)


def _steps(trainer: Trainer) -> graphs.Graph:
  return trainer._compiled.get_concrete_function()


@pytest.fixture(scope="module")
def traced(gpu: None) -> dict[str, graphs.Graph]:
  """The training steps of the recipes, as a GPU has them by default."""
  return {name: _steps(_trainer(_config(name))) for name in _BY_CUDNN}


def _piece(model: LanguageModel, rows: int) -> list:
  """Returns the arguments of a piece of a score."""
  ids = tf.zeros([rows, _T], tf.int32)
  return [ids, ids, model.initial_states(rows)]


def test_each_operation_of_a_training_has_a_kernel(
  traced: dict[str, graphs.Graph], monkeypatch: pytest.MonkeyPatch
) -> None:
  for function in traced.values():
    assert graphs.without_kernel(function) == set()
  # And where neither cuDNN nor XLA takes part.
  monkeypatch.setattr(trainer_module, "xla_compiles_steps", lambda *_: False)
  for layer in _LAYERS:
    steps = _steps(_trainer(_config("text-1M", layer=layer), gru="fused"))
    assert not any("Cudnn" in name for name in graphs.operations(steps))
    assert graphs.without_kernel(steps) == set()


@pytest.mark.parametrize("layer", _LAYERS)
def test_each_operation_of_scores_and_random_numbers_has_a_kernel(
  layer: str,
) -> None:
  model = model_of(Config(layer=layer, rnn_units=16, embedding_dim=8), _V)
  nats = Evaluator(model)._compiled_nats.get_concrete_function(
    *_piece(model, 2)
  )
  assert "CudnnRNNV3" in graphs.operations(nats)
  assert graphs.without_kernel(nats) == set()
  step = _dynamic_step(model)
  assert "CudnnRNNV3" in graphs.operations(step)
  assert graphs.without_kernel(step) == set()
  draw = tf.function(lambda: numbers_of_texts(0, range(2), 0, [4, _V]))
  assert graphs.without_kernel(draw.get_concrete_function()) == set()


def _dynamic_step(model: LanguageModel) -> graphs.Graph:
  """Returns the step of dynamic evaluation, which is not run."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(DynamicEvaluator, "_pass", lambda *_, **__: np.zeros(1))
    evaluator = DynamicEvaluator(model, np.zeros(9))
  return evaluator._compiled_step.get_concrete_function(
    tf.zeros([1, 33], tf.int32), model.initial_states(1), tf.constant(0.1)
  )


@pytest.mark.parametrize("recipe", _BY_CUDNN)
def test_a_step_by_cudnn_is_a_few_hundred_kernels(
  recipe: str, traced: dict[str, graphs.Graph]
) -> None:
  steps = traced[recipe]
  # No loop over time is left.
  assert max(node.depth for node in graphs.walk(steps)) == 1
  counts = graphs.launches(steps)
  num_layers = _config(recipe).num_layers
  assert counts["CudnnRNNV3"] == counts["CudnnRNNBackpropV3"] == num_layers
  assert 0.8 * _BY_CUDNN[recipe] <= counts.total() <= _BY_CUDNN[recipe]


@pytest.mark.parametrize("layer", _LAYERS)
def test_xla_compiles_the_loop_over_time(layer: str) -> None:
  config = _config("best-1M", layer=layer)
  steps = _steps(_trainer(config, gru="fused"))
  assert max(node.depth for node in graphs.walk(steps)) == 1
  assert graphs.launches(steps).total() <= 200  # beside what XLA compiles


@pytest.mark.parametrize("recipe", _BY_CUDNN)
def test_the_host_waits_for_a_call_and_not_for_its_steps(
  recipe: str, traced: dict[str, graphs.Graph]
) -> None:
  assert graphs.waits(traced[recipe]) == set()


def test_a_wait_is_noticed() -> None:
  @tf.function
  def loop() -> tf.Tensor:
    number = tf.constant(0, tf.int64)
    while number < 3:  # computed on the device, read by the host
      seed = tf.stack([number, number])
      drawn = tf.random.experimental.stateless_fold_in(seed, 1)
      number += tf.cast(drawn[0], tf.int64)
    return number

  (found,) = graphs.waits(loop.get_concrete_function())
  assert found.startswith("Pack ")
  assert "StatelessRandomGetKeyCounter" in found


@pytest.mark.parametrize(("recipe", "number"), [("reference", 1), ("fast", 3)])
def test_a_step_sums_gradients_and_loss_then_states_then_updates(
  recipe: str, number: int
) -> None:
  # As on GPUs, where TensorFlow joins the tensors of one sum.
  strategy = tf.distribute.MirroredStrategy(_GPUS)
  steps = _steps(_trainer(_config(recipe), strategy=strategy))
  sums = graphs.operations(steps)["CollectiveReduceV2"]
  assert sums == number * len(_GPUS)


def test_each_operation_of_the_checks_of_replicas_has_a_kernel() -> None:
  strategy = tf.distribute.MirroredStrategy(_GPUS)
  cluster = types.SimpleNamespace(strategy=strategy)
  trainer = _trainer(_config("fast"), strategy=strategy)
  replicas = Replicas(cast("Cluster", cluster), trainer)
  for compiled, number in (
    (replicas._compiled_checksums, []),
    (replicas._compiled_copies, [1.0]),
    (replicas._compiled_sums, [1.0]),
  ):
    function = compiled.get_concrete_function(*map(tf.constant, number))
    assert graphs.without_kernel(function) == set()


@pytest.mark.parametrize("layer", _LAYERS)
def test_gradients_lower_to_hlo_for_a_gpu(layer: str) -> None:
  config = _config("best-1M", num_layers=1, layer=layer)
  trainer = _trainer(config, gru="fused")
  windows, seed = tf.zeros([64, _T + 1], tf.int64), tf.constant([1, 2])
  model = trainer.model
  masks = model.dropout_masks(windows[:, :-1], seed)
  arguments = [windows, model.initial_states(64), masks]
  compiled = trainer._loss_and_gradients.get_concrete_function(*arguments)
  assert "while" in graphs.lower(compiled, tf.nest.flatten(arguments))


def test_scores_of_the_fused_layer_lower_to_hlo_for_a_gpu() -> None:
  model = build_model(_V, 8, 16, gru="fused")
  arguments = _piece(model, 2)
  compiled = Evaluator(model)._compiled_nats.get_concrete_function(*arguments)
  assert "while" in graphs.lower(compiled, tf.nest.flatten(arguments))


@pytest.mark.parametrize("rate", [0.0, 0.1])
def test_dynamic_evaluation_lowers_to_hlo_for_a_gpu(
  rate: float, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.setattr(DynamicEvaluator, "_pass", lambda *_, **__: np.zeros(1))
  model = build_model(_V, 8, 16, gru="fused")
  evaluator, updates = DynamicEvaluator(model, np.zeros(9)), []
  # Without a device XLA takes no variables: what is assigned is returned.
  for kind in {type(v) for v in [*evaluator._weights, *evaluator.mean_squares]}:
    monkeypatch.setattr(kind, "assign_add", lambda _, x: updates.append(x))

  def step(segment: tf.Tensor, states: tf.Tensor) -> list:
    return [evaluator._step(segment, states, rate), updates]

  arguments = [tf.zeros([1, 33], tf.int32), model.initial_states(1)]
  traced = tf.function(step, autograph=False).get_concrete_function(*arguments)
  assert len(updates) == len(evaluator._weights)
  assert "while" in graphs.lower(traced, tf.nest.flatten(arguments))


@pytest.mark.parametrize("limits", [Limits(), Limits(3, 0.9, 0.05)])
def test_sampling_lowers_to_hlo_for_a_gpu(limits: Limits) -> None:
  model = build_model(_V, 8, 16)
  vocab = ["[UNK]", "", *"abcdefghij"]
  generator, table = GenerativeModel(model, vocab), model.input_table()
  zero = tf.constant(0)
  tensors = {
    "table": table,
    "last": np.zeros(2, np.int32),
    "states": model.initial_states(2),
    "numbers": tf.zeros([2, generator._span, _V]),
    "offset": zero,
    "length": zero,
    "temperature": tf.constant(1.0),
  }
  draw = generator._compiled_draw.get_concrete_function(
    **tensors, limits=limits
  )
  assert "while" in graphs.lower(draw, _flat(tensors))
  tensors = {
    "table": table,
    "ids": np.zeros(generator._span, np.int32),
    "length": zero,
    "states": model.initial_states(1),
  }
  read = generator._compiled_read.get_concrete_function(**tensors)
  assert "while" in graphs.lower(read, _flat(tensors))
