"""The operations that a GPU would run, from graphs traced for a fake GPU.

Only real hardware can show correct results and speed.
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
from helpers import ROOT

from charlm.config import Config
from charlm.data.batches import build_batches
from charlm.evaluation.dynamic import DynamicEvaluator
from charlm.evaluation.evaluator import Evaluator
from charlm.model.language_model import LanguageModel, model_of
from charlm.sampling.gumbel import numbers_of_texts
from charlm.system.flags import parse
from charlm.training import trainer as trainer_module
from charlm.training.replicas import Replicas
from charlm.training.trainer import Trainer, build_trainer
from charlm.training.workers import Cluster

_V, _T = 12, 20
_SIZES = ("--seq_length=20", "--embedding_dim=8", "--rnn_units=16")
# The maximum number of operations in a step, not counting those under XLA.
_BY_CUDNN = {"reference": 190, "fast": 240, "text-1M": 410}
_LAYERS = ("gru", "lstm")
# `CPU:0` stands for the host.
_GPUS = ["CPU:1", "CPU:2"]


@pytest.fixture(autouse=True, scope="module")
def gpu() -> Iterator[None]:
  """Makes charlm and Keras believe that there is a GPU."""
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


def _config(recipe: str, **changes: object) -> Config:
  """Returns the config of a recipe at a small size."""
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
  """The default training steps of the recipes on a GPU."""
  return {name: _steps(_trainer(_config(name))) for name in _BY_CUDNN}


def _chunk(model: LanguageModel, rows: int) -> list:
  """Returns the arguments for scoring a chunk."""
  ids = tf.zeros([rows, _T], tf.int32)
  return [ids, ids, model.initial_states(rows)]


def test_every_training_operation_has_a_gpu_kernel(
  traced: dict[str, graphs.Graph], monkeypatch: pytest.MonkeyPatch
) -> None:
  for function in traced.values():
    assert graphs.without_kernel(function) == set()
  # Also without cuDNN and XLA.
  monkeypatch.setattr(trainer_module, "xla_compiles_steps", lambda *_: False)
  for layer in _LAYERS:
    steps = _steps(_trainer(_config("text-1M", layer=layer), gru="fused"))
    assert not any("Cudnn" in name for name in graphs.operations(steps))
    assert graphs.without_kernel(steps) == set()


@pytest.mark.parametrize("layer", _LAYERS)
def test_every_scoring_and_random_operation_has_a_gpu_kernel(
  layer: str,
) -> None:
  model = model_of(Config(layer=layer, rnn_units=16, embedding_dim=8), _V)
  nats = Evaluator(model)._compiled_nats.get_concrete_function(
    *_chunk(model, 2)
  )
  assert "CudnnRNNV3" in graphs.operations(nats)
  assert graphs.without_kernel(nats) == set()
  step = _dynamic_step(model)
  assert "CudnnRNNV3" in graphs.operations(step)
  assert graphs.without_kernel(step) == set()
  draw = tf.function(lambda: numbers_of_texts(0, range(2), 0, [4, _V]))
  assert graphs.without_kernel(draw.get_concrete_function()) == set()


def _dynamic_step(model: LanguageModel) -> graphs.Graph:
  """Traces the step of dynamic evaluation without running it."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(DynamicEvaluator, "_pass", lambda *_, **__: np.zeros(1))
    evaluator = DynamicEvaluator(model, np.zeros(9))
  return evaluator._compiled_step.get_concrete_function(
    tf.zeros([1, 33], tf.int32), model.initial_states(1), tf.constant(0.1)
  )


@pytest.mark.parametrize("recipe", _BY_CUDNN)
def test_a_step_with_cudnn_has_a_few_hundred_operations(
  recipe: str, traced: dict[str, graphs.Graph]
) -> None:
  steps = traced[recipe]
  # There is no loop over time.
  assert max(node.depth for node in graphs.walk(steps)) == 1
  counts = graphs.operations(steps)
  num_layers = _config(recipe).num_layers
  assert counts["CudnnRNNV3"] == counts["CudnnRNNBackpropV3"] == num_layers
  number = graphs.num_of_step(steps)
  assert 0.8 * _BY_CUDNN[recipe] <= number <= _BY_CUDNN[recipe]


@pytest.mark.parametrize("layer", _LAYERS)
def test_xla_compiles_the_loop_over_time(layer: str) -> None:
  config = _config("best-1M", layer=layer)
  steps = _steps(_trainer(config, gru="fused"))
  assert max(node.depth for node in graphs.walk(steps)) == 1
  assert graphs.num_of_step(steps) <= 250  # not counting those under XLA


@pytest.mark.parametrize(("recipe", "number"), [("reference", 1), ("fast", 2)])
def test_a_step_sums_over_replicas_only_once_or_twice(
  recipe: str, number: int
) -> None:
  # As on GPUs, where TensorFlow batches the tensors of a sum.
  strategy = tf.distribute.MirroredStrategy(_GPUS)
  steps = _steps(_trainer(_config(recipe), strategy=strategy))
  sums = [x for x in graphs.walk(steps) if x.op == "CollectiveReduceV2"]
  assert sum(each.depth > 0 for each in sums) == number * len(_GPUS)


def test_every_operation_of_the_checksums_has_a_gpu_kernel() -> None:
  strategy = tf.distribute.MirroredStrategy(_GPUS)
  cluster = types.SimpleNamespace(strategy=strategy)
  trainer = _trainer(_config("fast"), strategy=strategy)
  replicas = Replicas(cast("Cluster", cluster), trainer)
  function = replicas._compiled.get_concrete_function()
  assert graphs.without_kernel(function) == set()
