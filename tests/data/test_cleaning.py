import itertools
import json
import pathlib
from collections.abc import Iterator

import pytest

from charlm.config import Config
from charlm.data.cleaning import (
  clean_pieces,
  decode_chunks,
  read_sources,
  split_lines,
)
from charlm.data.corpus import load_corpus
from charlm.data.sources import find_sources
from charlm.errors import InputError


def read_corpus(config: Config, spec: str) -> Iterator[str]:
  return read_sources(config, find_sources(spec))


def cut(text: str | bytes, size: int) -> list:
  return [text[i : i + size] for i in range(0, len(text), size)]


def test_only_line_ends_end_lines() -> None:
  data = "\ufeffa\u2028b\r\n  c \x0b d\t\r\n\r\re\x1cf\n\n".encode()
  for size in range(1, len(data) + 1):
    text = clean_pieces(decode_chunks(cut(data, size), "x"))
    assert "".join(text) == "a\u2028b\nc \x0b d\ne\x1cf"


def test_lines_are_split_wherever_pieces_end() -> None:
  text = "ab\n" + "c" * 99 + "\nde\n\nf"
  for size in range(1, 120):
    assert list(split_lines(cut(text, size))) == text.split("\n")


def test_cleaning_in_pieces_is_cleaning_at_once() -> None:
  texts = map("".join, itertools.product("a \n\r", repeat=6))
  for text in [*texts, "  a b  c" * 9 + " \n\n \r\nd  " * 3]:
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    expected = "\n".join(filter(None, map(str.strip, lines)))
    for size in (1, 2, 5, len(text)):
      assert "".join(clean_pieces(cut(text, size))) == expected


@pytest.mark.parametrize(
  ("data", "offset"),
  [
    (b"ab\xff", 2),
    (b"\xef\xbb\xbfa\xff", 4),
    ("hé".encode("utf-16"), 0),
  ],
)
def test_bad_bytes_name_file_and_offset(data: bytes, offset: int) -> None:
  for size in range(1, 6):
    message = f"x.txt is not UTF-8 at byte {offset}: if it is text, convert it"
    with pytest.raises(InputError, match=message):
      list(decode_chunks(cut(data, size), "x.txt"))


def test_a_copy_that_was_cut_off_is_named() -> None:
  message = "x.txt is not UTF-8 at byte 3: if it is text, give a whole copy"
  with pytest.raises(InputError, match=message):
    list(decode_chunks(["ab é".encode()[:-1]], "x.txt"))


def test_the_encoding_of_windows_is_named() -> None:
  with pytest.raises(InputError, match="iconv -f UTF-16 -t UTF-8"):
    list(decode_chunks(["hé".encode("utf-16")], "x.txt"))


def test_bytes_are_the_characters_up_to_255(tmp_path: pathlib.Path) -> None:
  data = bytes(range(256)) + b"\xef\xbb\xbf \r\n\n"
  (tmp_path / "a").write_bytes(b"\xef\xbb\xbf" + data)
  text = "".join(read_corpus(Config(unit="byte"), f"{tmp_path}/a"))
  assert text.encode("latin-1") == b"\xef\xbb\xbf" + data


@pytest.mark.parametrize("raw", [False, True])
def test_a_field_of_json_lines(raw: bool, tmp_path: pathlib.Path) -> None:
  texts = [" one\n\ntwo ", "", "é\u2028"]
  lines = [json.dumps({"n": 1, "text": text}) for text in texts]
  path = tmp_path / "a.jsonl"
  path.write_text("\n".join([*lines, "", "   "]))
  config = Config(field="text", raw=raw)
  read = "".join(read_corpus(config, str(path)))
  assert read == (" one\n\ntwo \n\né\u2028\n" if raw else "one\ntwo\né")


def test_bad_json_lines_are_counted_and_named(
  tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
  path = tmp_path / "a.jsonl"
  lines = ['{"text": "a"}', "[", "7", '{"other": "b"}', '{"text": 7}']
  lines += [r'{"text": "\ud800"}', '{"text": "z"}']
  path.write_text("\n".join(lines))
  message = r"5 lines without a text in the field 'text', the first is line 2"
  with pytest.raises(InputError, match=message):
    list(read_corpus(Config(field="text"), str(path)))
  pieces = read_corpus(Config(field="text", skip_bad=True), str(path))
  assert "".join(pieces) == "a\nz"
  assert "are left out" in capsys.readouterr().err


def test_files_are_joined_as_lines_or_as_they_are(
  tmp_path: pathlib.Path,
) -> None:
  for name, data in (("a.txt", b"one\r"), ("b.txt", b"\xef\xbb\xbftwo")):
    (tmp_path / name).write_bytes(data)
  assert "".join(read_corpus(Config(), str(tmp_path))) == "one\ntwo"
  assert "".join(read_corpus(Config(raw=True), str(tmp_path))) == "one\rtwo"


def test_a_field_of_no_file_is_told_of_a_corpus_alone(
  tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
  path, config = tmp_path / "a.txt", Config(field="text")
  path.write_text("to be")
  assert "".join(read_corpus(config, str(path))) == "to be"  # a text to score
  assert capsys.readouterr().err == ""
  load_corpus(config, str(path))
  assert "field has no effect" in capsys.readouterr().err
