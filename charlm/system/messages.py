"""What a person is told: on standard output, and in lines on stderr."""

import contextlib
import itertools
import sys
import unicodedata

_shows_bar = False


def say(text: str) -> None:
  """Prints lines; goes on if nobody reads, or the disk is full."""
  _print_over_bar(text)


def show_bar(text: str) -> None:
  """Shows a line on a terminal until something else is written."""
  global _shows_bar
  _print_over_bar(text)
  _shows_bar = True


def _print_over_bar(text: str) -> None:
  global _shows_bar
  # What could not be written is tried again with the next text.
  with contextlib.suppress(OSError):
    print("\r\x1b[K" * _shows_bar + text, end="", flush=True)
    _shows_bar = False


def warn(text: str) -> None:
  """Writes a line to stderr, unless that fails, as on a full disk."""
  with contextlib.suppress(OSError):
    _print_over_bar("")
    print(text, file=sys.stderr, flush=True)


def warn_unsaved(what: str, error: Exception, place: object) -> None:
  """Warns that something could not be saved, and says what to check."""
  remedy = f"check the free space and the permissions of {place}"
  warn(f"{what} ({type(error).__name__}): {remedy}")


def beginning(text: str, columns: int) -> str:
  """Returns as much of a line as fits into some columns of a terminal."""
  # Characters of Chinese, Japanese and Korean take two of them.
  widths = (1 + (unicodedata.east_asian_width(c) in "WF") for c in text)
  return text[: sum(end <= columns for end in itertools.accumulate(widths))]
