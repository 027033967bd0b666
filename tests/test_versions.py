"""Private names of TensorFlow and Keras, which any release may remove."""

import ast
import pathlib
import re
from collections.abc import Iterator
from typing import NamedTuple

from helpers import ROOT


class Private(NamedTuple):
  """Why a private name is used, and what is public in its place."""

  reason: str
  public: str = "none"


_FRAMEWORK = "tensorflow.python.framework"
# Attributes, or modules with what is imported of them.
PRIVATE = {
  "_iterations": Private(
    "in the key of a checkpoint's step, which is checked before all is restored"
  ),
  "_jit_compile": Private("tests: whether XLA compiles what scores"),
  "_XlaMustCompile": Private("tests: which functions of a graph XLA compiles"),
  "keras.src.backend.tensorflow.core": Private(
    "setup.cfg: its warning on NumPy 2 is ignored"
  ),
  "_is_gpu_available": Private(
    "tests: Keras' GRU takes cuDNN where there is a GPU, here a pretended one"
  ),
  "keras.src.backend.tensorflow.rnn": Private("tests: the module of that"),
  f"{_FRAMEWORK}.config": Private(
    "tests: operations are deterministic, until the test ends",
    "tf.config.experimental.enable_op_determinism, which nothing takes back",
  ),
  f"{_FRAMEWORK}.convert_to_constants.convert_variables_to_constants_v2": (
    Private("tests: a graph without variables, for Grappler")
  ),
  f"{_FRAMEWORK}.kernels": Private("tests: the kernels that GPUs have"),
  f"{_FRAMEWORK}.op_def_registry": Private("tests: an operation's arguments"),
}
# These are documented by Python in spite of the underscore.
_OF_PYTHON = {"_asdict", "_exit", "_obj", "_replace"}
_FOLDERS = ("charlm", "benchmarks", "examples", "tests")
_MODULE = re.compile(r"(tensorflow\.(python|core|compiler)|keras\.src)\b[\w.]*")
_ATTRIBUTE = re.compile(r"_[A-Za-z]\w*|__internal__")


def _defined(tree: ast.Module) -> set[str]:
  """Returns the names that a file gives to something."""
  names = set()
  for node in ast.walk(tree):
    match node:
      case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
        names.add(name)
      case ast.Name(id=name, ctx=ast.Store()):
        names.add(name)
      case ast.Attribute(attr=name, ctx=ast.Store()):
        names.add(name)
  return names


def _read(tree: ast.Module) -> Iterator[str]:
  """Yields attributes, modules, and the parts of keys that a file names."""
  for node in ast.walk(tree):
    match node:
      case ast.Attribute(attr=name):
        yield name
      case ast.Import(names=names):
        yield from (each.name for each in names)
      case ast.ImportFrom(module=str(module), names=names):
        yield from (f"{module}.{each.name}" for each in names)
      case ast.Constant(value=str(text)) if "/" in text:  # a key
        yield from text.split("/")
      case ast.Constant(value=str(text)) if _MODULE.match(text):
        yield text
      case ast.Subscript(slice=ast.Constant(value=str(name))):
        yield name
      case ast.Call(
        func=ast.Attribute(attr="setattr"),
        args=[_, ast.Constant(value=str(name)), *_],
      ):
        yield name


def test_each_private_name_is_listed_with_its_reason() -> None:
  paths = [*ROOT.glob("*.py")]
  for folder in _FOLDERS:
    paths += (ROOT / folder).rglob("*.py")
  paths.remove(pathlib.Path(__file__))
  trees = {path: ast.parse(path.read_text()) for path in paths}
  ours = {path: _defined(tree) for path, tree in trees.items()}
  all_ours = set().union(*ours.values())
  settings = (ROOT / "setup.cfg").read_text()
  found = {match.group() for match in _MODULE.finditer(settings)}
  for path, tree in trees.items():
    # Tests read private names of the modules that they test.
    known = all_ours if ROOT / "tests" in path.parents else ours[path]
    for name in _read(tree):
      private = _ATTRIBUTE.fullmatch(name) and name not in known | _OF_PYTHON
      if private or _MODULE.match(name):
        found.add(name)
  assert found == PRIVATE.keys()
