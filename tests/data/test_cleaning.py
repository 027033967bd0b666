import itertools
import pathlib
from collections.abc import Iterator

import pytest

from charlm.config import Config
from charlm.data.cleaning import (
  clean_chunks,
  decode_chunks,
  read_sources,
)
from charlm.data.sources import find_sources
from charlm.data.split import split_lines
from charlm.errors import InputError


def read_corpus(config: Config, spec: str) -> Iterator[str]:
  return read_sources(config, find_sources(spec))


def cut(text: str | bytes, size: int) -> list:
  return [text[i : i + size] for i in range(0, len(text), size)]


def test_only_line_feeds_and_carriage_returns_end_lines() -> None:
  data = "\ufeffa\u2028b\r\n  c \x0b d\t\r\n\r\re\x1cf\n\n".encode()
  for size in range(1, len(data) + 1):
    text = clean_chunks(decode_chunks(cut(data, size), "x"))
    assert "".join(text) == "a\u2028b\nc \x0b d\ne\x1cf"


def test_splitting_lines_does_not_depend_on_the_chunks() -> None:
  text = "ab\n" + "c" * 99 + "\nde\n\nf"
  for size in range(1, 120):
    assert list(split_lines(cut(text, size))) == text.split("\n")


def test_cleaning_does_not_depend_on_the_chunks() -> None:
  texts = map("".join, itertools.product("a \n\r", repeat=6))
  for text in [*texts, "  a b  c" * 9 + " \n\n \r\nd  " * 3]:
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    expected = "\n".join(filter(None, map(str.strip, lines)))
    for size in (1, 2, 5, len(text)):
      assert "".join(clean_chunks(cut(text, size))) == expected


@pytest.mark.parametrize(
  ("data", "offset", "remedy"),
  [
    (b"ab\xff", 2, "convert it"),
    (b"\xef\xbb\xbfa\xff", 4, "convert it"),
    ("hé".encode("utf-16"), 0, "convert it"),
    ("ab é".encode()[:-1], 3, "give a complete copy"),
  ],
)
def test_the_error_for_bad_bytes_names_file_offset_and_remedy(
  data: bytes, offset: int, remedy: str
) -> None:
  message = f"x.txt is not UTF-8 at byte {offset}: if it is text, {remedy}"
  for size in range(1, 6):
    with pytest.raises(InputError, match=message):
      list(decode_chunks(cut(data, size), "x.txt"))


def test_the_error_for_utf_16_names_the_encoding() -> None:
  with pytest.raises(InputError, match="iconv -f UTF-16 -t UTF-8"):
    list(decode_chunks(["hé".encode("utf-16")], "x.txt"))


def test_with_unit_byte_any_file_is_read_unchanged(
  tmp_path: pathlib.Path,
) -> None:
  data = bytes(range(256)) + b"\xef\xbb\xbf \r\n\n"
  (tmp_path / "a").write_bytes(b"\xef\xbb\xbf" + data)
  text = "".join(read_corpus(Config(unit="byte"), f"{tmp_path}/a"))
  assert text.encode("latin-1") == b"\xef\xbb\xbf" + data


def test_files_are_joined_by_newlines_unless_raw(
  tmp_path: pathlib.Path,
) -> None:
  for name, data in (("a.txt", b"one\r"), ("b.txt", b"\xef\xbb\xbftwo")):
    (tmp_path / name).write_bytes(data)
  assert "".join(read_corpus(Config(), str(tmp_path))) == "one\ntwo"
  assert "".join(read_corpus(Config(raw=True), str(tmp_path))) == "one\rtwo"
