"""Every command in README.md and BUILD.md is there and works.

What needs neither a GPU, nor an hour, nor an installation is run, in their
order and in one folder, with a small corpus and small sizes put in.
"""

import configparser
import contextlib
import importlib
import io
import pathlib
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator

import pytest
from conftest import ROOT

SCRIPTS = ("train", "eval", "sample", "report", "export")
# Later flags win.
SMALL = [
  "--eval_lines=50",
  "--seq_length=20",
  "--batch_size=24",
  "--embedding_dim=8",
  "--rnn_units=16",
  "--warmup_steps=0",
  "--num_replicas=2",
  "--gru=auto",
  "--epochs=1",
]


def _prose(name: str) -> str:
  """Returns a document without its blocks of Python."""
  text = (ROOT / name).read_text()
  return re.sub(r"```.*?```", "", text, flags=re.DOTALL)


def _commands(name: str) -> Iterator[str]:
  """Yields the lines of indented blocks, without their comments."""
  for line in re.findall(r"^    (\S.*)$", _prose(name), re.MULTILINE):
    yield re.sub(r"\s+#.*", "", line)


README, BUILD = list(_commands("README.md")), list(_commands("BUILD.md"))


def _python_blocks() -> list[str]:
  text = (ROOT / "README.md").read_text()
  return re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def _flags_of(script: str, args: list[str]) -> None:
  """Parses the flags as the script would."""
  values = importlib.import_module(script).define_flags()
  assert values([script, *args])[1:] == []


def _make(words: list[str]) -> str:
  """Checks a call of make; returns its target."""
  target, *variables = words
  result = subprocess.run(
    ["make", "-n", "-C", ROOT, *words], capture_output=True, text=True
  )
  assert result.returncode == 0, result.stderr
  for word in variables:
    name, _, value = word.partition("=")
    assert name in ("ARGS", "ONLY", "PYTHON")
    assert value in result.stdout
  return target


@pytest.mark.parametrize("command", sorted({*README, *BUILD}))
def test_a_command_has_flags_that_exist(command: str) -> None:
  words = shlex.split(command.rpartition(" | ")[2])
  match words:
    case [".venv/bin/python", script, *args] if script.endswith(".py"):
      assert script.removesuffix(".py") in SCRIPTS
      flags_of = script.removesuffix(".py")
      _flags_of(flags_of, args)
    case [".venv/bin/python", "-c", code]:
      compile(code, "command", "exec")
    case ["make", *args]:
      target = _make(args)
      if target == "train":
        flags = [a.removeprefix("ARGS=") for a in args if a.startswith("ARGS")]
        _flags_of("train", [word for f in flags for word in f.split()])
    case [".venv/bin/tensorboard", *args]:
      parse = [sys.executable, "-m", "tensorboard.main", *args, "--version_tb"]
      subprocess.run(parse, check=True, capture_output=True)
    case [".venv/bin/pip", "install", "-e", what]:
      extras = what.removeprefix(".[").removesuffix("]").split(",")
      setup = configparser.ConfigParser()
      setup.read(ROOT / "setup.cfg")
      assert set(extras) <= setup["options.extras_require"].keys()
    case ["python3", "-m", "venv", ".venv"]:
      pass
    case ["corpus", "->", *_]:  # no command: how data flows
      pass
    case _:
      pytest.fail(f"a command that nothing checks: {command}")


def _run(words: list[str], stdin: str, folder: pathlib.Path) -> str:
  """Runs a command of a script with small sizes; returns what it printed."""
  script = words[1].removesuffix(".py")
  args = words[2:]
  if script == "train":
    corpus = folder / "my.txt"
    args = [*args, f"--corpus={corpus}", *SMALL]
  elif script == "sample":
    args = [*args, "--num_chars=50"]
  stdout = io.StringIO()
  stdout.reconfigure = lambda **kwargs: None
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
    with contextlib.redirect_stdout(stdout):
      assert importlib.import_module(script).main([words[1], *args]) == 0
  return stdout.getvalue()


def test_a_walk_through_the_readme(
  corpus_path: pathlib.Path,
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  monkeypatch.chdir(tmp_path)
  (tmp_path / "recipes").symlink_to(ROOT / "recipes")
  (tmp_path / "my.txt").write_bytes(corpus_path.read_bytes())
  ran = []
  for command in README:
    left, _, right = command.rpartition(" | ")
    words = shlex.split(right)
    if words[:2] == ["make", "train"]:
      flags = [word for a in words[2:] for word in shlex.split(a)]
      flags = [word.removeprefix("ARGS=") for word in flags]
      fast = "--flagfile=recipes/fast.flags"
      words = ["python", "train.py", fast, *flags]
    elif words[0] != ".venv/bin/python":
      continue
    # What a line on a pipe's left side prints.
    stdin = re.sub(r"^printf '(.*)'$", r"\1", left).replace("\\n", "\n")
    printed = _run(words, stdin, tmp_path)
    assert printed
    ran.append(words[1])
  assert set(ran) == {f"{script}.py" for script in SCRIPTS}
  for block in _python_blocks():
    code = block.replace("256, 512)", "8, 16)").replace("1, 1, 512", "1, 1, 16")
    code = code.replace('load_lines("shakespeare")', 'load_lines("my.txt")')
    code = code.replace("lines[:-1000], vocab)", "lines, vocab, 20, 24)")
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)


def test_the_readme_links_to_files_that_are_there() -> None:
  for name in ("README.md", "BUILD.md", "RESULTS.md"):
    for target in re.findall(r"\]\(([^)#]+)\)", _prose(name)):
      assert (ROOT / target).exists(), target
