"""Prints texts as `sample.py` does."""

import dataclasses
import json
from collections.abc import Mapping

from charlm.config import Config
from charlm.data.passages import TRAIN_TEXT, Found, find_passages
from charlm.data.text import Text
from charlm.data.vocabulary import unknown_characters
from charlm.sampling.generator import GenerativeModel
from charlm.sampling.request import Request
from charlm.sampling.sample import SEPARATOR
from charlm.system.process import warn


@dataclasses.dataclass(frozen=True)
class Writer:
  """Draws texts and prints them."""

  generator: GenerativeModel
  vocab: list[str]
  config: Config  # of the run
  format: str
  # To be searched for passages of the texts, by what a reader calls them.
  trained_on: Mapping[str, Text]

  def write(self, request: Request, as_drawn: bool, line: int = 0) -> None:
    """Prints the texts of a request.

    Args:
      request: what to draw.
      as_drawn: print each text while it is drawn.
      line: the number of the line that asks for them, 0 if none does. An object
        has it as `line`; after texts the separator is printed.
    """
    where = f"line {line}: " if line else ""
    self._warn_of_unknown(request, where)
    if self.format == "jsonl":
      self._print_objects(request, {"line": line} if line else {})
      return
    if as_drawn:
      for i in range(request.num_samples):
        if i:
          print(SEPARATOR)
        self._print_as_drawn(request, i, where)
    else:
      # Side by side, which is faster than one after the other.
      texts = [sample.text for sample in self.generator.sample(request)]
      print(f"\n{SEPARATOR}\n".join(request.prefix + text for text in texts))
      self._tell_memorised(texts, where, 0)
    if line:
      print(SEPARATOR, flush=True)

  def _print_objects(self, request: Request, fields: dict[str, int]) -> None:
    samples = self.generator.sample(request)
    found = self._find([sample.text for sample in samples])
    for i, sample in enumerate(samples):
      start = fields | {"sample": i, "prefix": request.prefix}
      end = {}
      for name, passages in found.items():
        key = "memorised" if name == TRAIN_TEXT else "memorised_of_initial"
        end[key] = passages[i].to_dict()
      print(json.dumps({**start, **sample.to_dict(), **end}), flush=True)

  def _print_as_drawn(self, request: Request, sample: int, where: str) -> None:
    print(request.prefix, end="", flush=True)
    text = ""
    for piece in self.generator.stream(request, sample):
      print(piece.text, end="", flush=True)
      text += piece.text
    print(flush=True)
    self._tell_memorised([text], where, sample)

  def _tell_memorised(self, texts: list[str], where: str, first: int) -> None:
    found = self._find(texts)
    for i, text in enumerate(texts):
      for name, passages in found.items():
        for line in passages[i].in_words(text, name, self.config.encoding):
          warn(f"{where}sample {first + i}: {line}")

  def _find(self, texts: list[str]) -> dict[str, list[Found]]:
    """Finds passages of all texts in one scan of each text trained on."""
    return {
      name: find_passages(texts, searched)
      for name, searched in self.trained_on.items()
    }

  def _warn_of_unknown(self, request: Request, where: str) -> None:
    if unknown := unknown_characters(request.prefix or "\n", self.vocab):
      remedy = "" if request.prefix else ": give a prefix"
      warn(f"{where}not in the vocabulary, read as [UNK]: {unknown}{remedy}")
