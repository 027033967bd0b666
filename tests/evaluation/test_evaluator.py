"""Compares the protocols with plain calls of the model."""

from collections.abc import Callable

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import build_model, in_a_graph

from charlm.evaluation.evaluator import Evaluator
from charlm.evaluation.score import Score, log_perplexity
from charlm.model.language_model import GRULM

_NEWLINE = 2

Predict = Callable[[np.ndarray], tf.Tensor]


@pytest.fixture(scope="module")
def model() -> GRULM:
  keras.utils.set_random_seed(5)
  return build_model(12, 6, 10, num_layers=2)


@pytest.fixture(scope="module")
def predict(model: GRULM) -> Predict:
  """The model as a function of ids `[B, T]`."""
  return in_a_graph(model)


@pytest.fixture(scope="module")
def evaluator(model: GRULM) -> Evaluator:
  """An evaluator for all tests, so that each size is compiled once."""
  return Evaluator(model, 128)


def _ids(length: int) -> np.ndarray:
  """Returns ids, some of them unknown."""
  ids = np.random.default_rng(1).integers(2, 12, length, np.uint8)
  ids[::7] = 0
  return ids


def _nats(predict: Predict, ids: np.ndarray) -> np.ndarray:
  """Scores a text in one call of the model, from the initial state."""
  log_probs = predict(ids[np.newaxis, :-1])[0].numpy()
  return -log_probs[np.arange(len(ids) - 1), ids[1:]]


@pytest.mark.parametrize("length", [2, 129, 130, 300])
def test_a_stream_in_chunks_equals_one_call(
  predict: Predict, evaluator: Evaluator, length: int
) -> None:
  ids = _ids(length)
  nats = evaluator.stream(ids)
  np.testing.assert_allclose(nats, _nats(predict, ids), atol=1e-5)


@pytest.mark.parametrize(
  ("length", "window", "stride"),
  # The last one has more windows than fit into a batch.
  [(301, 200, 50), (40, 64, 32), (130, 64, 64), (200, 50, 2)],
)
def test_windows_start_from_zero_and_score_each_character_once(
  predict: Predict, evaluator: Evaluator, length: int, window: int, stride: int
) -> None:
  ids = _ids(length)
  expected = np.full(length - 1, np.nan)
  for start in range(0, length - 1, stride):
    nats = _nats(predict, ids[start : start + window + 1])
    for i, x in enumerate(nats, start):
      if np.isnan(expected[i]):
        expected[i] = x
  nats = evaluator.windows(ids, window, stride)
  np.testing.assert_allclose(nats, expected, atol=1e-5)


@pytest.fixture(scope="module")
def lines() -> list[np.ndarray]:
  """More lines than fit into a batch, some empty, some of several chunks."""
  rng = np.random.default_rng(4)
  lengths = [*rng.integers(0, 80, 70), 0, 64, 300, 150, 1]
  return [rng.integers(3, 12, length, np.uint8) for length in lengths]


def _joined(lines: list[np.ndarray]) -> np.ndarray:
  """Joins the lines, each with its newline."""
  return np.concatenate([np.append(x, np.uint8(_NEWLINE)) for x in lines])


def test_each_line_is_scored_on_its_own(
  predict: Predict, evaluator: Evaluator, lines: list[np.ndarray]
) -> None:
  by_line = [
    _nats(predict, np.concatenate([[_NEWLINE], line, [_NEWLINE]]))
    for line in lines
  ]
  text = _joined(lines)
  nats, ids, lengths = evaluator.lines(text, _NEWLINE)
  score = Score(nats, ids, num_bytes=len(ids), line_lengths=lengths)
  np.testing.assert_allclose(nats, np.concatenate(by_line), atol=1e-5)
  np.testing.assert_array_equal(ids, text)
  expected = np.mean([nats.mean() for nats in by_line])
  assert score.log_perplexity == pytest.approx(expected, abs=1e-6)
  # The last line's newline is scored even if it is missing.
  without_end, _, _ = evaluator.lines(text[:-1], _NEWLINE)
  np.testing.assert_array_equal(without_end, nats)
  # The reference's function gives the same.
  padded = np.full([len(lines), 301], 1)
  inputs = np.full([len(lines), 301], _NEWLINE)
  for row, start, line in zip(padded, inputs, lines, strict=True):
    row[: len(line) + 1] = np.append(line, _NEWLINE)
    start[1 : len(line) + 1] = line
  reference = float(log_perplexity(predict(inputs), padded))
  assert score.log_perplexity == pytest.approx(reference, abs=1e-5)


def test_an_exception_before_a_chunk_ends_the_evaluation(
  evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.setattr(evaluator, "_before_chunk", [None, None].pop)
  evaluator.stream(_ids(2 * 128 + 1))
  with pytest.raises(IndexError):
    evaluator.stream(_ids(2))
