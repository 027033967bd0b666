"""From files to cleaned lines: the text that a model is trained on."""

import dataclasses
import glob
import hashlib
import io
import os
import pathlib
import sys
from collections.abc import Iterator
from typing import cast

from charlm.config import Config
from charlm.data.shakespeare import plays
from charlm.errors import InputError


def load_lines(spec: str, lowercase: bool = False) -> list[str]:
  """Returns the cleaned lines of a corpus.

  Args:
    spec: `shakespeare`, or a file, a glob, a folder (its `*.txt`, sorted),
      or several of these separated by commas.
    lowercase: also lower-case each line.

  Raises InputError: nothing there, not UTF-8, or no line with a character.
  """
  return load_text(spec, lowercase).split("\n")


def load_text(spec: str, lowercase: bool = False, raw: bool = False) -> str:
  """Returns the text of a corpus: its cleaned lines or, if raw, all of it.

  Raises InputError: as `load_lines`.
  """
  # The last line of a file need not have a newline.
  text = clean(("" if raw else "\n").join(_texts(spec)), lowercase, raw)
  if not text.strip():
    raise InputError(
      f"the corpus {spec} has no line of text: give another --corpus"
    )
  return text


def clean(text: str, lowercase: bool = False, raw: bool = False) -> str:
  """Returns what a model sees of a text: its cleaned lines or, if raw, all."""
  if not raw:
    return "\n".join(clean_lines(text, lowercase))
  return clean_line(text, lowercase, raw)


def clean_line(line: str, lowercase: bool = False, raw: bool = False) -> str:
  """Returns what a model sees of a line: it is stripped, unless `raw`."""
  line = line.lower() if lowercase else line
  return line if raw else line.strip()


def clean_lines(text: str, lowercase: bool = False) -> list[str]:
  """Strips each line, drops the empty ones, optionally lower-cases.

  Only line feeds, carriage returns and their pair end a line.
  """
  # Not `splitlines`, which ends a line at form feeds and Unicode's separators.
  lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
  return [line for x in lines if (line := clean_line(x, lowercase))]


def decode(data: bytes, name: str) -> str:
  """Decodes UTF-8, dropping a byte-order mark.

  Raises InputError: not UTF-8; it names `name` and the first bad byte's offset.
  """
  try:
    return data.decode("utf-8-sig")
  except UnicodeDecodeError as error:
    # The mark is dropped before the offset is counted.
    offset = error.start + 3 * data.startswith(b"\xef\xbb\xbf")
    raise InputError(
      f"{name} is not UTF-8 at byte {offset}: convert it, "
      "for example with iconv -t UTF-8"
    ) from error


def open_binary(path: str) -> io.BufferedIOBase:
  """Opens a file for reading, or standard input for `-`.

  Raises InputError: no standard input.
  """
  if path != "-":
    return open(path, "rb")
  if sys.stdin is None:
    raise InputError("standard input is closed: give a file in place of -")
  return cast(io.BufferedIOBase, sys.stdin.buffer)


def read_text(path: str) -> str:
  """Reads all of a UTF-8 file, or of standard input for `-`.

  Raises InputError: not UTF-8, or no standard input.
  """
  with open_binary(path) as file:
    return decode(file.read(), path)


@dataclasses.dataclass(frozen=True)
class Split:
  """The parts of a corpus; only the first trains a model's weights."""

  train: str
  valid: str  # may choose among checkpoints and settings; may be empty
  eval: str  # scored; chooses the best checkpoint if there is no valid text


def split_text(text: str, config: Config) -> Split:
  """Holds out the end of a text, then the end of what is left.

  Held out are `eval_chars` characters or, if that is 0, `eval_lines` lines; the
  `valid_lines` lines that precede them are the valid text. A newline between
  two parts that are made of lines belongs to neither.

  Raises InputError: a part is too short to be of use.
  """
  if config.eval_chars:
    rest, eval_part = text[: -config.eval_chars], text[-config.eval_chars :]
  else:
    rest, eval_part = _cut_lines(text, config.eval_lines, "eval_lines")
  train, valid = _cut_lines(rest, config.valid_lines, "valid_lines")
  if not train:
    first = "eval_chars" if config.eval_chars else "eval_lines"
    flag = "valid_lines" if rest else first
    raise InputError(
      f"{flag} leaves none of the corpus' {len(text)} characters to train on: "
      f"lower --{flag}, or give a longer corpus"
    )
  for flag, part, other in (
    ("eval_lines", eval_part, "give --eval_chars"),
    ("valid_lines", valid, "leave it out"),
  ):
    if len(part) < 2 and getattr(config, flag):
      raise InputError(
        f"the text held out by {flag} is a single character or none, which "
        f"leaves nothing to predict: raise --{flag}, or {other}"
      )
  return Split(train, valid, eval_part)


def _cut_lines(text: str, num_lines: int, flag: str) -> tuple[str, str]:
  """Returns a text without its last lines, and those lines."""
  if not num_lines or not text:
    return text, ""
  body = text.removesuffix("\n")  # a newline at the end begins no line
  lines = body.split("\n")
  if num_lines >= len(lines):
    remedy = f"lower --{flag}"
    if flag == "eval_lines" and len(lines) == 1:  # 1 is too many, too
      remedy = "give a corpus of more lines, or --eval_chars"
    raise InputError(
      f"{flag} is {num_lines}, but there are only {len(lines)} lines to take "
      f"them from, which leaves nothing to train on: {remedy}"
    )
  first = len(lines) - num_lines
  return "\n".join(lines[:first]), "\n".join(lines[first:]) + text[len(body) :]


def sha256(text: str) -> str:
  """Hashes the text that a model sees, which is what identifies a corpus."""
  return hashlib.sha256(text.encode()).hexdigest()


def _texts(spec: str) -> Iterator[str]:
  """Yields the text of each file of a corpus."""
  # A file's name may have commas.
  for part in [spec] if os.path.exists(spec) else spec.split(","):
    if part == "shakespeare":
      yield plays()
      continue
    for path in _files(part):
      yield decode(path.read_bytes(), str(path))


def _files(part: str) -> list[pathlib.Path]:
  path = pathlib.Path(os.path.expanduser(part))
  if not part:
    raise InputError("--corpus names an empty path: give a file")
  if path.is_dir():
    paths = sorted(path.glob("*.txt"))
  elif path.exists():
    paths = [path]
  else:
    paths = [pathlib.Path(p) for p in sorted(glob.glob(str(path)))]
  if not paths:
    raise InputError(
      f"no file at --corpus={part}: give a text file, a glob, a folder with "
      "*.txt files, or the name shakespeare"
    )
  for file in paths:
    if not file.is_file():
      raise InputError(f"{file} is not a regular file: give a text file")
  return paths
