"""Decodes and cleans files, chunk by chunk, into the text of a model."""

import codecs
import io
import itertools
from collections.abc import Iterable, Iterator

from charlm.config import Config
from charlm.data.sources import Source
from charlm.errors import InputError
from charlm.options import is_utf8


def read_sources(config: Config, sources: list[Source]) -> Iterator[str]:
  """Yields the decoded, cleaned and joined text of files in chunks.

  Raises InputError: the content cannot be read.
  """
  encoding = config.encoding
  texts = (decode_chunks(x.read(), x.name, encoding) for x in sources)
  return _clean(config, texts)


def read_string(config: Config, text: str) -> Iterator[str]:
  """Yields a string as `read_sources` would if it were in a file.

  Raises InputError: the string cannot be encoded as UTF-8.
  """
  if not is_utf8(text):
    raise InputError("the text has lone surrogates: remove them")
  data = [text.encode()]
  return _clean(config, [decode_chunks(data, "text", config.encoding)])


def _clean(config: Config, texts: Iterable[Iterator[str]]) -> Iterator[str]:
  # The last line of a file may lack a newline.
  end = [] if config.keeps_text else ["\n"]
  chunks = (chunk for text in texts for chunk in itertools.chain(text, end))
  cleaned = chunks if config.keeps_text else clean_chunks(chunks)
  yield from map(str.lower, cleaned) if config.lowercase else cleaned


def decode_chunks(
  chunks: Iterable[bytes], name: str, encoding: str = "utf-8"
) -> Iterator[str]:
  """Decodes UTF-8, dropping a byte-order mark, or Latin-1.

  Raises InputError: not UTF-8; gives `name` and the first bad byte's offset.
  """
  decoder = codecs.getincrementaldecoder(encoding)()
  size, mark = 0, "" if encoding == "latin-1" else "\ufeff"
  # The empty chunk ends the text: an incomplete character there is an error.
  for chunk in itertools.chain(chunks, [b""]):
    size += len(chunk)
    try:
      text = decoder.decode(chunk, final=not chunk)
    except UnicodeDecodeError as error:
      # `error.object` holds the bytes not yet decoded, up to the last one read.
      offset = size - len(error.object) + error.start
      # Windows writes UTF-16 with a byte-order mark.
      marks = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
      wide = offset == 0 and error.object.startswith(marks)
      # The last character may be incomplete because the copy is.
      remedy = "convert it" if chunk else "give a complete copy, or convert it"
      raise InputError(
        f"{name} is not UTF-8 at byte {offset}: if it is text, {remedy}, for "
        f"example with iconv -f {'UTF-16' if wide else 'CP1252'} -t UTF-8; "
        "only models with --unit=byte read arbitrary bytes"
      ) from error
    if text:
      yield text.removeprefix(mark)
      mark = ""


def clean_chunks(chunks: Iterable[str]) -> Iterator[str]:
  """Strips each line and drops empty ones; yields the text in chunks.

  Lines end at a line feed, a carriage return or the pair. The yielded lines are
  joined by newlines.
  """
  # Not `splitlines`, which also splits at form feeds and Unicode separators.
  newlines = io.IncrementalNewlineDecoder(None, translate=True)
  # The whitespace between two chunks stays if it is inside a line, becomes one
  # newline if it contains one, and is dropped before the first text, while
  # `separator` is empty.
  blanks, separator = "", ""
  for chunk in chunks:
    text = blanks + str(newlines.decode(chunk))
    body = text.lstrip()
    blanks = text[: len(text) - len(body)]
    if not separator or "\n" in blanks:
      blanks = separator
    if body:
      yield blanks + "\n".join(filter(None, map(str.strip, body.split("\n"))))
      separator, blanks = "\n", body[len(body.rstrip()) :]
