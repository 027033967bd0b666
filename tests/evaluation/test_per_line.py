"""Scores of single lines, as a filter in a pipe gives them."""

import io
import json
import math
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from helpers import ROOT, VOCAB, WORDS, build_model, in_a_graph

import eval as eval_program
import train as train_program
from charlm.config import Config
from charlm.data.vocabulary import encode
from charlm.evaluation.per_line import print_scores
from charlm.runs.loading import load_model
from charlm.runs.run_dir import RunDir


def _run_filter(
  run: pathlib.Path,
  data: bytes,
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture[str],
) -> tuple[int, list[list[str]], str]:
  monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
  args = ["eval.py", f"--run_dir={run}", "--text=-", "--per_line"]
  code = eval_program.main(args)
  captured = capsys.readouterr()
  rows = [line.split("\t", 4) for line in captured.out.split("\n")[:-1]]
  return code, rows, captured.err


def test_each_line_costs_what_it_costs_alone(
  trained_run: pathlib.Path,
  lines: list[str],
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture[str],
) -> None:
  data = "\n".join(lines).encode()
  code, rows, err = _run_filter(trained_run, data, monkeypatch, capsys)
  assert (code, err) == (0, "")
  assert [row[4] for row in rows] == lines
  run = RunDir(trained_run)
  predict = in_a_graph(load_model(run, "latest")[0])
  vocab = run.vocabulary()
  for nats, number, bits, worst, line in rows[::50]:
    ids = encode(f"\n{line}\n", vocab)[np.newaxis]
    log_probs = predict(ids[:, :-1]).numpy()[0]
    of_each = -log_probs[np.arange(len(line) + 1), ids[0, 1:]]
    assert float(nats) == pytest.approx(of_each.sum(), abs=1e-3)
    assert int(number) == len(line) + 1
    expected = of_each.mean() / math.log(2)
    assert float(bits) == pytest.approx(expected, abs=1e-4)
    assert worst == (line + "\n")[of_each.argmax()].replace("\n", "\\n")


def test_lines_that_are_not_utf_8_are_told_and_left_out(
  trained_run: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture[str],
) -> None:
  data = (
    b"\xef\xbb\xbfthe king\n\xff\xfe\nof\r\n\n  my lord,\t\nno\xc3\n\xc3\xbc"
  )
  code, rows, err = _run_filter(trained_run, data, monkeypatch, capsys)
  assert code == 4
  assert [row[4] for row in rows] == ["the king", "of", "", "my lord,", "ü"]
  assert [row[1] for row in rows] == ["9", "3", "1", "9", "2"]
  assert err == (
    "line 2, left out, is not UTF-8 at byte 0: mend it\n"
    "line 6, left out, is not UTF-8 at byte 2: mend it\n"
  )


def test_nothing_in_is_nothing_out(
  trained_run: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture[str],
) -> None:
  assert _run_filter(trained_run, b"", monkeypatch, capsys) == (0, [], "")
  data = b"\xef\xbb\xbfab\xff"
  code, rows, err = _run_filter(trained_run, data, monkeypatch, capsys)
  assert (code, rows) == (4, [])
  assert "byte 2" in err


@pytest.mark.parametrize("flags", [[], ["--raw"]])
def test_lines_end_where_those_of_the_protocol_do(
  flags: list[str],
  train_args: list[str],
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture[str],
) -> None:
  run = tmp_path / "run"
  args = [*train_args, *flags, "--lowercase", f"--run_dir={run}"]
  assert train_program.main([*args, "--epochs=0"]) == 0
  text = b"  The king\rof night\r\nMY lord,\r I \n\xc4\xb0"
  (tmp_path / "text.txt").write_bytes(text)
  capsys.readouterr()
  args = ["eval.py", f"--run_dir={run}", f"--text={tmp_path}/text.txt"]
  assert eval_program.main([*args, "--protocol=lines", "--json"]) == 0
  expected = json.loads(capsys.readouterr().out)
  code, rows, err = _run_filter(run, text, monkeypatch, capsys)
  assert (code, err) == (0, "")
  assert len(rows) == (3 if flags else 5)
  assert sum(int(row[1]) for row in rows) == expected["num_characters"]
  means = [float(row[0]) / int(row[1]) for row in rows]
  assert np.mean(means) == pytest.approx(expected["log_perplexity"], abs=1e-4)


def test_a_tab_in_a_line_leaves_the_columns_before_it_whole(
  capsys: pytest.CaptureFixture[str],
) -> None:
  model = build_model(len(VOCAB), 4, 6)
  assert print_scores(model, VOCAB, Config(raw=True), io.BytesIO(b"a\tb\tb"))
  cells = capsys.readouterr().out.removesuffix("\n").split("\t", 4)
  assert cells[4] == "a\tb\tb"
  assert cells[1] == "6"


def test_as_a_process_in_a_pipe(trained_run: pathlib.Path) -> None:
  command = [sys.executable, str(ROOT / "eval.py"), f"--run_dir={trained_run}"]
  with subprocess.Popen(
    [*command, "--text=-", "--per_line"],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
  ) as process:
    for word in WORDS[:3]:
      process.stdin.write(f"{word}\n")
      process.stdin.flush()
      # Its answer comes before there is another line.
      assert process.stdout.readline().endswith(f"\t{word}\n")
    process.stdin.close()
  assert process.returncode == 0
