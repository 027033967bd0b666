"""What the programs write on a terminal."""

import io
import sys

import pytest

from charlm.system.process import show, warn


def test_a_warning_takes_the_place_of_what_was_shown(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  class Terminal(io.StringIO):
    def isatty(self) -> bool:
      return True

  monkeypatch.setattr(sys, "stderr", Terminal())
  show("encoding the corpus: 12 of 100 MB")
  warn("text.txt is not UTF-8")
  erase = "\r\x1b[K"
  shown = f"{erase}encoding the corpus: 12 of 100 MB"
  expected = f"{shown}{erase}text.txt is not UTF-8\n"
  assert sys.stderr.getvalue() == expected
