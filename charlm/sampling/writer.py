"""Prints texts as `sample.py` does."""

import dataclasses
import json

from charlm.config import Config
from charlm.data.passages import find_passages
from charlm.data.text import Text
from charlm.data.vocabulary import unknown_characters
from charlm.sampling.generator import SEPARATOR, GenerativeModel
from charlm.sampling.request import Request
from charlm.system.messages import warn


@dataclasses.dataclass(frozen=True)
class Writer:
  """Draws texts and prints them."""

  generator: GenerativeModel
  vocab: list[str]
  config: Config  # of the run
  format: str
  # To be searched for passages of the texts; None if nobody asked.
  trained_on: Text | None

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
    values = [
      {"sample": i, "prefix": request.prefix, **sample.to_dict()}
      for i, sample in enumerate(samples)
    ]
    if self.trained_on:
      texts = [sample.text for sample in samples]
      found = find_passages(texts, self.trained_on)
      for value, passages in zip(values, found, strict=True):
        value["memorised"] = passages.to_dict()
    for value in values:
      print(json.dumps(fields | value), flush=True)

  def _print_as_drawn(self, request: Request, sample: int, where: str) -> None:
    print(request.prefix, end="", flush=True)
    text = ""
    for piece in self.generator.stream(request, sample):
      print(piece.text, end="", flush=True)
      text += piece.text
    print(flush=True)
    self._tell_memorised([text], where, sample)

  def _tell_memorised(self, texts: list[str], where: str, first: int) -> None:
    if not self.trained_on:
      return
    # In one scan of the text trained on.
    found = find_passages(texts, self.trained_on)
    for i, (text, passages) in enumerate(zip(texts, found, strict=True), first):
      for line in passages.in_words(text, self.config.encoding):
        warn(f"{where}sample {i}: {line}")

  def _warn_of_unknown(self, request: Request, where: str) -> None:
    if unknown := unknown_characters(request.prefix or "\n", self.vocab):
      remedy = "" if request.prefix else ": give a prefix"
      warn(f"{where}not in the vocabulary, read as [UNK]: {unknown}{remedy}")
