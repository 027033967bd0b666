"""Prefixes as they come, in a pipe and at a prompt."""

import codecs
import io
import json
import os
import pathlib
import pty
import signal
import subprocess
import sys
import time

import pytest
from helpers import ROOT

import sample as sample_program
from charlm.config import Config
from charlm.errors import InputError
from charlm.sampling.options import Request, parse_request

DASHES = "-" * 20


def _answers(
  args: list[str],
  stdin: bytes,
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture[str],
) -> tuple[int, str, str]:
  stream = io.TextIOWrapper(io.BytesIO(stdin))
  monkeypatch.setattr(sys, "stdin", stream)
  code = sample_program.main([*args, "--per_line"])
  captured = capsys.readouterr()
  return code, captured.out, captured.err


@pytest.fixture
def args(trained_run: pathlib.Path) -> list[str]:
  return ["sample.py", f"--run_dir={trained_run}", "--num_chars=90"]


def test_each_line_is_answered_as_by_a_call_of_its_own(
  args: list[str],
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture[str],
) -> None:
  calls = [
    (b"the king", ["--prefix=the king"]),
    (b"", []),
    (b'{"prefix": "my\\nlord", "seed": 7}', ["--prefix=my\nlord", "--seed=7"]),
    (
      b'{"temperature": 2, "top_k": 5, "num_samples": 2}',
      ["--temperature=2", "--top_k=5", "--num_samples=2"],
    ),
    (
      b'{"prefix": "the ", "temperature": 0, "num_chars": 70, "min_p": 0.1}',
      ["--prefix=the ", "--temperature=0", "--num_chars=70", "--min_p=0.1"],
    ),
    (b'{"prefix": "I ", "stop": "k"}', ["--prefix=I ", "--stop=k"]),
    (b"the king", ["--prefix=the king"]),
  ]
  expected = ""
  for _, flags in calls:
    assert sample_program.main([*args, *flags]) == 0
    expected += capsys.readouterr().out + DASHES + "\n"
  lines = codecs.BOM_UTF8 + b"\n".join(line for line, _ in calls)
  answers = _answers(args, lines, monkeypatch, capsys)
  assert answers == (0, expected, "")


def test_objects_say_which_line_they_answer(
  args: list[str],
  tmp_path: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
) -> None:
  (tmp_path / "lines").write_text('the\n{"num_samples": 2, "prefix": "I"}\n')
  args += ["--format=jsonl", f"--prefix_file={tmp_path}/lines", "--per_line"]
  assert sample_program.main(args) == 0
  answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
  keys = ("line", "sample", "prefix")
  found = [tuple(answer[key] for key in keys) for answer in answers]
  assert found == [(1, 0, "the"), (2, 0, "I"), (2, 1, "I")]
  assert all(len(a["text"]) == len(a["log_probs"]) == 90 for a in answers)


@pytest.mark.parametrize("as_json", [False, True])
def test_a_bad_line_is_named_and_the_next_one_answered(
  as_json: bool,
  args: list[str],
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture[str],
) -> None:
  args += ["--format=jsonl"] if as_json else []
  lines = b'{"prefix"\nthe k\xff\nthe '
  code, out, err = _answers(args, lines, monkeypatch, capsys)
  assert code == 4
  first, second = err.splitlines()
  assert first.startswith("line 1: no JSON object")
  assert second == "line 2: not UTF-8 at byte 5: convert it"
  if as_json:
    answers = [json.loads(line) for line in out.splitlines()]
    assert ["error" in answer for answer in answers] == [True, True, False]
  else:
    empty, text = f"{DASHES}\n", out.removesuffix(f"\n{DASHES}\n")
    assert text.startswith(2 * empty + "the ")


@pytest.mark.parametrize(
  ("line", "words"),
  [
    (b'{"prefix": 3}', "prefix is 3: give a value of type str"),
    (b'{"top_p": 2}', "top_p is 2.0: give a value between"),
    (b'{"temperature": true}', "temperature is True"),
    (b'{"temperature": 1e999}', "temperature is inf"),
    (b'{"temperature": 1' + b"0" * 400 + b"}", "temperature is 1"),
    (b'{"seed": 1.5}', "seed is 1.5"),
    (b'{"prefix": "\\ud800"}', "prefix is '\\ud800': give a value in UTF-8"),
    (b'{"sed": 1, "run_dir": "a"}', "unknown: run_dir, sed; give prefix, stop"),
    (b"{" * 100_000, "no JSON object"),
    (b'{"prefix": "\xff"}', "not UTF-8 at byte 12"),
  ],
)
def test_a_line_is_refused_for_what_it_is(line: bytes, words: str) -> None:
  with pytest.raises(InputError) as caught:
    parse_request(line, Request(), Config())
  assert words in str(caught.value)


