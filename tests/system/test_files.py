"""Where files are written."""

import os
import pathlib
import tempfile

import pytest

from charlm.system.files import cache_folder


def test_a_user_without_a_home_gets_no_folder_named_by_a_tilde(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  monkeypatch.delenv("XDG_CACHE_HOME")
  monkeypatch.setattr(os.path, "expanduser", lambda path: path)
  assert cache_folder().parent == pathlib.Path(tempfile.gettempdir())
