"""The documents match the code, and their commands work.

The commands of the user pages are run in order and in one folder, with a small
corpus and small sizes; those that need a GPU, an hour or an installation are
not. The commands of the other documents are only checked.
"""

import configparser
import contextlib
import dataclasses
import importlib
import io
import pathlib
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator

import pytest
from helpers import ROOT

from charlm.training import recipes

# The pages whose commands and code are run, in this order.
WALK = (
  "README.md",
  "docs/guide.md",
  "docs/reference.md",
  "docs/exported.md",
  "docs/from-the-notebook.md",
  "docs/from-the-tutorial.md",
)
DOCUMENTS = (
  *WALK,
  "BUILD.md",
  "docs/machines.md",
  "docs/sweeps.md",
  "docs/your-model.md",
  "benchmarks/README.md",
  "models/README.md",
  "recipes/LOG.md",
  "results/README.md",
)
SCRIPTS = ("train", "eval", "sample", "report", "export")
# Flags in the prose that belong to no script of these.
OTHER_FLAGS = {"help", "install", "logdir", "only"}
SIZES = ["--embedding_dim=8", "--rnn_units=16", "--num_layers=1"]
# Appended to the flags of a command, since later flags win.
SMALL = [
  *SIZES,
  "--eval_chars=0",
  "--valid_chars=400",
  "--eval_lines=50",
  "--seq_length=20",
  "--batch_size=24",
  "--warmup_steps=0",
  "--num_replicas=1",
  "--gru=auto",
  "--epochs=1",
]
# These runs are not trained: they would take a minute, or repeat another one.
NOT_TRAINED = {"raw", "edited", "text8", "profiled", "gpu"}
NOT_TRAINED |= {"my-1", "my-2", "wide", "final", "better", "code", "tiny"}
NOT_TRAINED |= {"finetuned-plays", "keras", "other"}


def _text(name: str) -> str:
  return (ROOT / name).read_text()


def _prose(name: str) -> str:
  """Returns a document without its fenced blocks."""
  return re.sub(r"```.*?```", "", _text(name), flags=re.DOTALL)


def _commands(name: str) -> Iterator[str]:
  """Yields the commands in indented blocks, without their comments."""
  prose = re.sub(r" \\\n +", " ", _prose(name))  # joins continued lines
  for line in re.findall(r"^    (\S.*)$", prose, re.MULTILINE):
    yield re.sub(r"\s+#.*", "", line)


COMMANDS = {name: list(_commands(name)) for name in DOCUMENTS}


def _main(script: str, *args: str) -> str:
  """Runs a script in this process; returns its output."""
  stdout = io.StringIO()
  stdout.reconfigure = lambda **kwargs: None
  with contextlib.redirect_stdout(stdout):
    assert importlib.import_module(script).main([f"{script}.py", *args]) == 0
  return stdout.getvalue()


def _fields(script: str) -> tuple[dataclasses.Field, ...]:
  """Returns the fields that define a script's flags."""
  options = getattr(importlib.import_module(script), f"{script.title()}Options")
  return dataclasses.fields(options)


def _accepts(field: dataclasses.Field, value: str) -> bool:
  """Returns whether a flag takes a value; it may be given without one."""
  kind = field.type if field.type in (int, float) else str
  return not value or field.metadata["allowed"].accepts(kind(value))


def _make(words: list[str]) -> str:
  """Checks a make command; returns its target."""
  target, *variables = words
  result = subprocess.run(
    ["make", "-n", "-C", ROOT, *words], capture_output=True, text=True
  )
  assert result.returncode == 0, result.stderr
  for word in variables:
    name, _, value = word.partition("=")
    assert name in ("ARGS", "BASE", "CORPUS", "PYTHON", "TABLE")
    assert value in result.stdout
    assert name != "CORPUS" or "--recipe=auto" in result.stdout
  return target


@pytest.mark.parametrize(
  "command", sorted({c for commands in COMMANDS.values() for c in commands})
)
def test_every_documented_command_has_valid_flags(command: str) -> None:
  words = shlex.split(command.rpartition(" | ")[2])
  match words:
    case [".venv/bin/python", script, *args] if script.endswith(".py"):
      assert _main(script.removesuffix(".py"), *args, "--help")
    case [".venv/bin/python", "-c", code]:
      compile(code, "command", "exec")
    case ["make", *args]:
      target = _make(args)
      if target == "train":
        flags = [a.removeprefix("ARGS=") for a in args if a.startswith("ARGS")]
        words = [word for f in flags for word in f.split()]
        assert _main("train", *words, "--help")
    case [".venv/bin/tensorboard", "--logdir", _]:
      pass
    case [".venv/bin/pip", "install", "-e", package]:
      extras = package.removeprefix(".[").removesuffix("]").split(",")
      setup = configparser.ConfigParser()
      setup.read(ROOT / "setup.cfg")
      assert set(extras) <= setup["options.extras_require"].keys()
    case ["python3", "-m", "venv", ".venv"]:
      pass
    case [".venv/bin/pip", "install", "jupyterlab"]:
      pass
    case [".venv/bin/jupyter", "lab", notebook]:
      assert (ROOT / notebook).exists()
    case _:
      pytest.fail(f"a command that nothing checks: {command}")


