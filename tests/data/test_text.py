import random
import tracemalloc

import numpy as np
import pytest

from charlm.data import corpus as corpus_module
from charlm.data import text as text_module
from charlm.data.corpus import encode_text
from charlm.data.text import sha256
from charlm.data.vocabulary import build_vocabulary, encode

TEXTS = {
  "one byte": "to be or not to be\n" * 40,
  "two bytes": "".join(map(chr, range(32, 900))) + "ab" * 90,
  "four bytes": "".join(map(chr, range(0x1F600, 0x1F640))) + "\u05d0\u0301" * 9,
  "ideographs": "".join(map(chr, range(0x4E00, 0x4E00 + 5000))) * 2,
  "empty": "",
}
texts = pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)


@texts
@pytest.mark.parametrize("size", [97, 10**6])
def test_an_encoded_text_decodes_to_itself(text: str, size: int) -> None:
  chunks = [text[i : i + size] for i in range(0, len(text), size)]
  corpus = encode_text(chunks)
  assert str(corpus.text) == text
  assert corpus.text.characters == list(dict.fromkeys(text))
  assert corpus.counts.tolist() == [text.count(c) for c in dict.fromkeys(text)]
  assert corpus.sha256 == sha256([text.encode()])
  assert corpus.text.num_bytes() == len(text.encode())


@pytest.mark.parametrize(("last", "width"), [(128, 1), (9000, 2), (2**17, 4)])
def test_ids_are_as_wide_as_the_number_of_characters_needs(
  last: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.setattr(corpus_module, "_CHUNK", 1000)  # ids converted at a time
  characters = [chr(i) for i in range(32, last) if not 0xD800 <= i < 0xE000]
  text = encode_text(["ab\n" * 40_000, "".join(characters)]).text
  assert text.ids.itemsize == width
  assert str(text) == "ab\n" * 40_000 + "".join(characters)


def test_a_text_takes_less_than_3_bytes_a_character_while_it_is_encoded() -> (
  None
):
  # The 257th character, which needs a second byte, comes last.
  size = 40 * 2**20
  chunks = ["".join(map(chr, range(1, 257))), *["ab\n " * 2**14] * (size >> 16)]
  tracemalloc.start()
  try:
    text = encode_text([*chunks, "\u2028"]).text
    peak = tracemalloc.get_traced_memory()[1]
  finally:
    tracemalloc.stop()
  assert text.ids.itemsize == 2
  assert len(text) > size
  assert peak < 3 * size


@texts
def test_a_text_is_mapped_to_the_ids_of_a_vocabulary(text: str) -> None:
  vocab = build_vocabulary([text[::2], "zyx"])
  ids_of = {char: i for i, char in enumerate(vocab)}
  dtype = encode(text, vocab).dtype
  expected = np.array([ids_of.get(char, 0) for char in text], dtype)
  ids = encode_text([text]).text.ids_in(vocab)
  assert ids.dtype == dtype
  np.testing.assert_array_equal(ids, expected)


def test_a_part_of_a_part_is_the_right_text() -> None:
  text = encode_text(["0123456789"]).text
  part = text.part(2, 9).part(1, 5)
  assert (str(part), len(part)) == ("3456", 4)
  assert str(part.part(0, 0)) == ""
  assert str(part.part(2, 100)) == "56"
  assert not len(part.part(20, 30))
  assert part.num_bytes() == 4


def test_the_last_places_of_a_character_are_found(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  monkeypatch.setattr(text_module, "_CHUNK", 7)
  string = "".join(random.Random(0).choices("abc", k=40))
  text = encode_text([string]).text
  for start, stop in ((0, 40), (3, 17), (5, 5)):
    expected = [i for i, c in enumerate(string[start:stop]) if c == "a"]
    for number in (0, 1, 3, 99):
      places = text.part(start, stop).last_places_of("a", number).tolist()
      assert len(places) >= min(number, len(expected))
      assert places == expected[len(expected) - len(places) :]
  assert not len(text.last_places_of("x", 9))


def test_a_text_of_bytes_has_all_bytes_as_characters() -> None:
  corpus = encode_text(["a\xff"], "latin-1")
  assert corpus.text.characters == [chr(i) for i in range(256)]
  assert corpus.text.ids.tolist() == [97, 255]
  assert b"".join(corpus.text.data()) == b"a\xff"
  assert corpus.text.num_bytes() == 2


def test_rare_characters_are_not_frequent() -> None:
  corpus = encode_text(["abbccc"])
  frequent = [corpus.frequent(n) for n in (1, 2, 3, 4)]
  assert frequent == [["a", "b", "c"], ["b", "c"], ["c"], []]
