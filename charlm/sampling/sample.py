"""A text that is drawn, piece by piece."""

import dataclasses
from collections.abc import Sequence

import numpy as np

SEPARATOR = "-" * 20  # between texts that are printed


@dataclasses.dataclass(frozen=True, eq=False)
class Sample:
  """A text after a prefix, or the next piece of one."""

  text: str  # N characters
  # [N], natural logarithms, as the model gave them: before temperature and
  # limits.
  log_probs: np.ndarray
  stopped: bool = False  # whether `stop` came next

  def to_dict(self) -> dict[str, object]:
    """Returns what `sample.py --format=jsonl` prints of it."""
    log_probs = [round(x, 6) for x in self.log_probs.tolist()]
    return {"text": self.text, "log_probs": log_probs, "stopped": self.stopped}


def join_pieces(pieces: Sequence[Sample]) -> Sample:
  """Returns the text whose pieces these are, in their order; one at least."""
  text = "".join(piece.text for piece in pieces)
  log_probs = np.concatenate([piece.log_probs for piece in pieces])
  return Sample(text, log_probs, pieces[-1].stopped)


class StopBuffer:
  """Holds back the end of a text while it may be the start of `stop`."""

  def __init__(self, stop: str) -> None:
    self.stopped = False
    self._stop = stop
    self._text, self._log_probs = "", np.empty(0, np.float32)

  def add(self, text: str, log_probs: np.ndarray, at_end: bool) -> Sample:
    """Takes the next characters; returns those that are surely in the text."""
    # Samples are drawn side by side: one that has ended still gets characters
    # until all have.
    if self.stopped:
      return Sample("", log_probs[:0], True)
    # `stop` may lie across two pieces.
    text = self._text + text
    log_probs = np.concatenate([self._log_probs, log_probs])
    size = text.find(self._stop) if self._stop else -1
    self.stopped = size >= 0
    if not self.stopped:
      size = len(text) if at_end else len(text) - self._overlap(text)
      self._text, self._log_probs = text[size:], log_probs[size:]
    return Sample(text[:size], log_probs[:size], self.stopped)

  def _overlap(self, text: str) -> int:
    """Returns how many characters at the end may be the start of `stop`."""
    # The longest first: a shorter overlap would let the start of `stop` go.
    sizes = range(min(len(text), len(self._stop) - 1), 0, -1)
    return next((n for n in sizes if self._stop.startswith(text[-n:])), 0)
