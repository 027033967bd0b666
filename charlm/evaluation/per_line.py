"""Scores lines as they come: what `eval.py --per_line` does in a pipe."""

import io
import math

import numpy as np

from charlm.config import Config
from charlm.data.reading import clean_line, read_lines
from charlm.data.vocabulary import encode
from charlm.evaluation.evaluator import Evaluator
from charlm.evaluation.score import refuse_diverged
from charlm.model.language_model import GRULM
from charlm.system.process import warn

_ESCAPES = str.maketrans({"\n": "\\n", "\t": "\\t", "\r": "\\r"})


def print_scores(
  model: GRULM, vocab: list[str], config: Config, file: io.BufferedIOBase
) -> bool:
  """Scores each line alone, after a newline and including its own newline.

  Prints for each a string of fields separated by tabs: total nats, number of
  characters including the newline, bits per character, the character with the
  highest loss, and the line. Warns of a line that is not UTF-8, and leaves it
  out.

  Args:
    model: predicts the lines.
    vocab: the model's, with a newline.
    config: says how a line is read.
    file: has the lines, which are scored as they come.

  Returns whether no line was left out.

  Raises InputError: a model that has diverged.
  """
  evaluator = Evaluator(model, keep_nats=True)
  number, whole = 0, True
  for lines in read_lines(file, config):
    texts = []
    for line in lines:
      number += 1
      try:
        texts.append(clean_line(config, line))
      except UnicodeDecodeError as error:
        whole, offset = False, error.start
        warn(f"line {number}, left out, is not UTF-8 at byte {offset}: mend it")
    if texts:
      ids = encode("".join(text + "\n" for text in texts), vocab)
      score = evaluator.lines(ids, vocab.index("\n"))
      refuse_diverged(score.log_perplexity)
      ends = np.cumsum([len(text) + 1 for text in texts])
      rows = np.split(score.nats.astype(np.float64), ends[:-1])
      print(*map(_describe, texts, rows), sep="\n", flush=True)
  return whole


def _describe(text: str, nats: np.ndarray) -> str:
  total, worst = nats.sum(), (text + "\n")[int(nats.argmax())]
  bits, worst = total / len(nats) / math.log(2), worst.translate(_ESCAPES)
  return f"{total:.4f}\t{len(nats)}\t{bits:.4f}\t{worst}\t{text}"
