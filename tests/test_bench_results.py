import json
import pathlib

import pytest

from benchmarks import results


def test_without_a_number_of_seeds_it_is_that_of_before(
  monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
  monkeypatch.setattr(results, "_FOLDER", tmp_path)
  monkeypatch.setattr(results, "_measure_run", lambda *args: {"seed": args[-1]})
  for given, measured in ((0, 1), (3, 3), (0, 3), (2, 2)):
    results.measure("fast", pathlib.Path("some.txt"), given)
    runs = json.loads((tmp_path / "fast.json").read_text())["runs"]
    assert [run["seed"] for run in runs] == [*range(measured)]
