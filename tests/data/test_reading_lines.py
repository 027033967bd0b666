"""Lines as they come."""

import io
import itertools
import os
import sys
import threading

import pytest

from charlm.config import Config
from charlm.data.reading import read_lines
from charlm.data.sources import Source


class _Slow(io.RawIOBase):
  """Hands out given pieces, as a pipe does."""

  def __init__(self, pieces: list[bytes]) -> None:
    self._pieces = pieces

  def readable(self) -> bool:
    return True

  def readinto(self, buffer: memoryview) -> int:
    piece = self._pieces.pop(0) if self._pieces else b""
    buffer[: len(piece)] = piece
    return len(piece)


def test_lines_are_handed_on_as_they_come() -> None:
  pieces = [b"a\nb", b"c", b"\n", b"\n\nd"]
  blocks = read_lines(io.BufferedReader(_Slow(pieces)), Config())
  assert next(blocks) == [b"a"]
  assert len(pieces) == 3
  assert list(blocks) == [[b"bc"], [b"", b""], [b"d"]]


def test_a_carriage_return_ends_a_line_at_once() -> None:
  pieces = [b"a\r\nb\r", b"\n", b"c\rd\r", b"\ne\r", b"\r\n\n", b"f"]
  blocks = [[b"a", b"b"], [b"c", b"d"], [b"e"], [b"", b""], [b"f"]]
  file = io.BufferedReader(_Slow([*pieces]))
  assert list(read_lines(file, Config())) == blocks
  text = b"".join(pieces)
  lines = [*itertools.chain(*blocks)]
  for raw, expected in ((False, lines), (True, text.split(b"\n"))):
    config = Config(raw=raw)
    for cut in range(1, len(text)):
      file = io.BufferedReader(_Slow([text[:cut], text[cut:]]))
      assert [*itertools.chain(*read_lines(file, config))] == expected


def test_a_byte_order_mark_is_dropped_at_the_start_alone() -> None:
  mark = "\ufeff".encode()
  text = mark + b"a\n" + mark + b"b\n" + mark + b"c"
  for unit, first in (("character", b"a"), ("byte", mark + b"a")):
    for cut in range(1, len(text)):
      file = io.BufferedReader(_Slow([text[:cut], text[cut:]]))
      lines = [*itertools.chain(*read_lines(file, Config(unit=unit)))]
      assert lines == [first, mark + b"b", mark + b"c"]
  # Alone it is no line.
  assert not list(read_lines(io.BufferedReader(_Slow([mark])), Config()))


@pytest.mark.parametrize("by_lines", [False, True])
def test_a_pipe_that_does_not_block_is_waited_for(
  by_lines: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
  reader, writer = os.pipe()
  os.set_blocking(reader, False)
  timer = threading.Timer(0.3, os.write, (writer, b"late\n"))
  timer.start()
  with open(reader) as stdin:
    monkeypatch.setattr(sys, "stdin", stdin)
    source = Source("-", is_file=False)
    if by_lines:
      with source.open() as file:
        assert next(read_lines(file, Config())) == [b"late"]
      os.close(writer)
    else:
      end = threading.Timer(0.6, os.close, [writer])
      end.start()
      assert b"".join(source.read()) == b"late\n"
  timer.join()
