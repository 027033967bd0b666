"""A text that is drawn, or a piece of one."""

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
