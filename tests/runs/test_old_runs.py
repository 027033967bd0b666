"""Run folders of older commits: see tests/old_runs/README.md."""

import json
import pathlib
import shutil

import numpy as np
import pytest
import tensorflow as tf
from helpers import PROGRAMS, ROOT, evaluating_quickly

from charlm.runs.run import checkpoint_steps

OLD_RUNS = ROOT / "tests" / "old_runs"
_OWN = {
  "own": f"--layer={ROOT}/examples/own_layer.py:IndRNN",
  "mingru": f"--layer={ROOT}/examples/mingru.py:MinGRU",
}


@pytest.mark.parametrize(
  ("commit", "name"),
  [
    *((".", name) for name in ("adam", "muon", "byte")),
    *(("288d677", name) for name in ("dropout", "lstm", "mingru", "own")),
  ],
)
def test_an_old_run_is_scored_resumed_and_sampled(
  commit: str,
  name: str,
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
  capsysbinary: pytest.CaptureFixture[bytes],
) -> None:
  folder = OLD_RUNS / commit
  shutil.copytree(folder / name, tmp_path / name)
  flags = [f"--run_dir={tmp_path / name}"]
  flags += [_OWN[name]] if name in _OWN else []
  expected = json.loads((folder / "expected.json").read_text())[name]

  def run(script: str, *more: str) -> str:
    assert PROGRAMS[script].main([script, *flags, *more]) == 0
    encoding = "latin-1" if name == "byte" else "utf-8"
    return capsysbinary.readouterr().out.decode(encoding)

  # All protocols for one run, the default for the others. In one run, the best
  # checkpoint is not the latest.
  num_scores = None if name == "adam" else 1
  for old in expected["scores"][:num_scores]:
    score = json.loads(run("eval.py", "--json", *old["flags"]))
    old["score"].pop("interval", None)  # later code has none
    for key, value in old["score"].items():
      # Processors round differently: without AVX-512, by 0.00001.
      assert score[key] == pytest.approx(value, rel=1e-4), old["flags"]

  monkeypatch.chdir(OLD_RUNS)  # where the corpus is
  resume = [x for x in expected["resume"] if "--max_to_keep" not in x]
  with evaluating_quickly():
    assert "from step 0" not in run("train.py", *resume)
  weights, compared = np.load(folder / "resumed.npz"), 0
  checkpoints = tmp_path / name / "checkpoints"
  newest = max(checkpoint_steps(checkpoints))
  reader = tf.train.load_checkpoint(str(checkpoints / f"ckpt-{newest}"))
  # The LSTM has been reimplemented since.
  tolerance = 1e-3 if name == "lstm" else 1e-4
  for key in weights:
    if key.startswith(f"{name}/"):
      resumed = reader.get_tensor(key.removeprefix(f"{name}/"))
      np.testing.assert_allclose(
        resumed, weights[key], rtol=tolerance, atol=tolerance
      )
      compared += 1
  assert compared >= 6
  assert len(run("sample.py", "--num_chars=20")) == 21


@pytest.mark.parametrize("program", ["train.py", "eval.py"])
def test_a_run_that_used_a_removed_flag_is_refused_naming_flag_and_commit(
  program: str, capsys: pytest.CaptureFixture[str]
) -> None:
  run_dir = OLD_RUNS / "layer_norm"
  assert PROGRAMS[program].main([program, f"--run_dir={run_dir}"]) == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert "--layer_norm" in line
  assert "load it with commit 288d677" in line


def test_a_run_with_a_custom_layer_asks_for_its_flag(
  tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
  run_dir = shutil.copytree(OLD_RUNS / "288d677" / "own", tmp_path / "own")
  for program, *flags in (
    ("train.py", f"--corpus={OLD_RUNS}/corpus.txt"),
    ("train.py", f"--corpus={OLD_RUNS}/corpus.txt", _OWN["mingru"]),
    ("eval.py",),
    ("sample.py", _OWN["mingru"]),
  ):
    argv = [program, f"--run_dir={run_dir}", *flags]
    assert PROGRAMS[program].main(argv) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "IndRNN" in line