def _run(words: list[str], stdin: str, folder: pathlib.Path) -> str:
  """Runs a script's command with small sizes; returns its output."""
  script = words[1].removesuffix(".py")
  args = words[2:]
  if script == "train":
    small = SMALL
    if "--init_from=english" in args:  # this model has its own sizes
      small = [flag for flag in SMALL if flag not in SIZES]
    args = [*args, f"--corpus={folder / 'my.txt'}", *small]
  elif script == "sample":
    args = [arg.replace("=shakespeare", "=my.txt") for arg in args]
    args.append("--num_chars=50")
  elif "--follow" in args:
    args.append("--idle_timeout=0")
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
    return _main(script, *args)


@pytest.mark.usefixtures("quick_evaluations")
def test_the_commands_and_code_in_the_user_pages_run(
  corpus_path: pathlib.Path,
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  monkeypatch.chdir(tmp_path)
  (tmp_path / "recipes").symlink_to(ROOT / "recipes")
  for name in ("my.txt", "other.txt"):
    (tmp_path / name).write_bytes(corpus_path.read_bytes())
  ran = []
  # Runs each command once, though several pages may show it.
  for command in dict.fromkeys(c for name in WALK for c in COMMANDS[name]):
    left, _, right = command.rpartition(" | ")
    words = shlex.split(right)
    if words[:2] == ["make", "train"]:
      make = ["make", "-n", "--no-print-directory", "-C", ROOT, *words[1:]]
      steps = subprocess.run(make, capture_output=True, text=True).stdout
      words = shlex.split(steps.splitlines()[-1])
    elif words[0] != ".venv/bin/python" or words[1] == "-c":
      continue
    if any(f"runs/{name}" in word for word in words for name in NOT_TRAINED):
      continue
    if words[1] in ran and words[1] == "report.py":  # scores all runs: slow
      continue
    # The input from the left side of a pipe.
    stdin = re.sub(r"^printf '(.*)'$", r"\1", left).replace("\\n", "\n")
    printed = _run(words, stdin, tmp_path)
    assert printed, command
    ran.append(words[1])
  assert set(ran) == {f"{script}.py" for script in SCRIPTS}
  python = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
  blocks = {name: python.findall(_text(name)) for name in WALK}
  assert any(blocks.values())
  for name in WALK:
    names = {"__name__": name}  # a block may use the names of earlier ones
    for block in blocks[name]:
      exec(compile(_with_small_sizes(block), name, "exec"), names)
  # The page shows only the first lines of the code for Keras.
  first, keras, *_ = blocks["docs/exported.md"]
  read = "  settings = json.load(file)\n"
  assert keras.endswith(read)
  code = keras + first.partition(read)[2]
  exec(compile(_with_small_sizes(code), "Keras", "exec"), {})


def _with_small_sizes(code: str) -> str:
  """Adapts a block of Python to the small runs."""
  for large, small in {
    "[1, 1024]": "[1, 16]",
    "ROMEO": "the",  # characters that the small corpus has
    '"the:"': '"the "',
  }.items():
    code = code.replace(large, small)
  return code


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_describes_every_flag(script: str) -> None:
  # A flag without a description would have no line.
  shown = re.findall(r"^  --(\w+)", _main(script, "--help"), re.MULTILINE)
  names = [field.name for field in _fields(script)]
  assert shown == [*names, "help", "flagfile"]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_flags_in_prose_exist_and_take_the_values(name: str) -> None:
  fields = [field for script in SCRIPTS for field in _fields(script)]
  code = " ".join(re.findall(r"`([^`]+)`", _prose(name)))
  for flag, value in re.findall(r"--(\w+)=?([^\s`]*)", code):
    assert flag in OTHER_FLAGS or any(
      _accepts(f, value) for f in fields if flag in (f.name, f"no{f.name}")
    ), f"--{flag}={value}"


def test_the_reference_lists_the_sizes_that_auto_goes_by() -> None:
  rows = re.findall(
    r"^\| `([\w-]+)` \| `auto`.*: up to ([\d,]+)( million)? characters",
    _text("docs/reference.md"),
    re.MULTILINE,
  )
  sizes = {
    name: int(number.replace(",", "")) * (10**6 if million else 1)
    for name, number, million in rows
  }
  *limited, _ = recipes.SIZES_OF_AUTO
  limited.append((recipes.FINETUNE_AT_MOST, "finetune"))
  assert sizes == {name: size for size, name in limited}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_point_to_existing_files_and_titles(name: str) -> None:
  links = r"\]\(([^)]+)\)|^\[[^]]+\]: (\S+)"
  matches = re.findall(links, _prose(name), re.MULTILINE)
  for target in map("".join, matches):
    if target.startswith("https:"):
      continue
    file, _, anchor = target.partition("#")
    path = (ROOT / name).parent / file if file else ROOT / name
    assert path.exists(), target
    if anchor:
      titles = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
      assert anchor in map(_anchor, titles), target


def _anchor(title: str) -> str:
  """Returns GitHub's anchor for a title."""
  return re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")
