"""Weights of the reference's model, saved with Keras 3 and with Keras 2."""

import json
import pathlib
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import in_a_graph

import charlm
import eval as eval_program
import train as train_program
from charlm.data.vocabulary import encode

pytestmark = pytest.mark.usefixtures("quick_evaluations")

# Saved in Keras 2 by the model below, with the vocabulary of the tests' corpus.
_KERAS_2 = pathlib.Path(__file__).parent / "keras_2"


class Reference(keras.Model):
  """The model of the reference, in its own code."""

  def __init__(self, vocab_size: int) -> None:
    super().__init__()
    self.embedding = keras.layers.Embedding(vocab_size, 8)
    self.gru = keras.layers.GRU(16, return_sequences=True, return_state=True)
    self.dense = keras.layers.Dense(vocab_size, activation=tf.nn.log_softmax)

  def call(self, inputs: tf.Tensor) -> tf.Tensor:
    x, _ = self.gru(self.embedding(inputs))
    return self.dense(x)


def _reference(vocab_size: int) -> keras.Model:
  """Returns a model with the weights of the stored files."""
  model = Reference(vocab_size)
  model(np.zeros([1, 2], int))
  weights = [
    np.sin(np.arange(weight.size) + i).reshape(weight.shape)
    for i, weight in enumerate(model.get_weights())
  ]
  model.set_weights(weights)
  return model


@pytest.fixture(scope="module")
def vocab(trained_run: pathlib.Path) -> list[str]:
  """The vocabulary of the corpus that the tests share."""
  text = (trained_run / "vocabulary.json").read_text()
  return json.loads(text)


def _init_from(
  path: pathlib.Path, run: pathlib.Path, train_args: list[str], *more: str
) -> int:
  args = [f"--init_from={path}", f"--run_dir={run}", "--epochs=0"]
  return train_program.main([*train_args, *args, *more])


def _score(run: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> float:
  capsys.readouterr()
  assert eval_program.main(["eval.py", f"--run_dir={run}", "--json"]) == 0
  return json.loads(capsys.readouterr().out)["log_perplexity"]


def _expected(model: keras.Model, text: str, vocab: list[str]) -> float:
  ids = encode(text, vocab).astype(int)
  log_probs = in_a_graph(model)(ids[np.newaxis, :-1]).numpy()[0]
  return -log_probs[np.arange(len(ids) - 1), ids[1:]].mean()


@pytest.mark.parametrize("version", [2, 3])
def test_imported_weights_have_the_same_loss_as_in_keras(
  version: int,
  vocab: list[str],
  train_args: list[str],
  tmp_path: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
) -> None:
  model, run = _reference(len(vocab)), tmp_path / "run"
  if version == 3:
    path = tmp_path / "model.weights.h5"
    model.save_weights(path)
  else:  # under the name that the course gives
    path = tmp_path / "model" / ".index"
    path.parent.mkdir()
    for file in _KERAS_2.iterdir():
      shutil.copy(file, path.with_name(file.name.removeprefix("model")))
  assert _init_from(path, run, train_args) == 0
  text = (run / "eval.txt").read_text()
  expected = _expected(model, text, vocab)
  assert abs(_score(run, capsys) - expected) < 1e-5
  if version == 2:
    return
  # The run resumes without the file.
  path.unlink()
  assert _init_from(path, run, train_args, "--epochs=1") == 0
  assert abs(_score(run, capsys) - expected) > 0.1


def test_weights_that_do_not_fit_are_refused(
  vocab: list[str],
  train_args: list[str],
  tmp_path: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
) -> None:
  path = tmp_path / "model.weights.h5"
  model = _reference(len(vocab))
  model.save_weights(path)
  diverged = tmp_path / "diverged.weights.h5"
  model.dense.bias.assign(np.full(len(vocab), np.nan))
  model.save_weights(diverged)
  two_layers = tmp_path / "two.weights.h5"
  larger = charlm.GRULM(len(vocab), 8, 16, num_layers=2)
  larger(np.zeros([1, 2], int))
  larger.save_weights(two_layers)
  for file, flag, message in (
    (path, "--rnn_units=9", "(8, 27)"),
    (path, "--num_layers=2", "component not found"),
    (two_layers, "--num_layers=1", "more than 1 GRU"),
    (diverged, "--seed=0", "not finite"),
  ):
    assert _init_from(file, tmp_path / "run", train_args, flag) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "give the corpus and the sizes of that model" in error
  assert not (tmp_path / "run").exists()
