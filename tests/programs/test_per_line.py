"""`sample.py --per_line` continues each line as it arrives."""

import codecs
import io
import json
import os
import pathlib
import pty
import select
import sys
import threading
from collections.abc import Callable

import pytest

import sample as sample_program

DASHES = "-" * 20


@pytest.fixture
def args(trained_run: pathlib.Path) -> list[str]:
  return ["sample.py", f"--run_dir={trained_run}", "--num_chars=90"]


def test_each_line_is_answered_like_a_separate_call(
  args: list[str],
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture[str],
) -> None:
  args = [*args, "--num_samples=2", "--stop=k"]
  expected = ""
  for prefix in ("the king", ""):
    assert sample_program.main([*args, f"--prefix={prefix}"]) == 0
    expected += capsys.readouterr().out + DASHES + "\n"
  lines = codecs.BOM_UTF8 + b"the king\r\nthe k\xff\n\n"
  monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines)))
  assert sample_program.main([*args, "--per_line"]) == 4
  captured = capsys.readouterr()
  assert captured.out == expected
  assert captured.err.count("\n") == 1
  assert "line 2 is not UTF-8 at byte 5" in captured.err


def test_json_answers_name_their_line(
  args: list[str],
  tmp_path: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
) -> None:
  (tmp_path / "lines").write_bytes(b"\xff\nthe \nI")
  args += ["--format=jsonl", f"--prefix_file={tmp_path}/lines", "--per_line"]
  assert sample_program.main([*args, "--num_samples=2"]) == 4
  answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
  keys = ("line", "sample", "prefix")
  fields = [tuple(answer[key] for key in keys) for answer in answers]
  assert fields == [(2, 0, "the "), (2, 1, "the "), (3, 0, "I"), (3, 1, "I")]
  assert all(len(a["text"]) == len(a["log_probs"]) == 90 for a in answers)


def _pipe() -> tuple[int, int]:
  return os.pipe()[::-1]


@pytest.mark.parametrize(
  ("channel", "end", "flags"),
  [(_pipe, b"", []), (pty.openpty, b"\x04", ["--stream"])],
)
def test_each_line_is_answered_before_the_next_is_read(
  channel: Callable[[], tuple[int, int]],
  end: bytes,
  flags: list[str],
  args: list[str],
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  theirs, ours = channel()
  answers, output = os.pipe()
  answered = []

  def converse() -> None:
    for prefix in (b"the ", b"king "):
      os.write(theirs, prefix + b"\n")
      text = b""
      while not text.endswith(f"\n{DASHES}\n".encode()):
        if not select.select([answers], [], [], 60)[0]:
          break
        text += os.read(answers, 4096)
      answered.append(text)
    os.write(theirs, end)
    if not end:
      os.close(theirs)

  with open(ours) as stdin, open(output, "w") as stdout:
    monkeypatch.setattr(sys, "stdin", stdin)
    monkeypatch.setattr(sys, "stdout", stdout)
    thread = threading.Thread(target=converse)
    thread.start()
    assert sample_program.main([*args, *flags, "--per_line"]) == 0
    thread.join()
  for text, prefix in zip(answered, (b"the ", b"king "), strict=True):
    assert text.startswith(prefix)
    assert len(text) == len(prefix) + 90 + len(f"\n{DASHES}\n")
