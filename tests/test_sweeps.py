"""The commands of docs/sweeps.md run, at small sizes."""

import json
import pathlib
import re
import subprocess
import sys

import pytest
from helpers import PROGRAMS, ROOT

SMALL = "--eval_lines=50 --seq_length=20 --batch_size=24 --embedding_dim=8 "
SMALL += "--rnn_units=16 --num_replicas=1 --num_layers=1 --warmup_steps=0 "
SMALL += "--valid_lines=20 --epochs=1"
SMALLER = {
  "0.008 0.012 0.018": "0.01",
  "0 1 2": "0 1",
}


# Records its arguments, each followed by a NUL, and ends with another NUL.
_PYTHON = 'python() { printf "%s\\0" "$@" "" >> commands; }'


@pytest.mark.usefixtures("quick_evaluations")
def test_the_sweep_ends_in_a_report(
  corpus_path: pathlib.Path,
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  monkeypatch.chdir(tmp_path)
  (tmp_path / "my.txt").write_bytes(corpus_path.read_bytes())
  page = (ROOT / "docs" / "sweeps.md").read_text()
  blocks = re.findall(r"^```sh\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
  script = "\n".join(["set -euo pipefail", _PYTHON, *blocks])
  for large, small in SMALLER.items():
    assert large in script
    script = script.replace(large, small)
  script = script.replace(".venv/bin/python", "python")
  script = script.replace("train.py ", f"train.py {SMALL} ")
  subprocess.run(["bash", "-c", script], check=True)
  *commands, end = (tmp_path / "commands").read_text().split("\0\0")
  assert not end
  *programs, last = [command.split("\0") for command in commands]
  for name, *args in programs:
    assert PROGRAMS[name].main([name, *args]) == 0
  printed = subprocess.check_output([sys.executable, *last], text=True)
  report = json.loads((tmp_path / "runs" / "rates.json").read_text())
  (group,) = report["groups"]
  first, second = group["runs"]
  assert {first["seed"], second["seed"]} == {0, 1}
  # Each run is scored as at its end, and their mean is printed.
  runs = (first, second)
  losses = [run["curves"]["valid"][-1]["loss"] for run in runs]
  scored = [run["valid_score"]["log_perplexity"] for run in runs]
  assert scored == pytest.approx(losses)
  assert losses == sorted(losses)
  names = ["rate-0.01-0", "rate-0.01-1"]
  assert [setting["runs"] for setting in group["settings"]] == [names]
  mean, error = sum(losses) / 2, (losses[1] - losses[0]) / 2
  summary, line, best, listed = printed.splitlines()
  assert summary == group["summary"]
  assert list(map(float, line.split())) == pytest.approx([mean, error])
  assert (best.strip(), listed.split()) == ("the best", names)