def test_bytes_are_read_as_bytes() -> None:
  config = Config(unit="byte")
  assert parse_request(b"\xc3\xff", Request(), config).prefix == "\xc3\xff"
  request = parse_request('{"prefix": "ä"}'.encode(), Request(), config)
  assert request.prefix.encode("latin-1") == "ä".encode()


def test_a_model_of_lower_case_reads_lower_case() -> None:
  config = Config(lowercase=True)
  assert parse_request("THE É".encode(), Request(), config).prefix == "the é"
  line = b'{"prefix": "THE", "stop": "KING"}'
  request = parse_request(line, Request(), config)
  assert (request.prefix, request.stop) == ("the", "king")


def test_an_answer_comes_before_the_next_line(
  trained_run: pathlib.Path,
) -> None:
  command = [sys.executable, ROOT / "sample.py", f"--run_dir={trained_run}"]
  with subprocess.Popen(
    [*command, "--per_line", "--num_chars=30"],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
  ) as process:
    for word in ("the", "king"):
      process.stdin.write(f"{word}\n")
      process.stdin.flush()
      text = ""
      while not text.endswith(f"\n{DASHES}\n"):
        text += process.stdout.readline()
      assert text.startswith(word)
      assert len(text) == len(word) + 30 + len(f"\n{DASHES}\n")
    process.stdin.close()
  assert process.returncode == 0


# A process of a new session takes its standard input for its terminal, whose
# Ctrl-C then is for it.
AT_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


class _Terminal:
  """A program at a terminal."""

  def __init__(self, command: list[str]) -> None:
    self._file, end = pty.openpty()
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), end)
    self.process = subprocess.Popen(
      [sys.executable, "-c", AT_TERMINAL, *command],
      start_new_session=True,
      **streams,
    )
    os.close(end)

  def type(self, keys: bytes) -> None:
    os.write(self._file, keys)

  def read_until(self, end: bytes) -> bytes:
    """Returns what appears up to `end`, within a minute."""
    text, deadline = b"", time.monotonic() + 60
    os.set_blocking(self._file, False)
    while end not in text:
      assert time.monotonic() < deadline, text
      try:
        text += os.read(self._file, 4096)
      except BlockingIOError:
        time.sleep(0.01)
    return text

  def exit_code(self) -> int:
    """Waits for the end, at most a minute."""
    code = self.process.wait(60)
    os.close(self._file)
    return code


def test_a_conversation_at_a_prompt(trained_run: pathlib.Path) -> None:
  command = [str(ROOT / "sample.py"), f"--run_dir={trained_run}"]
  terminal = _Terminal([*command, "--per_line", "--num_chars=20"])
  prompt, ctrl_c, ctrl_d, up = b"> ", b"\x03", b"\x04", b"\x1b[A"
  terminal.read_until(prompt)
  terminal.type(b"the xx\b\b\n")  # edited
  assert b"\nthe " in terminal.read_until(DASHES.encode() + b"\r\n> ")
  terminal.type(up + b"king\n")  # from the history
  assert b"\nthe king" in terminal.read_until(DASHES.encode() + b"\r\n> ")
  # Ctrl-C ends each of three texts, and then a line, but not the program.
  for _ in range(3):
    terminal.type(b'{"prefix": "my ", "num_chars": 100000000}\n')
    terminal.read_until(b"\nmy ")
    terminal.read_until(b"the")
    terminal.type(ctrl_c)
    terminal.read_until(b"\r\n> ")
  terminal.type(b"the \xff\n")
  refusal = b"line 6: not UTF-8 at byte 4: convert it\r\n" + DASHES.encode()
  terminal.read_until(refusal + b"\r\n> ")
  terminal.type(b"of" + ctrl_c)
  terminal.read_until(b"\r\n> ")
  terminal.type(ctrl_d)
  assert terminal.exit_code() == 0


def test_sigterm_ends_a_conversation(trained_run: pathlib.Path) -> None:
  command = [str(ROOT / "sample.py"), f"--run_dir={trained_run}"]
  terminal = _Terminal([*command, "--per_line"])
  terminal.read_until(b"> ")
  terminal.process.terminate()
  assert terminal.exit_code() == -signal.SIGTERM
