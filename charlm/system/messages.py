"""Messages for users: output on stdout, a status line, warnings on stderr."""

import contextlib
import itertools
import sys
import unicodedata

_shows_bar = False


def say(text: str) -> None:
  """Prints text; ignores errors such as a closed pipe or a full disk."""
  _print_over_bar(text)


def show_bar(text: str) -> None:
  """Shows a status line on a terminal until the next output replaces it."""
  global _shows_bar
  _print_over_bar(text)
  _shows_bar = True


def _print_over_bar(text: str) -> None:
  global _shows_bar
  # Text that fails to flush stays buffered and is retried with the next text.
  with contextlib.suppress(OSError):
    print("\r\x1b[K" * _shows_bar + text, end="", flush=True)
    _shows_bar = False


def warn(text: str) -> None:
  """Writes a line to stderr; ignores errors such as a full disk."""
  with contextlib.suppress(OSError):
    _print_over_bar("")
    print(text, file=sys.stderr, flush=True)


def warn_unsaved(problem: str, error: Exception, place: object) -> None:
  """Warns that something could not be saved, and names the remedy."""
  remedy = f"check the free space and the permissions of {place}"
  warn(f"{problem} ({type(error).__name__}): {remedy}")


def beginning(text: str, columns: int) -> str:
  """Truncates a line to a number of terminal columns."""
  # Chinese, Japanese and Korean characters are two columns wide.
  widths = (1 + (unicodedata.east_asian_width(c) in "WF") for c in text)
  return text[: sum(end <= columns for end in itertools.accumulate(widths))]
