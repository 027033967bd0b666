"""Scores lines as they come: what `eval.py --per_line` does in a pipe."""

import codecs
import dataclasses
import math
from collections.abc import Callable

import numpy as np

from charlm.config import Config
from charlm.data.reading import clean_line
from charlm.data.vocabulary import encode
from charlm.evaluation.evaluator import Evaluator
from charlm.evaluation.score import refuse_diverged

_ESCAPES = str.maketrans({"\n": "\\n", "\t": "\\t", "\r": "\\r"})


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
    refuse_diverged(score.log_perplexity)
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
