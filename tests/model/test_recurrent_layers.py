"""The interface of every recurrent layer, and the equation of minGRU."""

import dataclasses
import pathlib
import runpy
from collections.abc import Callable

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import PROGRAMS, ROOT, evaluating_quickly

import charlm
from charlm.config import Config
from charlm.errors import InputError
from charlm.model.language_model import LanguageModel, model_of
from charlm.model.layers import RecurrentLayer, import_layer

_V, _D, _H = 7, 3, 4
_CONFIG = Config(embedding_dim=_D, rnn_units=_H, num_layers=2)
_MINGRU = ROOT / "examples" / "mingru.py"
_KINDS = ["fused gru", "keras gru", "fused lstm", "keras lstm", "auto MinGRU"]


def _model(kind: str) -> LanguageModel:
  code, name = kind.split()
  own = import_layer(f"{_MINGRU}:MinGRU") if name == "MinGRU" else None
  config = dataclasses.replace(_CONFIG, layer=name)
  keras.utils.set_random_seed(1)
  model = model_of(config, _V, gru=code, layer=own)
  rng = np.random.default_rng(0)
  model.set_weights([rng.normal(size=w.shape) for w in model.weights])
  return model


def _ids(*shape: int) -> np.ndarray:
  return np.random.default_rng(1).integers(0, _V, shape, np.int32)


def _assert_equal(one: object, other: object) -> None:
  for mine, theirs in zip(
    tf.nest.flatten(one), tf.nest.flatten(other), strict=True
  ):
    np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", _KINDS)
def test_windows_and_single_steps_compute_the_same(kind: str) -> None:
  model, ids = _model(kind), _ids(2, 9)
  log_probs, end = model(ids, return_state=True)
  # The second half, from a state that was packed and unpacked.
  _, middle = model(ids[:, :4], return_state=True)
  packed = model.pack(middle)
  assert packed.shape[:2] == [2, 2]
  rest = model(ids[:, 4:], model.unpack(packed), return_state=True)
  _assert_equal(rest, (log_probs[:, 4:], end))
  states, table = model.initial_states(2), model.input_table()
  for t in range(ids.shape[1]):
    one, states = model.read(tf.gather(table, ids[:, t]), states)
    _assert_equal(one, log_probs[:, t])
  _assert_equal(states, end)


@pytest.mark.parametrize("kind", _KINDS)
def test_ids_and_their_embeddings_give_the_same_outputs(kind: str) -> None:
  model, ids = _model(kind), _ids(2, 5)
  first = model.recurrent_layers[0]
  embeddings = tf.convert_to_tensor(model.embedding.embeddings)
  sequences = tf.gather(embeddings, ids)
  state = first.initial_state(2)
  plain = first(sequences, initial_state=state)
  _assert_equal(first.call_ids(ids, embeddings, state), plain)
  default = RecurrentLayer.call_ids(first, ids, embeddings, state)
  _assert_equal(default, plain)
  one = RecurrentLayer.step(first, sequences[:, 0], state)
  _assert_equal(one, first.step(first.project(sequences[:, 0]), state))


@pytest.mark.parametrize("kind", _KINDS)
def test_matrices_have_one_part_per_gate(kind: str) -> None:
  model = _model(kind)
  assert len(model.matrices()) == (2 if "MinGRU" in kind else 4)
  for matrix, num_gates in model.matrices():
    assert matrix.shape[1] == num_gates * _H


def test_mingru_computes_its_equation() -> None:
  layer = import_layer(f"{_MINGRU}:MinGRU")(_H)
  layer.build([None, None, _D])
  rng = np.random.default_rng(0)
  for weight in layer.weights:
    weight.assign(rng.normal(size=weight.shape))
  x, h = rng.normal(size=(5, _D)).astype(np.float32), np.ones(_H)
  outputs, state = layer(x[np.newaxis], initial_state=h[np.newaxis])
  kernel, bias = layer.get_weights()
  for x_t, output in zip(x, outputs[0], strict=True):
    z = 1 / (1 + np.exp(-(x_t @ kernel + bias)[:_H]))
    h = (1 - z) * h + z * (x_t @ kernel + bias)[_H:]
    np.testing.assert_allclose(output, h, atol=1e-5)
  np.testing.assert_allclose(state[0], h, atol=1e-5)


