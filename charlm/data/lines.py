"""Lines as they come, of a pipe or a terminal."""

import codecs
import io
from collections.abc import Iterator

from charlm.config import Config

_BLOCK = 2**16  # bytes


def read_lines(
  file: io.BufferedIOBase, config: Config
) -> Iterator[list[bytes]]:
  """Yields the lines that have arrived, without waiting for more.

  They come without their ends; the last one need not have one. A carriage
  return ends a line, too, with or without a line feed, unless the config keeps
  the text. The byte-order mark with which some editors begin a file is dropped,
  unless the unit is the byte.
  """
  # `half` is a line feed if the last read ended in a carriage return: should
  # the next one begin with it, it belongs to that line's end, and is dropped.
  pending, half = bytearray(), b""
  mark = codecs.BOM_UTF8 if config.unit == "character" else b""
  while data := file.read1(_BLOCK):  # what is there, without waiting for more
    if not config.keeps_text:
      data = data.removeprefix(half)
      half = b"\n" if data.endswith(b"\r") else b""
      data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    head, newline, tail = data.rpartition(b"\n")
    if newline:
      yield bytes(pending + head).removeprefix(mark).split(b"\n")
      pending.clear()
      mark = b""
    pending += tail
  if pending:
    yield [bytes(pending).removeprefix(mark)]
