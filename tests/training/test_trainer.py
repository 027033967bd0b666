import dataclasses
import functools
import itertools
import pathlib
import types
from collections.abc import Callable

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import build_model

from charlm.config import Config
from charlm.data.batches import Batches, build_batches
from charlm.errors import DivergedError, InputError
from charlm.system.devices import create_strategy
from charlm.training import trainer as trainer_module
from charlm.training.optimizer import build_optimizer
from charlm.training.replicas import number_of_replicas
from charlm.training.trainer import Trainer, TrainMetrics, build_trainer

VOCAB_SIZE = 12


def record(
  one: Trainer, num_steps: int, every: int = 1
) -> list[tuple[int, TrainMetrics]]:
  """Trains; takes the metrics at each multiple of a period, and at the end."""
  records = []
  while one.step < num_steps:
    one.train(min((one.step // every + 1) * every, num_steps))
    records.append((one.step, one.take_metrics()))
  return records


@pytest.fixture(autouse=True)
def no_xla(monkeypatch: pytest.MonkeyPatch) -> None:
  """Turns off XLA, which takes seconds to compile a step."""
  monkeypatch.setattr(trainer_module, "FEW_WINDOWS_FOR_XLA", 0)


@functools.cache
def strategy(num_replicas: int) -> tf.distribute.Strategy:
  return create_strategy(num_replicas)


# A `Config` is frozen, so that the calls can share one.
def batches(config: Config = Config()) -> Batches:  # noqa: B008
  ids = np.random.default_rng(0).integers(2, VOCAB_SIZE, 2000, np.uint8)
  # Every third character repeats the one before, so that a model can learn.
  ids[2::3] = ids[1::3][: len(ids[2::3])]
  sizes = {"seq_length": 9, "batch_size": 8, "seed": 4}
  return build_batches(ids, dataclasses.replace(config, **sizes))


def trainer(num_replicas: int = 1, **config: float) -> Trainer:
  sizes = {"embedding_dim": 6, "rnn_units": 16, "seq_length": 9}
  config = Config(**(sizes | {"batch_size": 8, "seed": 4} | config))
  return build_trainer(
    config, VOCAB_SIZE, batches(config), strategy(num_replicas)
  )


def weights(trainer: Trainer) -> list[np.ndarray]:
  return trainer.model.get_weights()


# All options of a step.
EVERYTHING = {
  "num_layers": 2,
  "dropout_rate": 0.2,
  "clip_norm": 0.1,
  "weight_decay": 0.1,
  "carry_state": True,
  "reset_rate": 0.1,
}
LSTM = EVERYTHING | {"num_layers": 1, "layer": "lstm"}


@pytest.mark.parametrize(
  ("config", "num_replicas", "xla", "tolerance"),
  [
    (EVERYTHING | {"num_layers": 1}, 4, False, 1e-6),
    (EVERYTHING | {"optimizer": "muon"}, 2, False, 1e-6),
    (LSTM | {"optimizer": "muon"}, 2, False, 1e-6),
    (EVERYTHING | {"num_layers": 1, "rnn_units": 64}, 2, True, 1e-5),
    (LSTM | {"rnn_units": 64}, 2, True, 1e-5),
  ],
)
def test_replicas_and_xla_train_the_same_model(
  config: dict,
  num_replicas: int,
  xla: bool,
  tolerance: float,
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  plain = trainer(1, **config)
  monkeypatch.setattr(trainer_module, "xla_compiles_steps", lambda *_: xla)
  one = trainer(num_replicas, **config)
  assert (plain.compiled_by_xla, one.compiled_by_xla) == (False, xla)
  start = weights(one)
  results = []
  for each in (plain, one):
    each.train(10)
    assert each._compiled.experimental_get_tracing_count() == 1
    results.append([*weights(each), each.train_state.states.numpy()])
  for mine, other in zip(*results, strict=True):
    np.testing.assert_allclose(mine, other, rtol=0, atol=tolerance)
  moved = [np.abs(a - b).max() for a, b in zip(start, results[1], strict=False)]
  assert min(moved) > 1e-3
  for variable in one.model.trainable_variables:
    copies = [copy.numpy() for copy in variable.value.values]
    assert len(copies) == num_replicas
    for copy in copies[1:]:
      np.testing.assert_array_equal(copies[0], copy)


def test_steps_and_checkpoints_equal_those_of_keras(
  tmp_path: pathlib.Path,
) -> None:
  one = trainer(weight_decay=0.1, learning_rate=0.01)
  theirs = build_model(VOCAB_SIZE, 6, 16, gru="keras")
  theirs.set_weights(weights(one))
  optimizer = keras.optimizers.AdamW(0.01, weight_decay=0.1)
  optimizer.exclude_from_weight_decay(var_names=["bias"])
  loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
  one.train(5)
  for step in range(5):
    windows = batches().batch(step).astype(np.int32)
    with tf.GradientTape() as tape:
      value = loss(windows[:, 1:], theirs(windows[:, :-1]))
    gradients = tape.gradient(value, theirs.trainable_variables)
    # Dense: Keras' Adam squares each row of a sparse gradient separately.
    gradients = [tf.convert_to_tensor(g) for g in gradients]
    optimizer.apply(gradients, theirs.trainable_variables)
  # Also the means of the gradients, since Adam's weights ignore their scale.
  for mine, other in zip(
    [*one.model.trainable_variables, *one.optimizer.variables],
    [*theirs.trainable_variables, *optimizer.variables],
    strict=True,
  ):
    np.testing.assert_allclose(mine, other, rtol=0, atol=1e-6)
  # A run trained with Keras' Adam can be resumed.
  path = str(tmp_path / "ckpt")
  saved = tf.train.Checkpoint(model=theirs, optimizer=optimizer).write(path)
  new = trainer(2, weight_decay=0.1, learning_rate=0.01)
  whole = tf.train.Checkpoint(model=new.model, optimizer=new.optimizer)
  whole.read(saved).assert_consumed()
  for mine, other in zip(
    [*new.model.trainable_variables, *new.optimizer.variables],
    [*theirs.trainable_variables, *optimizer.variables],
    strict=True,
  ):
    np.testing.assert_array_equal(mine, other)


@pytest.mark.parametrize(
  ("units", "weight_decay", "start"),
  # With 16 units gates are wide or square; with 5 they are tall or square, and
  # none is split into halves. The momentum rises until step 300.
  [(16, 0.0, 150), (5, 0.5, 299)],
)
def test_muon_equals_that_of_keras_on_each_part(
  units: int, weight_decay: float, start: int
) -> None:
  options = {"weight_decay": weight_decay, "learning_rate": 0.01}
  sizes = {"num_layers": 2, "rnn_units": units}
  one = trainer(optimizer="muon", **sizes, **options)
  theirs = build_model(VOCAB_SIZE, 6, units, num_layers=2)
  theirs.set_weights(weights(one))
  variables = theirs.trainable_variables
  kernels = [v for v in variables if "gru_cell" in v.path and v.ndim == 2]
  kernels = [v for v in kernels if "bias" not in v.path]
  assert len(kernels) == 4
  others = [v for v in variables if all(v is not k for k in kernels)]
  even = units % 2 == 0  # square gates are then split into halves
  nums = [6 if even and k.shape[0] == units else 3 for k in kernels]
  parts = [
    [keras.Variable(part) for part in np.split(kernel.numpy(), num, axis=1)]
    for kernel, num in zip(kernels, nums, strict=True)
  ]
  muon = keras.optimizers.Muon(ns_steps=3, rms_rate=0.4, **options)
  # The output layer learns twice as fast, but decays no faster.
  twice = {"weight_decay": weight_decay / 2, "learning_rate": 0.02}
  adams = [keras.optimizers.AdamW(**each) for each in (options, twice)]
  for adam in adams:
    adam.exclude_from_weight_decay(var_names=["bias", "embeddings"])
  for optimizer in (one.optimizer, *adams):
    optimizer.iterations.assign(start)
  chain = itertools.chain.from_iterable
  one.train(start + 3)
  for step in range(start, start + 3):
    windows = batches().batch(step).astype(np.int32)
    with tf.GradientTape() as tape:
      nats, _ = theirs.nats(windows[:, :-1], windows[:, 1:])
      value = tf.reduce_mean(nats)
    gradients = tape.gradient(value, [*kernels, *others])
    gradients = [tf.convert_to_tensor(g) for g in gradients]
    of_parts = map(functools.partial(tf.split, axis=1), gradients[:4], nums)
    muon.momentum = 0.85 + 0.1 * min(1, step / 300)
    muon.apply([*chain(of_parts)], [*chain(parts)])
    adams[0].apply(gradients[4:-2], others[:-2])
    adams[1].apply(gradients[-2:], others[-2:])  # the dense layer
    for kernel, of_kernel in zip(kernels, parts, strict=True):
      kernel.assign(tf.concat(of_kernel, axis=1))
  for mine, other in zip(weights(one), theirs.get_weights(), strict=True):
    np.testing.assert_allclose(mine, other, rtol=0, atol=1e-5)


def test_muon_in_bfloat16_takes_nearly_the_same_step() -> None:
  updates = []
  for precision in ("float32", "bfloat16"):
    # At this learning rate, the update rounds away the initial weights.
    options = {"precision": precision, "learning_rate": 1e4}
    one = trainer(1, optimizer="muon", rnn_units=96, **options)
    variables = one.model.trainable_variables
    rng = np.random.default_rng(0)
    gradients = [rng.normal(size=v.shape).astype(np.float32) for v in variables]
    tensors = [*map(tf.constant, gradients)]
    one.optimizer.apply_sums(tensors, one.optimizer.iterations.value)
    kernels = [v for v in variables if v.path.endswith("kernel")]
    updates.append([v.numpy() for v in kernels if "gru_cell" in v.path])
  for exact, rounded in zip(*updates, strict=True):
    error = np.linalg.norm(rounded - exact) / np.linalg.norm(exact)
    # bfloat16 keeps 8 bits, and each of three iterations multiplies small
    # singular values, and what their rounding has added, by up to 3.4.
    assert 2**-9 < error < 2**-4


def test_a_carried_state_comes_from_the_text_before() -> None:
  # No learning, so that the model keeps its weights.
  one = trainer(carry_state=True, learning_rate=1e-30)
  steps_per_epoch = one.batches.steps_per_epoch
  states = None
  for step, metrics in record(one, steps_per_epoch + 2):
    if step - 1 == steps_per_epoch:
      states = None  # in a new epoch, rows start elsewhere in the text
    windows = one.batches.batch(step - 1).astype(np.int32)
    log_probs, states = one.model(windows[:, :-1], states, return_state=True)
    nats = -tf.gather(log_probs, windows[:, 1:], batch_dims=2)
    assert metrics.loss == pytest.approx(float(tf.reduce_mean(nats)), abs=1e-6)
  np.testing.assert_allclose(one.train_state.states, states, atol=1e-6)


def test_a_share_of_the_carried_states_is_reset() -> None:
  one = trainer(1, carry_state=True, reset_rate=0.3, num_layers=2)
  states = tf.ones([2, 8, 16])
  zeros = []
  for step in range(300):
    seed = tf.constant([4, step], tf.int64)
    start = one._carried.initial_or_carried(states, seed)
    start = one.model.pack(start)
    sums = tf.reduce_sum(start, axis=[0, 2]).numpy()  # over both layers
    assert set(sums) <= {0.0, 32.0}
    if step % one.batches.steps_per_epoch == 0:  # where all are reset
      assert not sums.any()
    else:
      zeros.append(sums == 0)
  shares = np.mean(zeros, axis=0)
  assert ((shares > 0.2) & (shares < 0.4)).all()
  # Rows and steps are drawn independently.
  together = np.corrcoef(np.transpose(zeros)) - np.eye(8)
  assert np.abs(together).max() < 0.3
  assert abs(np.corrcoef(np.ravel(zeros[1:]), np.ravel(zeros[:-1]))[0, 1]) < 0.1


def test_each_step_has_new_dropout_masks() -> None:
  # No learning, and all windows are equal.
  sizes = {"embedding_dim": 6, "rnn_units": 16, "seq_length": 9}
  config = Config(
    **sizes, batch_size=200, learning_rate=1e-30, dropout_rate=0.5
  )
  text = build_batches(np.uint8(np.arange(2000) % 10 + 2), config)
  assert text.steps_per_epoch == 1
  one = build_trainer(config, VOCAB_SIZE, text, strategy(1))
  losses = [metrics.loss for _, metrics in record(one, 4)]
  assert np.abs(np.diff(losses)).min() > 1e-5


def test_metrics_are_means_over_their_steps() -> None:
  one, by_step = trainer(learning_rate=0.01), trainer(learning_rate=0.01)
  of_steps = [metrics for _, metrics in record(by_step, 14)]
  losses = [metrics.loss for metrics in of_steps]
  norms = [metrics.gradient_norm for metrics in of_steps]
  records = record(one, 7, every=4)
  assert [step for step, _ in records] == [4, 7]
  for (_, metrics), part in zip(
    records, (slice(0, 4), slice(4, 7)), strict=True
  ):
    assert metrics.loss == pytest.approx(np.mean(losses[part]), abs=1e-6)
    assert metrics.gradient_norm == pytest.approx(
      np.mean(norms[part]), abs=1e-6
    )
    assert metrics.learning_rate == pytest.approx(0.01)
  # A call returns the mean of its own steps only.
  for first, last in ((7, 10), (10, 14)):
    loss, _ = one.take_steps(last - first)
    assert loss == pytest.approx(np.mean(losses[first:last]), abs=1e-6)


def test_clipping_scales_the_update_by_the_global_norm() -> None:
  one = trainer(2, clip_norm=0.001)
  windows = batches().batch(0).astype(np.int32)
  with tf.GradientTape() as tape:
    log_probs = one.model(windows[:, :-1])
    loss = -tf.reduce_mean(tf.gather(log_probs, windows[:, 1:], batch_dims=2))
  variables = [v.value for v in one.model.trainable_variables]
  gradients = [tf.convert_to_tensor(g) for g in tape.gradient(loss, variables)]
  ((_, metrics),) = record(one, 1)
  assert metrics.loss == pytest.approx(float(loss), abs=1e-6)
  norm = float(tf.linalg.global_norm(gradients))
  assert metrics.gradient_norm == pytest.approx(norm, abs=1e-6)
  # After one step, Adam's mean is a tenth of the clipped gradient.
  means = [v.numpy() for v in one.optimizer.variables if "momentum" in v.path]
  assert len(means) == len(weights(one))
  clipped = 10 * np.sqrt(sum((m.astype(np.float64) ** 2).sum() for m in means))
  assert clipped == pytest.approx(0.001, rel=1e-4)


@pytest.mark.parametrize("warmup_steps", [0, 4])
@pytest.mark.parametrize(
  ("schedule", "fall"),
  [
    ("cosine", lambda x: 0.5 + np.cos(np.pi * x) / 2),
    ("linear", lambda x: 1 - x),
  ],
)
def test_a_schedule_rises_and_falls_to_zero(
  schedule: str,
  fall: Callable[[np.ndarray], np.ndarray],
  warmup_steps: int,
) -> None:
  config = Config(
    learning_rate=0.01, schedule=schedule, warmup_steps=warmup_steps
  )
  model, num_steps = build_model(VOCAB_SIZE, 6, 16), 25
  optimizer = build_optimizer(config, num_steps, model)
  steps, rates = np.arange(1, num_steps + 1), []
  for step in steps:
    optimizer.iterations.assign(step)
    rates.append(float(optimizer.learning_rate))
  after = (steps - warmup_steps) / (num_steps - warmup_steps)
  rising = steps / max(1, warmup_steps)
  expected = np.where(steps < warmup_steps, rising, fall(after))
  np.testing.assert_allclose(rates, 0.01 * expected, atol=1e-8)


def test_a_restored_run_continues_as_if_never_stopped(
  tmp_path: pathlib.Path,
) -> None:
  def objects(one: Trainer) -> dict[str, object]:
    return {
      "model": one.model,
      "optimizer": one.optimizer,
      "train_state": one.train_state,
    }

  def variables(one: Trainer) -> list[tf.Variable]:
    states = one.train_state.states
    return [*one.model.variables, *one.optimizer.variables, states]

  options = EVERYTHING | {"layer": "lstm"}  # the soak resumes a GRU
  unbroken, resumed = (trainer(1, **options) for _ in range(2))
  record(unbroken, 5, every=5)
  unbroken.train(7)
  path = tf.train.Checkpoint(**objects(unbroken)).write(str(tmp_path / "ckpt"))
  whole = record(unbroken, 12, every=5)
  tf.train.Checkpoint(**objects(resumed)).read(path).assert_consumed()
  rest = record(resumed, 12, every=5)
  pairs = zip(variables(unbroken), variables(resumed), strict=True)
  for mine, other in pairs:
    np.testing.assert_array_equal(mine, other)
  # The metrics at step 10 are of steps before and after the stop.
  assert [(s, r.loss, r.gradient_norm) for s, r in whole] == [
    (s, r.loss, r.gradient_norm) for s, r in rest
  ]


def test_a_call_takes_about_a_second_and_at_most_100_steps(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  def clock(seconds_per_call: float) -> types.SimpleNamespace:
    times = itertools.count(step=seconds_per_call)
    return types.SimpleNamespace(perf_counter=lambda: next(times))

  def calls(one: Trainer, num_steps: int) -> list[int]:
    ends = []
    while (left := num_steps - one.step) > 0:
      steps = one.steps_per_call(left)
      _, speed = one.take_steps(steps)
      assert speed == 72 * steps / seconds_per_call
      ends.append(one.step)
    return ends

  one, seconds_per_call = trainer(), 0.5
  monkeypatch.setattr("charlm.training.trainer.time", clock(0.5))
  assert calls(one, 200) == [1, 3, 7, 15, 31, 63, 127, 200]
  assert one.take_metrics().characters_per_second == 72 * 200 / 4
  assert calls(one, 400) == [300, 400]
  assert one.take_metrics().characters_per_second == 72 * 200 / 1
  # At least one step, however long it takes.
  seconds_per_call = 200.0
  monkeypatch.setattr("charlm.training.trainer.time", clock(200.0))
  assert calls(one, 503) == [500, 501, 502, 503]
  # All numbers of steps share one trace.
  assert one._compiled.experimental_get_tracing_count() == 1


def test_a_loss_that_is_not_finite_names_its_step() -> None:
  config = Config(embedding_dim=6, rnn_units=16, seq_length=9, batch_size=8)
  ids = np.full(800, 2, np.uint8)
  # A character that occurs once, in the window of a single replica.
  ids[404] = 3
  one = build_trainer(
    config, VOCAB_SIZE, Batches(ids, 9, 8), strategy(2), gru="keras"
  )
  embeddings = one.model.embedding.embeddings
  poison = np.zeros(embeddings.shape, np.float32)
  poison[3] = float("nan")
  embeddings.assign(embeddings + poison)
  (step,) = (i + 1 for i in range(10) if 3 in one.batches.batch(i)[:, :-1])
  message = rf"step {step} \(batch {step} of ep.*--learning_rate"
  with pytest.raises(DivergedError, match=message):
    one.train(10)


def test_impossible_replica_counts_are_refused() -> None:
  with pytest.raises(InputError, match="does not divide"):
    number_of_replicas(Config(batch_size=8), asked=3, gru="auto")
  with pytest.raises(InputError, match="train in a new process"):
    create_strategy(8)
  assert create_strategy(8, or_fewer=True).num_replicas_in_sync == 4
