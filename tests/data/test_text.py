import pathlib
import random
from collections.abc import Callable

import numpy as np
import pytest

from charlm.data import text as text_module
from charlm.data.encoding import encode_text
from charlm.data.text import Ids, StoredIds, Text, sha256
from charlm.data.vocabulary import build_vocabulary, encode
from charlm.errors import InputError

TEXTS = {
  "one byte": "to be or not to be\n" * 40,
  "two bytes": "".join(map(chr, range(32, 900))) + "ab" * 90,
  "four bytes": "".join(map(chr, range(0x1F600, 0x1F640))) + "\u05d0\u0301" * 9,
  "ideographs": "".join(map(chr, range(0x4E00, 0x4E00 + 5000))) * 2,
  "empty": "",
}
texts = pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)


@texts
@pytest.mark.parametrize("in_memory", [0, 700, 2**23])
@pytest.mark.parametrize("size", [1, 97, 10**6])
def test_a_text_comes_back(text: str, in_memory: int, size: int) -> None:
  pieces = [text[i : i + size] for i in range(0, len(text), size)]
  corpus = encode_text(pieces, in_memory=in_memory)
  stored = isinstance(corpus.text.ids, StoredIds)
  assert stored == (len(text) * corpus.text.ids.dtype.itemsize > in_memory)
  assert str(corpus.text) == text
  assert corpus.text.characters == list(dict.fromkeys(text))
  assert corpus.counts.tolist() == [text.count(c) for c in dict.fromkeys(text)]
  assert corpus.sha256 == sha256([text.encode()])
  assert corpus.text.num_bytes(corpus.counts) == len(text.encode())
  assert corpus.text.num_bytes() == len(text.encode())


@texts
def test_ids_of_a_vocabulary(text: str) -> None:
  vocab = build_vocabulary([text[::2], "zyx"])
  ids_of = {char: i for i, char in enumerate(vocab)}
  dtype = encode(text, vocab).dtype
  expected = np.array([ids_of.get(char, 0) for char in text], dtype)
  for in_memory in (0, 2**23):
    ids = Ids(encode_text([text], in_memory=in_memory).text, vocab)
    assert ids.table.dtype == expected.dtype
    assert len(ids) == len(text)
    for key in (slice(None), slice(3, 50), slice(-7, None), slice(9, 2)):
      np.testing.assert_array_equal(ids[key], expected[key])


@pytest.mark.parametrize("in_memory", [0, 2**23])
def test_parts_of_parts(in_memory: int) -> None:
  text = encode_text(["0123456789"], in_memory=in_memory).text
  part = text.part(2, 9).part(1, 5)
  assert (str(part), len(part)) == ("3456", 4)
  assert str(part.part(0, 0)) == ""
  assert part.counts().sum() == 4


@pytest.mark.parametrize("in_memory", [0, 2**23])
def test_nth_from_end_counts_from_the_end(
  in_memory: int, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.setattr(text_module, "_BLOCK", 7)
  rng = random.Random(0)
  for _ in range(20):
    string = "".join(rng.choices("abc", k=rng.randint(1, 40)))
    text: Text = encode_text([string], in_memory=in_memory).text
    for stop in (0, len(string) // 2, len(string)):
      places = [i for i, c in enumerate(string[:stop]) if c == "a"]
      for number in range(1, len(places) + 1):
        assert text.nth_from_end("a", number, stop) == places[-number]
      assert text.nth_from_end("a", len(places) + 1, stop) == -1
    assert text.nth_from_end("x", 1, len(string)) == -1


def test_all_bytes_are_characters_of_a_text_of_bytes() -> None:
  corpus = encode_text(["a\xff"], "latin-1")
  assert corpus.text.characters == [chr(i) for i in range(256)]
  assert corpus.text.ids.tolist() == [97, 255]
  assert b"".join(corpus.text.data()) == b"a\xff"
  assert corpus.text.num_bytes(corpus.counts) == 2


def test_rare_characters_are_not_frequent() -> None:
  corpus = encode_text(["abbccc"])
  frequent = [corpus.frequent(n) for n in (1, 2, 3, 4)]
  assert frequent == [["a", "b", "c"], ["b", "c"], ["c"], []]


def test_a_file_that_is_cut_off_is_an_error(tmp_path: pathlib.Path) -> None:
  path = tmp_path / "ids"

  def open_file() -> object:
    return path.open("w+b")

  opened: Callable = open_file
  text = encode_text(["a" * 100], open_file=opened, in_memory=0).text
  path.write_bytes(b"")
  with pytest.raises(InputError, match="was truncated"):
    str(text)
