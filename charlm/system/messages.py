"""What a person is told: on standard output, and in lines on stderr."""

import contextlib
import itertools
import sys
import unicodedata


def say(text: str) -> None:
  """Prints, without a newline; goes on if nobody reads, or the disk is full."""
  # What could not be written is tried again with the next text.
  with contextlib.suppress(OSError):
    print(text, end="", flush=True)


def warn(text: str) -> None:
  """Writes a line to stderr, unless that fails, as on a full disk."""
  with contextlib.suppress(OSError):
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
