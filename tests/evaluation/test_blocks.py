"""Texts of more characters than a score holds one by one."""

import dataclasses
from collections.abc import Callable

import keras
import numpy as np
import pytest
from helpers import build_model, score_of

from charlm.data.encoding import encode_text
from charlm.evaluation import evaluator as evaluator_module
from charlm.evaluation import score as score_module
from charlm.evaluation.dynamic import DynamicEvaluator
from charlm.evaluation.evaluator import Evaluator
from charlm.evaluation.score import Score
from charlm.model.language_model import GRULM

_NEWLINE = 2
# Newlines are frequent, rare, or missing in the middle.
_TEXTS = [(2, 12), (301, 40), (2503, 400)]


@pytest.fixture(scope="module")
def model() -> GRULM:
  keras.utils.set_random_seed(5)
  return build_model(12, 6, 10)


@pytest.fixture(scope="module")
def evaluator(model: GRULM) -> Evaluator:
  return Evaluator(model)


def _text(length: int, mean_line: int) -> np.ndarray:
  """Returns ids, some of them unknown, with empty lines and long ones."""
  rng = np.random.default_rng(length)
  ids = rng.integers(3, 12, length, np.uint8)
  ids[rng.random(length) < 1 / mean_line] = _NEWLINE
  ids[rng.random(length) < 0.05] = 0
  ids[length // 4 : length // 4 + 3] = _NEWLINE
  return ids


def _assert_close(blocks: Score, whole: Score, rel: float = 1e-12) -> None:
  for name in ("num_characters", "num_unknown"):
    assert getattr(blocks, name) == getattr(whole, name)
  for name in ("log_perplexity", "log_perplexity_known"):
    expected = pytest.approx(getattr(whole, name), rel=rel)
    assert getattr(blocks, name) == expected
  for name in ("values", "known"):
    sums = getattr(whole, name).sum(axis=1)
    np.testing.assert_allclose(getattr(blocks, name).sum(axis=1), sums, rel)


@pytest.mark.parametrize("max_blocks", [1, 299])
@pytest.mark.parametrize(("length", "mean_line"), _TEXTS)
def test_blocks_have_the_sums_of_their_characters(
  evaluator: Evaluator,
  monkeypatch: pytest.MonkeyPatch,
  length: int,
  mean_line: int,
  max_blocks: int,
) -> None:
  whole = _text(length, mean_line)
  protocols: list[Callable[[np.ndarray], Score]] = [
    evaluator.stream,
    lambda ids: evaluator.windows(ids, 32, 32),
    lambda ids: evaluator.windows(ids, 50, 7),
    lambda ids: evaluator.windows(ids, 5000, 5000),
    lambda ids: evaluator.lines(ids, _NEWLINE),
  ]
  expected = [protocol(whole) for protocol in protocols]
  monkeypatch.setattr(score_module, "MAX_BLOCKS", max_blocks)
  for protocol, score in zip(protocols, expected, strict=True):
    blocks = protocol(whole)
    assert blocks.values.shape[1] <= max_blocks
    assert len(blocks.nats) == 0
    _assert_close(blocks, score)


@pytest.mark.parametrize("size", [5, 333])
@pytest.mark.parametrize("end", [[_NEWLINE], [_NEWLINE, _NEWLINE], [5, 6]])
@pytest.mark.parametrize(("length", "mean_line"), _TEXTS)
def test_lines_are_the_same_in_blocks_of_text(
  evaluator: Evaluator,
  monkeypatch: pytest.MonkeyPatch,
  length: int,
  mean_line: int,
  end: list[int],
  size: int,
) -> None:
  """Those longer than a block are scored in one row, which rounds otherwise."""
  whole = np.append(_text(length, mean_line), np.array(end, np.uint8))
  expected = evaluator.lines(whole, _NEWLINE)
  monkeypatch.setattr(evaluator_module, "BLOCK", size)
  score = evaluator.lines(whole, _NEWLINE)
  _assert_close(score, expected, 1e-6)
  np.testing.assert_array_equal(score.known[1], expected.known[1])
  np.testing.assert_allclose(score.values[0], expected.values[0], rtol=1e-6)


@pytest.fixture(scope="module")
def dynamic(model: GRULM) -> DynamicEvaluator:
  return DynamicEvaluator(model, _text(2000, 30))


def test_dynamic_evaluation_has_the_same_sums_in_blocks(
  dynamic: DynamicEvaluator,
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  whole = _text(1000, 30)
  expected = dynamic.stream(whole)
  monkeypatch.setattr(score_module, "MAX_BLOCKS", 64)
  score = dynamic.stream(whole)
  assert score.values.shape == (2, 63)
  _assert_close(score, expected)


def test_blocks_are_neighbours_and_the_last_may_have_fewer(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  monkeypatch.setattr(score_module, "MAX_BLOCKS", 3)
  unknown = np.array([0, 0, 1, 0, 1, 1, 0], bool)
  score = score_of(np.arange(7.0), unknown)
  assert score.values.tolist() == [[3, 12, 6], [3, 3, 1]]
  assert score.known.tolist() == [[1, 3, 6], [2, 1, 1]]
  # Rows of the means 0, 1.5, 3.5 and 5.5: two by two.
  score = score_of(np.arange(7.0), unknown, np.array([1, 2, 2, 2]))
  assert score.values.tolist() == [[1.5, 9], [2, 2]]
  assert score.known.tolist() == [[1, 9], [2, 2]]


@pytest.mark.parametrize("max_blocks", [500, 1000, 5000])
def test_the_interval_of_blocks_is_about_that_of_characters(
  monkeypatch: pytest.MonkeyPatch, max_blocks: int
) -> None:
  rng = np.random.default_rng(3)
  nats = np.convolve(rng.exponential(size=20_100), np.full(30, 1 / 30))
  expected = score_of(nats).interval
  monkeypatch.setattr(score_module, "MAX_BLOCKS", max_blocks)
  low, high = score_of(nats).interval
  width = expected[1] - expected[0]
  assert (low, high) == pytest.approx(expected, abs=0.1 * width)


def test_a_text_that_fits_is_held_character_by_character(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  nats = np.random.default_rng(3).exponential(size=300).astype(np.float32)
  expected = score_of(nats).to_dict()
  monkeypatch.setattr(score_module, "MAX_BLOCKS", 300)
  score = score_of(nats)
  np.testing.assert_array_equal(score.values, [nats, np.ones(300)])
  assert score.to_dict() == expected


@pytest.mark.parametrize(
  ("text", "by_lines", "num_bytes"),
  [
    ("äb€", False, 4),
    ("äb€", True, 7),
    ("äb\n", True, 4),
    ("a\n\n", True, 3),
    ("", True, 1),
  ],
)
def test_bytes_are_those_of_what_is_scored(
  text: str, by_lines: bool, num_bytes: int
) -> None:
  encoded = encode_text([text]).text
  score = score_of(np.ones(1)).with_size_of(encoded, by_lines)
  assert score.num_bytes == num_bytes


def test_bits_per_byte() -> None:
  nats = np.log(np.array([2, 4, 8, 4]))
  score = dataclasses.replace(score_of(nats), num_bytes=16)
  assert score.bits_per_character == pytest.approx(2)
  assert score.bits_per_byte == pytest.approx(0.5)
  bits = {"character": pytest.approx(2), "byte": pytest.approx(0.5)}
  assert score.bits == bits
  assert score.to_dict()["unit"] == "character"
  score = dataclasses.replace(score_of(nats), unit="byte")
  assert score.bits_per_byte == score.bits_per_character
  assert score.bits == {"byte": pytest.approx(2)}
