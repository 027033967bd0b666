"""Passages of a text that are copied from another one."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charlm.data import passages
from charlm.data.corpus import encode_text
from charlm.data.passages import Passage, find_passages
from charlm.data.text import Text


def _text(string: str) -> Text:
  return encode_text([string], "utf-8").text


def test_copied_passages_are_found_with_their_places() -> None:
  rng = random.Random(0)
  train = "".join(rng.choices("abcdefgh ", k=3000))
  # Copied: 50 characters, then 29 (too few), 30, 31, and 40.
  parts = [train[100:150], "x", train[300:329], "y", train[400:430]]
  parts += ["z", train[1000:1031], "w", train[2000:2040]]
  text = "".join(parts)
  (found,) = find_passages([text], _text(train))
  assert found.passages == (
    Passage(0, 50, 100),
    Passage(81, 30, 400),
    Passage(112, 31, 1000),
    Passage(144, 40, 2000),
  )
  assert found.share == pytest.approx((50 + 30 + 31 + 40) / len(text))


def test_nothing_is_found_if_nothing_was_copied() -> None:
  train = _text("abc" * 100)
  texts = ["", "a", "abc" * 9, "acb" * 50, "x" * 100, "é" * 40]
  assert [found.passages for found in find_passages(texts, train)] == [()] * 6
  assert find_passages([], train) == []
  assert find_passages(["abc" * 50], _text("ab")) == find_passages([""], train)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_passages_cover_exactly_the_copied_characters(
  data: st.DataObject,
) -> None:
  size = data.draw(st.integers(1, 7))
  letters = st.text("abé", max_size=60)
  train, text = data.draw(letters), data.draw(letters)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(passages, "MIN_LENGTH", size)
    patch.setattr(passages, "_CHUNK", data.draw(st.integers(1, 9)))
    (found,) = find_passages([text], _text(train))
  covered = np.zeros(len(text), bool)
  for start, length, place in found.passages:
    assert length >= size
    assert text[start : start + length] == train[place : place + length]
    assert place == train.find(text[start : start + size])
    covered[start : start + length] = True
  expected = np.zeros(len(text), bool)
  for i in range(len(text) - size + 1):
    if text[i : i + size] in train:
      expected[i : i + size] = True
  np.testing.assert_array_equal(covered, expected)
  assert found.share == pytest.approx(expected.mean() if len(text) else 0)