@pytest.mark.parametrize("kind", ["loop", "scan"])
def test_the_linear_recurrence_has_the_gradients_of_its_steps(
  kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
  names = runpy.run_path(str(_MINGRU))
  linear_recurrence = names["linear_recurrence"]
  namespace = names["_scan"].__globals__
  choice = namespace["LINEAR_SCAN"]._replace(cpu=kind)
  monkeypatch.setitem(namespace, "LINEAR_SCAN", choice)
  rng = np.random.default_rng(0)
  shapes = [2, 6, 3], [2, 6, 3], [2, 3]
  inputs = [tf.constant(rng.uniform(size=s), tf.float32) for s in shapes]

  def steps(kept: tf.Tensor, added: tf.Tensor, state: tf.Tensor) -> tf.Tensor:
    states = [state]
    for t in range(kept.shape[1]):
      states.append(kept[:, t] * states[-1] + added[:, t])
    return tf.stack(states[1:], axis=1)

  def run(function: Callable[..., tf.Tensor]) -> list[tf.Tensor]:
    with tf.GradientTape() as tape:
      tape.watch(inputs)
      outputs = function(*inputs)
      loss = tf.reduce_sum(outputs**3)
    return [outputs, *tape.gradient(loss, inputs)]

  _assert_equal(run(linear_recurrence), run(steps))


@pytest.mark.usefixtures("quick_evaluations")
def test_options_that_a_layer_does_not_support_get_their_defaults(
  train_args: list[str],
  tmp_path: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
) -> None:
  (tmp_path / "my.flags").write_text("--precision=bfloat16\n")
  args = [*train_args, f"--layer={_MINGRU}:MinGRU", f"--run_dir={tmp_path}/run"]
  args += [f"--flagfile={tmp_path}/my.flags", "--gru=fused", "--epochs=0"]
  for _ in range(2):  # the second time it resumes
    assert PROGRAMS["train.py"].main(args) == 0
    out = capsys.readouterr().out
    for default in ("--precision=float32", "--gru=auto"):
      assert f"{default}: --layer=MinGRU has no other" in out


@pytest.mark.parametrize("layer", ["lstm", f"{_MINGRU}:MinGRU"])
def test_a_layer_is_trained_scored_sampled_and_exported(
  layer: str,
  trained: Callable[..., pathlib.Path],
  tmp_path: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
) -> None:
  flags = ["--num_layers=2", "--valid_lines=20", "--carry_state"]
  name = layer.rpartition(":")[2]
  run_dir = trained(name, f"--layer={layer}", *flags, "--optimizer=muon")
  own = [f"--layer={layer}"] if name == "MinGRU" else []

  def run(program: str, *args: str) -> tuple[int, str, str]:
    argv = [program, f"--run_dir={run_dir}", *own, *args]
    code = PROGRAMS[program].main(argv)
    return (code, *capsys.readouterr())

  # XLA compiles the layer and its gradients.
  assert run("eval.py", "--protocol=stream", "--dynamic")[0] == 0
  with evaluating_quickly():
    assert run("eval.py", "--protocol=lines")[0] == 0
  assert run("sample.py", "--num_chars=20", "--num_samples=2")[0] == 0
  model = charlm.load(run_dir, layer=import_layer(layer) if own else None)
  ids = model.ids("the king")[np.newaxis]
  probs = np.exp(model.model(ids)[0, -1])
  np.testing.assert_allclose(probs, model.next("the king"), atol=1e-6)
  state = [
    np.zeros_like(x)
    for x in tf.nest.flatten(model.model(ids, return_state=True)[1])
  ]
  code, _, err = run("export.py", f"--output={tmp_path}/saved")
  assert code == 0
  # The valid text chose it; the scores and samples above used the same one.
  which = f"the best checkpoint, step {model.step} (--checkpoint=auto)"
  assert f"{run_dir}: {which}\n" in err
  saved = tf.saved_model.load(str(tmp_path / "saved"))
  log_probs, *_ = saved.serve([ids, *state])
  np.testing.assert_allclose(np.exp(log_probs[0, -1]), probs, atol=1e-6)
  code, _, err = run(
    "export.py", "--format=keras", f"--output={tmp_path}/x.keras"
  )
  has_form = model.model.recurrent_layers[0].keras_layer() is not None
  assert code == (0 if has_form else 2)
  assert err.count("\n") == 1  # the name of the checkpoint, or the refusal
  if has_form:
    theirs = keras.models.load_model(tmp_path / "x.keras")
    log_probs, *_ = theirs([*map(tf.constant, [ids, *state])])
    np.testing.assert_allclose(np.exp(log_probs[0, -1]), probs, atol=1e-6)
  assert run("export.py", "--format=npz", f"--output={tmp_path}/x.npz")[0] == 0
  arrays = np.load(tmp_path / "x.npz")
  expected = model.model.recurrent_layers[-1].get_weights()[0]
  np.testing.assert_array_equal(arrays["kernel_1"], expected)


def test_a_layer_with_a_project_needs_its_own_step() -> None:
  with pytest.raises(TypeError, match="give it a `step`"):
    type("Wrong", (RecurrentLayer,), {"project": lambda self, inputs: inputs})


@pytest.mark.usefixtures("quick_evaluations")
def test_the_example_of_a_layer_of_your_own(
  corpus_path: pathlib.Path,
  tmp_path: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
) -> None:
  file = ROOT / "examples" / "own_layer.py"
  layer = import_layer(f"{file}:IndRNN")
  # The corpus alone is shorter than the default eval text.
  text = corpus_path.read_text() * 5
  (tmp_path / "text.txt").write_text(text)
  run_dir = tmp_path / "run"
  flags = [f"--layer={file}:IndRNN", f"--corpus={tmp_path / 'text.txt'}"]
  flags += ["--epochs=1", "--rnn_units=8", f"--run_dir={run_dir}"]
  assert PROGRAMS["train.py"].main(["train.py", *flags]) == 0
  assert "IndRNN, 1 layer of " in capsys.readouterr().out
  page = (ROOT / "docs" / "your-model.md").read_text()
  _, code = file.read_text().split("\n\n\n", 1)
  assert code in page
  # Without matrices, Muon has nothing to update.
  bare = {"matrices": charlm.RecurrentLayer.matrices}
  with pytest.raises(InputError, match="names no matrices"):
    charlm.train(
      layer=type("Bare", (layer,), bare),
      corpus=str(tmp_path / "text.txt"),
      recipe="auto",
      run_dir=str(tmp_path / "muon"),
    )
  with pytest.raises(InputError, match=r"your own as --layer=FILE\.py:IndRNN"):
    charlm.load(run_dir)
  with pytest.raises(InputError, match="the layer IndRNN, not MinGRU"):
    charlm.load(run_dir, layer=import_layer(f"{_MINGRU}:MinGRU"))


def test_python_trains_a_layer_by_its_name(
  corpus_path: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  run_dir = str(tmp_path / "run")
  flags = {"corpus": str(corpus_path), "eval_lines": 1, "run_dir": run_dir}
  assert charlm.train(layer="lstm", epochs=0, rnn_units=8, **flags) == 0
  assert charlm.load(run_dir).config.layer == "lstm"
