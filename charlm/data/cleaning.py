"""From the bytes of files to the text that a model sees, piece by piece."""

import codecs
import io
import itertools
import json
from collections.abc import Iterable, Iterator

from charlm.config import Config
from charlm.data.sources import Source
from charlm.errors import InputError
from charlm.options import is_utf8
from charlm.system.messages import warn


def read_sources(config: Config, sources: list[Source]) -> Iterator[str]:
  """Yields the decoded and cleaned text of files, joined, in pieces.

  Raises InputError: content that cannot be read.
  """
  return _clean(config, (_read_source(config, source) for source in sources))


def read_string(config: Config, text: str) -> Iterator[str]:
  """Yields a string as `read_sources` yields it from a file.

  Raises InputError: a string that cannot be UTF-8.
  """
  if not is_utf8(text):
    raise InputError("the text has lone surrogates: remove them")
  chunks = [text.encode()]
  return _clean(config, [decode_chunks(chunks, "text", config.encoding)])


def _clean(config: Config, texts: Iterable[Iterator[str]]) -> Iterator[str]:
  # The last line of a file need not have a newline.
  end = [] if config.keeps_text else ["\n"]
  pieces = (piece for text in texts for piece in itertools.chain(text, end))
  cleaned = pieces if config.keeps_text else clean_pieces(pieces)
  yield from map(str.lower, cleaned) if config.lowercase else cleaned


def _read_source(config: Config, source: Source) -> Iterator[str]:
  pieces = decode_chunks(source.read(), source.name, config.encoding)
  if config.field and source.is_json_lines:
    return _read_field(pieces, config, source.name)
  return pieces


def decode_chunks(
  chunks: Iterable[bytes], name: str, encoding: str = "utf-8"
) -> Iterator[str]:
  """Decodes UTF-8, whose byte-order mark is dropped, or Latin-1.

  Raises InputError: not UTF-8; it names `name` and the first bad byte's offset.
  """
  decoder = codecs.getincrementaldecoder(encoding)()
  size, mark = 0, "" if encoding == "latin-1" else "\ufeff"
  # The empty chunk ends the text: a character cut off there is an error.
  for chunk in itertools.chain(chunks, [b""]):
    size += len(chunk)
    try:
      text = decoder.decode(chunk, final=not chunk)
    except UnicodeDecodeError as error:
      # `error.object` is the end of what was read: the part not yet decoded.
      offset = size - len(error.object) + error.start
      # As Windows writes it, with a mark at its beginning.
      marks = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
      wide = offset == 0 and error.object.startswith(marks)
      # At the end of a text, a character may be cut off.
      remedy = "convert it" if chunk else "give a whole copy, or convert it"
      raise InputError(
        f"{name} is not UTF-8 at byte {offset}: if it is text, {remedy}, for "
        f"example by iconv -f {'UTF-16' if wide else 'CP1252'} -t UTF-8; only "
        "a model of --unit=byte reads any bytes"
      ) from error
    if text:
      yield text.removeprefix(mark)
      mark = ""


def _read_field(
  pieces: Iterable[str], config: Config, name: str
) -> Iterator[str]:
  """Yields a field's text of each line of JSON, and a newline after it."""
  bad: list[int] = []
  for number, line in enumerate(split_lines(pieces), 1):
    try:
      # A blank line, as at the end, is not bad.
      text = json.loads(line)[config.field] if line.strip() else ""
      text.encode()  # fails for what is not a string, or has lone surrogates
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError):
      bad.append(number)
    else:
      yield f"{text}\n" if line.strip() else ""
  if bad:
    words = (
      f"{name} has {len(bad):,} lines without a text in the field "
      f"{config.field!r}, the first is line {bad[0]:,}"
    )
    if not config.skip_bad:
      raise InputError(
        f"{words}: correct them, or train with another --field or --skip_bad"
      )
    warn(f"{words}: they are left out")


def split_lines(pieces: Iterable[str]) -> Iterator[str]:
  """Yields the lines of a text, split at line feeds."""
  # Not one string, which each addition would copy.
  held: list[str] = []  # of a line whose end is yet to come
  for piece in pieces:
    if "\n" in piece:
      *lines, rest = ("".join(held) + piece).split("\n")
      yield from lines
      held = [rest]
    else:
      held.append(piece)
  yield "".join(held)


def clean_pieces(pieces: Iterable[str]) -> Iterator[str]:
  """Strips each line, and drops empty ones.

  Only line feeds, carriage returns and their pair end a line. Yields the lines,
  joined by newlines, in pieces.
  """
  # Not `splitlines`, which ends a line at form feeds and Unicode's separators.
  ends = io.IncrementalNewlineDecoder(None, translate=True)
  # Blanks between two pieces: those inside a line stay as they are, those with
  # a newline become one newline, and those before all text nothing: `separator`
  # is empty until there is text.
  blanks, separator = "", ""
  for piece in pieces:
    text = blanks + str(ends.decode(piece))
    body = text.lstrip()
    blanks = text[: len(text) - len(body)]
    if not separator or "\n" in blanks:
      blanks = separator
    if body:
      yield blanks + "\n".join(filter(None, map(str.strip, body.split("\n"))))
      separator, blanks = "\n", body[len(body.rstrip()) :]
