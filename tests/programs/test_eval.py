"""The output of `eval.py`."""

import io
import json
import pathlib
import sys

import pytest

import eval as eval_program

pytestmark = pytest.mark.usefixtures("quick_evaluations")


def test_eval_scores_a_text_from_a_file_or_stdin(
  trained_run: pathlib.Path,
  tmp_path: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  eval_text = (trained_run / "eval.txt").read_text()
  padded = "\ufeff\r\n" + eval_text.replace("\n", "  \r\n\r\n ") + "\n\n"
  (tmp_path / "text.txt").write_text(padded, encoding="utf-8", newline="")
  args = ["eval.py", f"--run_dir={trained_run}", "--json"]
  scores = []
  stdin = io.TextIOWrapper(io.BytesIO(padded.encode()))
  monkeypatch.setattr(sys, "stdin", stdin)
  for more in ([], [f"--text={tmp_path}/text.txt"], ["--text=-"]):
    assert eval_program.main([*args, *more]) == 0
    scores.append(json.loads(capsys.readouterr().out))
  assert scores[0] == scores[1] == scores[2]


def test_eval_charges_unknown_characters_and_gives_bits_per_byte(
  trained_run: pathlib.Path,
  tmp_path: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
) -> None:
  (tmp_path / "text.txt").write_text("the kïng of nîght", encoding="utf-8")
  args = ["eval.py", f"--run_dir={trained_run}", f"--text={tmp_path}/text.txt"]
  # `lines` also scores the first character and a final newline.
  for protocol, number, num_bytes in (("stream", 16, 18), ("lines", 18, 20)):
    assert eval_program.main([*args, f"--protocol={protocol}", "--json"]) == 0
    score = json.loads(capsys.readouterr().out)
    assert score["num_characters"] == number
    assert score["num_unknown"] == 2
    assert score["log_perplexity_known"] < score["log_perplexity"]
    assert score["unit"] == "character"
    expected = pytest.approx(score["bits_per_character"] * number / num_bytes)
    assert score["bits_per_byte"] == expected
  # The same score as text.
  assert eval_program.main([*args, "--protocol=lines"]) == 0
  out, err = capsys.readouterr()
  assert err.endswith(": 'î' 'ï'\n")
  assert "18, 2 of them unknown" in out
  assert "without unknown     " in out
  assert f"\nbits per byte       {score['bits_per_byte']:.4f}\n" in out
