"""Imports of the programs."""

import gc

import pytest

from charlm.system.process import import_quietly


def test_the_garbage_collector_is_on_after_a_failed_import() -> None:
  with pytest.raises(ModuleNotFoundError):
    import_quietly("no_such_module")
  assert gc.isenabled()
