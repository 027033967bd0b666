"""Prints the samples of `sample.py`."""

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
  """Draws samples and prints them."""

  generator: GenerativeModel
  vocab: list[str]
  config: Config  # of the run
  format: str
  # The train text, to find copied passages; None without --memorised.
  trained_on: Text | None

  def write(self, request: Request, as_drawn: bool, line: int = 0) -> None:
    """Prints the samples of a request.

    Args:
      request: the request.
      as_drawn: print each text while it is drawn.
      line: number of the input line with the prefix; 0 without --per_line. JSON
        objects get it as `line`; texts get a separator after them.
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
      # In a batch, which is faster than one after the other.
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
      copied = find_passages(texts, self.trained_on)
      for value, passages in zip(values, copied, strict=True):
        value["memorised"] = passages.to_dict()
    for value in values:
      print(json.dumps(fields | value), flush=True)

  def _print_as_drawn(self, request: Request, sample: int, where: str) -> None:
    print(request.prefix, end="", flush=True)
    text = ""
    for chunk in self.generator.stream(request, sample):
      print(chunk.text, end="", flush=True)
      text += chunk.text
    print(flush=True)
    self._tell_memorised([text], where, sample)

  def _tell_memorised(self, texts: list[str], where: str, first: int) -> None:
    if not self.trained_on:
      return
    # All in one scan of the train text.
    copied = find_passages(texts, self.trained_on)
    numbered = enumerate(zip(texts, copied, strict=True), first)
    for i, (text, passages) in numbered:
      for line in passages.in_words(text, self.config.encoding):
        warn(f"{where}sample {i}: {line}")

  def _warn_of_unknown(self, request: Request, where: str) -> None:
    if unknown := unknown_characters(request.prefix or "\n", self.vocab):
      remedy = "" if request.prefix else ": give a prefix"
      warn(f"{where}not in the vocabulary, read as [UNK]: {unknown}{remedy}")
