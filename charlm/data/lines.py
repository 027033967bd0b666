"""Lines as they come, of a pipe or a terminal."""

import io
from collections.abc import Iterator

_BLOCK = 2**16  # bytes


def read_lines(
  file: io.BufferedIOBase, raw: bool = False
) -> Iterator[list[bytes]]:
  """Yields the lines that have arrived, without waiting for more.

  They come without their ends; the last one need not have one. A carriage
  return ends a line, too, with or without a line feed, unless `raw`.
  """
  # `half` is dropped: the line feed of a pair that two reads cut apart.
  pending, half = bytearray(), b""
  while data := file.read1(_BLOCK):  # what is there, without waiting for more
    if not raw:
      data = data.removeprefix(half)
      half = b"\n" if data.endswith(b"\r") else b""
      data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    head, newline, tail = data.rpartition(b"\n")
    if newline:
      yield bytes(pending + head).split(b"\n")
      pending.clear()
    pending += tail
  if pending:
    yield [bytes(pending)]
