"""Where a text ends: before the string of `--stop`."""

import numpy as np

from charlm.sampling.sample import Sample


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
