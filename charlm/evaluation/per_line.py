"""Scores lines as they come: what `eval.py --per_line` does in a pipe."""

import codecs
import contextlib
import dataclasses
import io
import math
import os
from collections.abc import Callable, Iterator

import numpy as np

from charlm.config import Config
from charlm.data.reading import clean_line
from charlm.data.vocabulary import encode
from charlm.evaluation.evaluator import Evaluator

_BLOCK = 2**16  # bytes
_ESCAPES = str.maketrans({"\n": "\\n", "\t": "\\t", "\r": "\\r"})


def read_lines(
  file: io.BufferedIOBase, raw: bool = False
) -> Iterator[list[bytes]]:
  """Yields the lines that have arrived, without waiting for more.

  They come without their ends; the last one need not have one. A carriage
  return ends a line, too, with or without a line feed, unless `raw`.
  """
  with contextlib.suppress(io.UnsupportedOperation):
    # A parent may have unset this: a lack of data would look like the end.
    os.set_blocking(file.fileno(), True)
  # `half` is the line feed that may follow a carriage return read last.
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


@dataclasses.dataclass(eq=False)
class LineScorer:
  """Scores each line alone, after a newline and including its own newline."""

  evaluator: Evaluator  # keeps nats; of a model that knows the newline
  vocab: list[str]  # the model's
  config: Config  # says how a line is read
  warn: Callable[[str], None]  # is told of each line that is not UTF-8
  _number: int = dataclasses.field(default=0, init=False)  # of lines so far
  whole: bool = dataclasses.field(default=True, init=False)  # none is left out

  def score(self, lines: list[bytes]) -> list[str]:
    """Scores the next lines, leaving out those that are not UTF-8.

    Returns for each a string of fields separated by tabs: total nats, number of
    characters including the newline, bits per character, the character with the
    highest loss, and the line.
    """
    texts = [text for line in lines if (text := self._decode(line)) is not None]
    if not texts:
      return []
    ids = encode("".join(text + "\n" for text in texts), self.vocab)
    score = self.evaluator.lines(ids, self.vocab.index("\n"))
    ends = np.cumsum([len(text) + 1 for text in texts])
    rows = np.split(score.nats.astype(np.float64), ends[:-1])
    return [_describe(*pair) for pair in zip(texts, rows, strict=True)]

  def _decode(self, line: bytes) -> str | None:
    self._number += 1
    # Some editors begin a file with a byte-order mark, which is no text.
    begins = self._number == 1 and self.config.unit == "character"
    mark = codecs.BOM_UTF8 if begins else b""
    try:
      return clean_line(self.config, line.removeprefix(mark))
    except UnicodeDecodeError as error:
      self.whole = False
      offset = error.start + len(line) - len(error.object)
      self.warn(
        f"line {self._number} is not UTF-8 at byte {offset}: it is left out"
      )
      return None


def _describe(text: str, nats: np.ndarray) -> str:
  total, worst = nats.sum(), (text + "\n")[int(nats.argmax())]
  bits = total / len(nats) / math.log(2)
  cells = [f"{total:.4f}", str(len(nats)), f"{bits:.4f}"]
  return "\t".join([*cells, worst.translate(_ESCAPES), text])
