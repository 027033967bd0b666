"""Choices by kind of device: layer, precision, XLA, replicas, Muon."""

import numpy as np
import pytest
import tensorflow as tf
from helpers import pretend_kind

from charlm.config import Config
from charlm.data.batches import build_batches
from charlm.errors import InputError
from charlm.evaluation.evaluator import Evaluator
from charlm.model.language_model import model_of
from charlm.system.devices import create_strategy
from charlm.training import optimizer as optimizer_module
from charlm.training.optimizer import build_optimizer
from charlm.training.options import TrainOptions
from charlm.training.replicas import number_of_replicas, one_replica_is_faster
from charlm.training.trainer import (
  Trainer,
  build_trainer,
  xla_compiles_steps,
)

_BFLOAT16 = {"precision": "bfloat16"}
_USE_FUSED = {"gru": "fused"}
_FEW = {"batch_size": 16}
_KERAS = ("KerasGRU", False, False)
_FUSED = ("FusedGRU", True, True)


def _trainer(options: TrainOptions, num_replicas: int) -> Trainer:
  config = options.config
  ids = np.random.default_rng(0).integers(2, 9, 3000, np.uint8)
  batches = build_batches(ids, config)
  strategy = create_strategy(num_replicas)
  return build_trainer(config, 9, batches, strategy, gru=options.gru)


@pytest.mark.parametrize(
  ("kind", "changes", "num_replicas", "layer_and_xla"),
  [
    ("CPU", {}, 1, ("FusedGRU", False, True)),
    ("CPU", _FEW, 1, ("FusedGRU", True, True)),
    ("CPU", _FEW, 2, ("FusedGRU", False, True)),
    ("CPU", _FEW | _BFLOAT16, 1, ("FusedGRU", False, True)),
    ("CPU", _FEW | {"layer": "lstm"}, 1, ("FusedLSTM", True, True)),
    ("CPU", {"gru": "keras"}, 1, ("KerasGRU", False, True)),
    ("GPU", {}, 1, _KERAS),
    ("GPU", _BFLOAT16, 1, _KERAS),
    ("GPU", _USE_FUSED, 1, _FUSED),
    ("GPU", _USE_FUSED | {"dropout_rate": 0.1}, 2, _FUSED),
    ("GPU", _USE_FUSED | _BFLOAT16, 2, _FUSED),
    ("GPU", {"layer": "lstm"}, 1, ("KerasLSTM", False, False)),
  ],
)
def test_layer_precision_and_xla_suit_the_device(
  kind: str,
  changes: dict,
  num_replicas: int,
  layer_and_xla: tuple[str, bool, bool],
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  sizes = {"seq_length": 9, "embedding_dim": 4, "rnn_units": 6}
  options = TrainOptions(**(sizes | changes))
  pretend_kind(monkeypatch, kind)
  trainer = _trainer(options, num_replicas)
  layer, xla_steps, xla_scores = layer_and_xla
  (used,) = {type(each).__name__ for each in trainer.model.recurrent_layers}
  assert used == layer
  if used == "FusedGRU":
    assert trainer.model.recurrent_layers[0].precision == options.precision
  assert trainer.compiled_by_xla is xla_steps
  assert Evaluator(trainer.model)._compiled_nats._jit_compile is xla_scores
  # Scoring, which does not know the options of the training, uses this layer.
  if options.gru == "auto":
    scoring = model_of(options.config, 9).recurrent_layers[0]
    assert type(scoring).__name__ == layer


@pytest.mark.parametrize(
  ("sizes", "one", "xla"),
  [
    ((16, 512, "float32", 0.0), True, True),
    ((17, 512, "float32", 0.0), False, False),
    ((4, 512, "bfloat16", 0.0), True, False),
    ((5, 512, "float32", 0.1), False, False),
    ((64, 1024, "float32", 0.0), True, False),
    ((64, 2047, "bfloat16", 0.0), False, False),
  ],
)
def test_few_windows_or_many_units_get_one_replica_on_a_cpu(
  sizes: tuple[int, int, str, float],
  one: bool,
  xla: bool,
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  names = ("batch_size", "rnn_units", "precision", "dropout_rate")
  config = Config(**dict(zip(names, sizes, strict=True)))
  assert one_replica_is_faster(config, "auto") is one
  # XLA does not compile Keras' layer.
  assert one_replica_is_faster(config, "keras") is (one and not xla)
  assert xla_compiles_steps(config, 1) is xla
  monkeypatch.setattr("charlm.training.replicas.num_cores", lambda: 2)
  several = not one and config.batch_size % 2 == 0
  number = number_of_replicas(config, asked=0, gru="auto")
  assert number == (2 if several else 1)


@pytest.mark.parametrize("layer", ["gru", "lstm"])
def test_keras_layer_takes_bfloat16_only_on_a_gpu(
  layer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
  config = Config(layer=layer, rnn_units=6, embedding_dim=4, **_BFLOAT16)
  with pytest.raises(InputError, match="no --precision=bfloat16"):
    model_of(config, 9, gru="keras", training=True)
  pretend_kind(monkeypatch, "GPU")
  model = model_of(config, 9, gru="keras", training=True)
  assert type(model.recurrent_layers[0]).__name__.startswith("Keras")


def test_muon_computes_the_same_one_by_one_and_batched(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  config = Config(optimizer="muon", embedding_dim=4, rnn_units=6)
  optimizer = build_optimizer(config, 9, model_of(config, 9))
  rng = np.random.default_rng(0)
  shapes = [(4, 6)] * 3 + [(6, 3)] * 2 + [(4, 6)]
  parts = [tf.constant(rng.normal(size=x), tf.float32) for x in shapes]
  results = []
  for together in (False, True):
    choice = optimizer_module.MUON_TOGETHER._replace(cpu=together)
    monkeypatch.setattr(optimizer_module, "MUON_TOGETHER", choice)
    results.append(optimizer._orthogonalise_all(dict(enumerate(parts))))
  one_by_one, batched = results
  assert batched.keys() == one_by_one.keys()
  for i, part in one_by_one.items():
    np.testing.assert_allclose(batched[i], part, rtol=0, atol=1e-5)
