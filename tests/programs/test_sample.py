"""The output of `sample.py`."""

import contextlib
import io
import json
import os
import pathlib
import signal
import sys

import pytest

import sample as sample_program


@pytest.fixture
def args(trained_run: pathlib.Path) -> list[str]:
  return ["sample.py", f"--run_dir={trained_run}", "--num_chars=150"]


def _printed(args: list[str], capsys: pytest.CaptureFixture[str]) -> str:
  assert sample_program.main(args) == 0
  captured = capsys.readouterr()
  assert captured.err == ""
  return captured.out


def test_stream_prints_the_same_text(
  args: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
  args += ["--num_samples=3", "--prefix=the ", "--stop=g of", "--top_p=0.9"]
  whole = _printed(args, capsys)
  assert whole.count("-" * 20) == 2
  texts = whole.split("-" * 20 + "\n")
  assert all(text.startswith("the ") for text in texts)
  assert _printed([*args, "--stream"], capsys) == whole


def test_json_lines_hold_each_text_and_its_log_probs(
  args: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
  args += ["--num_samples=2", "--prefix=the ", "--stop=ki"]
  texts = _printed(args, capsys).removesuffix("\n").split(f"\n{'-' * 20}\n")
  lines = _printed([*args, "--format=jsonl"], capsys).splitlines()
  samples = [json.loads(line) for line in lines]
  assert ["the " + sample["text"] for sample in samples] == texts
  assert [sample["sample"] for sample in samples] == [0, 1]
  for sample in samples:
    assert sample["prefix"] == "the "
    assert len(sample["log_probs"]) == len(sample["text"])
    assert max(sample["log_probs"]) < 0
    assert sample["stopped"] == (len(sample["text"]) < 150)


def test_a_prefix_comes_from_a_file_or_a_pipe(
  args: list[str],
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture[str],
) -> None:
  prefix = "my lord, the king\nof "
  expected = _printed([*args, f"--prefix={prefix}"], capsys)
  (tmp_path / "prefix.txt").write_text(prefix)
  file = f"--prefix_file={tmp_path}/prefix.txt"
  assert _printed([*args, file], capsys) == expected
  stdin = io.TextIOWrapper(io.BytesIO(prefix.encode()))
  monkeypatch.setattr(sys, "stdin", stdin)
  assert _printed([*args, "--prefix_file=-"], capsys) == expected


def test_unknown_characters_in_the_prefix_are_named(
  trained_run: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
  args = ["sample.py", f"--run_dir={trained_run}", "--num_chars=5"]
  assert sample_program.main([*args, "--prefix=kïng Z"]) == 0
  captured = capsys.readouterr()
  assert captured.out.startswith("kïng Z")
  assert captured.err.count("\n") == 1
  assert "'Z' 'ï'" in captured.err


def test_a_closed_pipe_ends_sampling_quietly(
  trained_run: pathlib.Path, capfd: pytest.CaptureFixture[str]
) -> None:
  args = ["sample.py", f"--run_dir={trained_run}", "--num_chars=9"]
  reader, writer = os.pipe()
  os.close(reader)
  # Closing the pipe, as at exit, fails if unread output is left in it.
  with open(writer, "w") as pipe, contextlib.redirect_stdout(pipe):
    assert sample_program.main(args) == 128 + signal.SIGPIPE
  assert capfd.readouterr().err == ""
