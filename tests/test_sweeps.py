"""The commands of docs/sweeps.md run, at small sizes."""

import json
import pathlib
import re
import subprocess
import sys

from helpers import ROOT

SMALL = "--eval_lines=50 --seq_length=20 --batch_size=24 --embedding_dim=8 "
SMALL += "--rnn_units=16 --num_replicas=1"
SMALLER = {
  "0.001 0.002 0.004": "0.01",
  "seq 20": "seq 2",
  "--valid_lines=200": "--valid_lines=20",
  "--epochs=2": "--epochs=1",
  '"low": 128, "high": 512, "log": false, "step": 64': (
    '"low": 8, "high": 16, "log": false, "step": 8'
  ),
}


def test_the_loops_end_in_a_report(
  corpus_path: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  (tmp_path / "my.txt").write_bytes(corpus_path.read_bytes())
  page = (ROOT / "docs" / "sweeps.md").read_text()
  blocks = re.findall(r"^```sh\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
  script = "\n".join(["set -euo pipefail", *blocks])
  for large, small in SMALLER.items():
    assert large in script
    script = script.replace(large, small)
  script = script.replace(".venv/bin/", f"{sys.prefix}/bin/")
  script = re.sub(r" (\w+\.py) ", rf" {ROOT}/\1 ", script)
  script = script.replace("train.py ", f"train.py {SMALL} ")
  result = subprocess.run(
    ["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True
  )
  assert result.returncode == 0, result.stderr
  (group,) = json.loads((tmp_path / "sweep.json").read_text())["groups"]
  names = {run["name"] for run in group["runs"]}
  assert names == {"rate-0.01", "trial-0", "trial-1"}
  # What chose is the loss of the valid text, as Optuna was told it.
  last = [run["curves"]["eval"][-1]["valid_loss"] for run in group["runs"]]
  told = json.loads((tmp_path / "score.json").read_text())["log_perplexity"]
  assert min(abs(loss - told) for loss in last) < 1e-5
