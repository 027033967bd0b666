"""Options of training and evaluation, through the scripts."""

import hashlib
import json
import pathlib
import shutil

import numpy as np
import pytest
from helpers import metrics

import eval as eval_program
import train as train_program

pytestmark = pytest.mark.usefixtures("quick_evaluations")


def _train(args: list[str], run_dir: pathlib.Path, *more: str) -> pathlib.Path:
  assert train_program.main([*args, f"--run_dir={run_dir}", *more]) == 0
  return run_dir


def _score(
  capsys: pytest.CaptureFixture[str], run_dir: pathlib.Path, *more: str
) -> dict:
  capsys.readouterr()
  assert eval_program.main(["eval.py", f"--run_dir={run_dir}", *more]) == 0
  return json.loads(capsys.readouterr().out)


def test_a_tuned_run_resumes_without_its_initial_run(
  train_args: list[str], trained_run: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  source = shutil.copytree(trained_run, tmp_path / "source")
  args = [*train_args, f"--init_from={source}"]
  tuned = _train(args, tmp_path / "tuned")
  numbers = metrics(tuned, "eval")
  assert numbers[0]["loss"] < metrics(trained_run, "eval")[0]["loss"] - 0.3
  # Nor does it need its own latest checkpoint.
  for removed in (source, tuned / "checkpoints"):
    shutil.rmtree(removed)
    _train(args, tuned)
    assert metrics(tuned, "eval") == numbers


def test_each_protocol_scores_the_right_number_of_characters(
  trained_run: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
  args = (capsys, trained_run, "--json")
  stream = _score(*args)
  windows = _score(*args, "--protocol=windows", "--window=16", "--stride=4")
  lines = _score(*args, "--protocol=lines")
  eval_text = (trained_run / "eval.txt").read_text()
  assert stream["num_characters"] == windows["num_characters"]
  assert stream["num_characters"] == len(eval_text) - 1
  assert lines["num_characters"] == len(eval_text) + 1
  assert windows["protocol"] == "windows of 16, 4 apart"
  whole = _score(*args, "--protocol=windows", "--window=100000")
  assert whole["log_perplexity"] == pytest.approx(
    stream["log_perplexity"], abs=1e-5
  )


@pytest.mark.parametrize("protocol", [[], ["--protocol=lines"]])
def test_texts_of_two_characters_have_a_score(
  protocol: list[str],
  valid_run: pathlib.Path,
  tmp_path: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
) -> None:
  file = tmp_path / "text.txt"
  file.write_text("ab")
  score = _score(capsys, valid_run, f"--text={file}", "--json", *protocol)
  assert np.isfinite(score["log_perplexity"])
  file.write_text("a")
  args = ["eval.py", f"--run_dir={valid_run}", f"--text={file}", *protocol]
  assert eval_program.main(args) == 2


def test_dynamic_evaluation_refuses_a_short_or_missing_valid_text(
  trained_run: pathlib.Path, valid_run: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  run_dir = shutil.copytree(valid_run, tmp_path / "run")
  text = ("the king of night " * 20)[:319]
  (run_dir / "valid.txt").write_text(text)
  config = json.loads((run_dir / "config.json").read_text())
  config["valid_sha256"] = hashlib.sha256(text.encode()).hexdigest()
  (run_dir / "config.json").write_text(json.dumps(config))
  for refused in (run_dir, trained_run):  # the latter has no valid text
    args = ["eval.py", f"--run_dir={refused}", "--dynamic"]
    assert eval_program.main(args) == 2


def test_dynamic_evaluation_lowers_the_loss(
  valid_run: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
  static = _score(capsys, valid_run, "--json")
  dynamic = _score(capsys, valid_run, "--json", "--dynamic")
  assert "dynamic at a learning rate of" in dynamic["protocol"]
  assert dynamic["log_perplexity"] < static["log_perplexity"]
