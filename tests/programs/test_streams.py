"""What all scripts share, as processes: their streams and their errors."""

import os
import pathlib
import shlex
import shutil
import subprocess
import sys

import pytest
from helpers import PROGRAMS, ROOT, run_program

import eval as eval_program
from charlm.errors import InputError
from charlm.system.process import fail, warn

_STREAMS = ("<&-", ">&-", "2>&-")
# One alone, two whose numbers other files would take, and all.
_CLOSED = [[">&-"], ["<&-", "2>&-"], [*_STREAMS]]


def _run(
  script: str, flags: list[str], closed: list[str]
) -> subprocess.CompletedProcess:
  """Runs a script with closed streams, TensorFlow's own lines shown."""
  command = f'exec "$@" {" ".join(closed)}'
  return subprocess.run(
    ["sh", "-c", command, "sh", sys.executable, ROOT / script, *flags],
    env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "0"},
    stdin=subprocess.DEVNULL,
    capture_output=True,
    text=True,
  )


@pytest.mark.parametrize("closed", _CLOSED, ids=" ".join)
def test_a_script_works_without_streams(
  closed: list[str],
  train_args: list[str],
  trained_run: pathlib.Path,
  tmp_path: pathlib.Path,
) -> None:
  run = f"--run_dir={tmp_path}/run"
  shutil.copytree(trained_run, tmp_path / "run")
  (tmp_path / "run" / "lock").write_text("4711\n")
  trained = _run("train.py", [*train_args[1:], "--epochs=4", run], closed)
  assert trained.returncode == 0
  assert ("trained to step 48" in trained.stdout) == (">&-" not in closed)
  assert bool(trained.stderr) == ("2>&-" not in closed)
  assert "oneDNN" not in trained.stdout
  lock = (tmp_path / "run" / "lock").read_text()
  assert lock.rstrip("\n").isdigit()
  assert lock != "4711\n"


def test_a_score_goes_to_no_other_stream(trained_run: pathlib.Path) -> None:
  scored = _run("eval.py", [f"--run_dir={trained_run}"], ["<&-", "2>&-"])
  assert (scored.returncode, scored.stderr) == (0, "")
  assert "log perplexity" in scored.stdout
  assert "oneDNN" not in scored.stdout


@pytest.mark.parametrize("closed", _CLOSED, ids=" ".join)
def test_an_error_goes_to_no_other_stream(closed: list[str]) -> None:
  result = _run("eval.py", ["--windw=3"], closed)
  assert (result.returncode, result.stdout) == (2, "")
  assert ("windw" in result.stderr) == ("2>&-" not in closed)


def test_a_closed_input_is_told_from_an_empty_one(
  trained_run: pathlib.Path,
) -> None:
  flags = [f"--run_dir={trained_run}", "--text=-"]
  closed = _run("eval.py", flags, ["<&-"])
  assert (closed.returncode, closed.stdout) == (2, "")
  assert "input is closed" in closed.stderr
  per_line = [f"--run_dir={trained_run}", "--per_line"]
  closed = _run("sample.py", per_line, ["<&-"])
  assert (closed.returncode, closed.stdout) == (2, "")
  assert "input is closed" in closed.stderr
  empty = run_program("eval.py", *flags)  # its input is /dev/null
  assert (empty.returncode, empty.stdout) == (2, "")
  assert "fewer than two" in empty.stderr


def test_an_error_on_a_full_disk_keeps_its_code() -> None:
  command = f"{sys.executable} {ROOT}/eval.py --windw=3 2>/dev/full"
  assert subprocess.run(command, shell=True).returncode == 2


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_training_whose_log_is_full_is_done(
  unbuffered: str, train_args: list[str], tmp_path: pathlib.Path
) -> None:
  flags = shlex.join([*train_args[1:], f"--run_dir={tmp_path}/run"])
  command = f"{sys.executable} {ROOT}/train.py {flags} --max_steps=3 >/dev/full"
  env = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
  result = subprocess.run(command, shell=True, env=env, capture_output=True)
  assert (result.returncode, result.stderr) == (0, b"")
  assert (tmp_path / "run" / "checkpoints" / "ckpt-3.index").exists()


def test_a_terminal_obeys_no_name(
  trained_run: pathlib.Path,
  tmp_path: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
) -> None:
  name = "\x1b[31m\x07\u202e\x9b\ud800é莎"
  shown = r"\x1b[31m\x07\u202e\x9b\ud800é莎"
  warn(name)
  assert fail("eval.py", InputError(name)) == 2
  assert capsys.readouterr().err == f"{shown}\neval.py: {shown}\n"
  warn("a\nb\r")
  assert capsys.readouterr().err == "a\\nb\\r\n"
  shutil.copytree(trained_run, tmp_path / "run")
  config = tmp_path / "run" / "config.json"
  config.write_text(config.read_text().replace("{", r'{"\u001b[2J": 1,'))
  for flags in (
    [f"--run_dir={tmp_path}/run"],
    [f"--run_dir={trained_run}", f"--text={tmp_path}/\x1b[2J"],
    ["\x1b[2J"],
  ):
    assert eval_program.main(["eval.py", *flags]) == 2
    err = capsys.readouterr().err
    assert "\x1b" not in err
    assert r"\x1b[2J" in err


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_closed_output_is_no_error(name: str) -> None:
  command = f"{sys.executable} {ROOT / name} --help >&-"
  result = subprocess.run(
    command, shell=True, capture_output=True, text=True, check=True
  )
  assert result.stderr == ""


@pytest.mark.parametrize("name", PROGRAMS)
def test_help_is_no_error(
  name: str, capsys: pytest.CaptureFixture[str]
) -> None:
  assert PROGRAMS[name].main([name, "--help"]) == 0
  captured = capsys.readouterr()
  assert "--run_dir" in captured.out
  assert captured.err == ""


_BAD_INPUT = """
import sys
from charlm.errors import InputError
from charlm.options import Options
from charlm.system.process import run_command

def command(options):
  print("held until the end")
  raise InputError("bad: mend it")

sys.exit(run_command(command, Options, ["a.py"], ""))
"""


def test_bad_input_keeps_its_code_where_nobody_reads() -> None:
  env = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
  with subprocess.Popen(
    [sys.executable, "-c", _BAD_INPUT],
    env=env,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  ) as process:
    process.stdout.close()
    assert process.stderr.read() == "a.py: bad: mend it\n"
  assert process.returncode == 2
