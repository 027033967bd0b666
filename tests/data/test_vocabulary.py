import numpy as np
import pytest
import tensorflow as tf
from helpers import SHAKESPEARE_VOCAB as VOCAB
from hypothesis import given
from hypothesis import strategies as st

from charlm.data import tensors, vocabulary
from charlm.data.cleaning import clean_chunks


@pytest.mark.parametrize(
  ("line", "ids"),
  [
    ("Hello world!", [34, 59, 66, 66, 69, 4, 77, 69, 72, 66, 58, 5]),
    ("abc xyz", [55, 56, 57, 4, 78, 79, 80]),
    ("aéb😀", [55, 0, 56, 0]),
    ("", []),
  ],
)
def test_line_to_tensor_and_encode_agree(line: str, ids: list[int]) -> None:
  tensor = tensors.line_to_tensor(line, VOCAB)
  assert tensor.dtype == tf.int64
  assert tensor.numpy().tolist() == ids
  array = vocabulary.encode(line, VOCAB)
  assert array.dtype == np.uint8
  assert array.tolist() == ids


@pytest.mark.parametrize("kind", [list, tf.constant])
def test_several_lines_become_ragged_rows(kind: type) -> None:
  ids = tensors.line_to_tensor(kind(["ab", "é", "abc"]), VOCAB)
  assert ids.to_list() == [[55, 56], [0], [55, 56, 57]]
  texts = tensors.text_from_ids(ids, VOCAB)
  assert texts.numpy().tolist() == [b"ab", b"[UNK]", b"abc"]


def test_decoding_drops_padding() -> None:
  ids = vocabulary.encode("ab", VOCAB)
  assert tensors.text_from_ids(ids, VOCAB).numpy() == b"ab"
  ids = tf.constant([[55, 56, 1, 1], [55, 1, 1, 1]])
  texts = tensors.text_from_ids(ids, VOCAB)
  assert texts.numpy().tolist() == [b"ab", b"a"]
  assert vocabulary.decode(np.array([55, 1, 56]), VOCAB) == "ab"


@pytest.mark.parametrize(
  ("size", "dtype"),
  [
    (256, np.uint8),
    (257, np.uint16),
    (2**16, np.uint16),
    (2**16 + 1, np.uint32),
  ],
)
def test_ids_have_the_smallest_type_that_fits(size: int, dtype: type) -> None:
  vocab = [*vocabulary.SPECIAL, *map(chr, range(0x10000, 0x20000))][:size]
  ids = vocabulary.encode(vocab[-1], vocab)
  assert (ids.dtype, ids.tolist()) == (dtype, [size - 1])


def test_unknown_characters_are_listed() -> None:
  assert vocabulary.unknown_characters("éaéß", VOCAB) == "'ß' 'é'"
  assert not vocabulary.unknown_characters("a", VOCAB)
  assert vocabulary.encode("\ud800\U0010ffff", VOCAB).tolist() == [0, 0]


def test_extending_a_vocabulary_appends_new_characters_sorted() -> None:
  initial = vocabulary.build_vocabulary(["bc"])
  extended = vocabulary.extend_vocab(initial, "cab\nd")
  assert extended == [*initial, "\n", "a", "d"]
  assert vocabulary.extend_vocab(initial, "bbc") == initial


# All characters except surrogates, which UTF-8 excludes.
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_round_trips_through_its_vocabulary(text: str) -> None:
  cleaned = "".join(clean_chunks([text]))
  vocab = vocabulary.build_vocabulary(cleaned.split("\n"))
  ids = vocabulary.encode(cleaned, vocab)
  assert vocabulary.decode(ids, vocab) == cleaned
