"""Run folders of an older commit: see tests/old_runs/README.md."""

import json
import pathlib
import shutil

import numpy as np
import pytest
import tensorflow as tf
from helpers import PROGRAMS, ROOT, evaluating_quickly

OLD_RUNS = ROOT / "tests" / "old_runs"


@pytest.mark.parametrize("name", ["adam", "muon", "layer_norm", "byte"])
def test_an_old_run_is_scored_resumed_and_sampled(
  name: str,
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
  capsysbinary: pytest.CaptureFixture[bytes],
) -> None:
  shutil.copytree(OLD_RUNS / name, tmp_path / name)
  run_dir = f"--run_dir={tmp_path / name}"
  expected = json.loads((OLD_RUNS / "expected.json").read_text())[name]

  def run(script: str, *flags: str) -> str:
    assert PROGRAMS[script].main([script, run_dir, *flags]) == 0
    encoding = "latin-1" if name == "byte" else "utf-8"
    return capsysbinary.readouterr().out.decode(encoding)

  # One run by all protocols, the others as they are scored by default; of one,
  # the best checkpoint is not the latest.
  num_scores = {"adam": None, "layer_norm": 2}
  for old in expected["scores"][: num_scores.get(name, 1)]:
    score = json.loads(run("eval.py", "--json", *old["flags"]))
    for key, value in old["score"].items():
      # Another processor rounds differently: without AVX-512 by 0.00001.
      assert score[key] == pytest.approx(value, rel=1e-4), old["flags"]

  monkeypatch.chdir(OLD_RUNS)  # where the corpus is
  with evaluating_quickly():
    assert "from step 0" not in run("train.py", *expected["resume"])
  weights, compared = np.load(OLD_RUNS / "resumed.npz"), 0
  (path,) = (tmp_path / name / "checkpoints").glob("*.index")
  reader = tf.train.load_checkpoint(str(path.with_suffix("")))
  for key in weights:
    if key.startswith(f"{name}/"):
      found = reader.get_tensor(key.removeprefix(f"{name}/"))
      np.testing.assert_allclose(found, weights[key], rtol=1e-4, atol=1e-4)
      compared += 1
  assert compared >= 6
  assert len(run("sample.py", "--num_chars=20")) == 21
