import mmap
import os
import pathlib
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from helpers import ROOT, file_size_limit

from charlm.config import Config
from charlm.data import corpus
from charlm.data.corpus import load_corpus
from charlm.errors import InputError


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
  path = tmp_path / "a.txt"
  path.write_text("to be or not to be\n" * 100)
  return path


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
  return tmp_path / "new" / "cache"


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
  """A list that grows each time a corpus is read."""
  reads: list[int] = []
  real = corpus.read_sources

  def read(*args: Any) -> Any:
    reads.append(1)
    return real(*args)

  monkeypatch.setattr(corpus, "read_sources", read)
  return reads


def load(path: pathlib.Path, folder: pathlib.Path, **flags: Any) -> str:
  """Loads a corpus from its cache; compares it with the one in memory."""
  loaded = load_corpus(Config(**flags), str(path), str(folder))
  in_memory = load_corpus(Config(**flags), str(path))
  assert loaded.sha256 == in_memory.sha256
  assert loaded.text.characters == in_memory.text.characters
  assert loaded.counts.tolist() == in_memory.counts.tolist()
  assert str(loaded.text) == str(in_memory.text)
  return str(loaded.text)


def test_a_corpus_is_encoded_once(
  path: pathlib.Path, folder: pathlib.Path, reads: list[int]
) -> None:
  for _ in range(3):
    load(path, folder)
  assert len(reads) == 1 + 3  # without the cache, it is read each time
  (cached,) = folder.iterdir()
  assert cached.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(("last", "width"), [(128, 1), (9000, 2), (2**17, 4)])
def test_ids_of_any_width_are_memory_mapped(
  last: int, width: int, path: pathlib.Path, folder: pathlib.Path
) -> None:
  # The ids of the first characters were narrower.
  characters = [chr(i) for i in range(32, last) if not 0xD800 <= i < 0xE000]
  path.write_text("ab\n" * 40_000 + "".join(characters))
  assert load(path, folder, raw=True) == path.read_text()
  part = load_corpus(Config(raw=True), str(path), str(folder)).text.part(3, 999)
  assert part.ids.itemsize == width
  memory: Any = part.ids
  while isinstance(memory, np.ndarray):
    memory = memory.base
  assert isinstance(memory, mmap.mmap)
  (cached,) = folder.iterdir()  # the file with narrower ids is gone
  assert not cached.name.startswith(".")


def test_other_flags_or_files_have_their_own_cache(
  path: pathlib.Path, folder: pathlib.Path
) -> None:
  for flags in ({}, {"raw": True}, {"lowercase": True}, {"unit": "byte"}):
    load(path, folder, **flags)
  objects = path.with_name("c.jsonl")
  objects.write_text('{"a": "to be", "b": "or not"}\n')
  for flags in ({"field": "a"}, {"field": "b"}):
    load(objects, folder, **flags)
  load(objects, folder, field="b", skip_bad=True)
  other = path.with_name("b.txt")
  other.write_text("another text")
  load(other, folder)
  assert len(list(folder.iterdir())) == 8


@pytest.mark.parametrize("change", ["size", "mtime", "ctime"])
def test_a_file_that_has_changed_is_read_again(
  change: str, path: pathlib.Path, folder: pathlib.Path
) -> None:
  load(path, folder)
  status, text = path.stat(), path.read_text()
  if change == "ctime":  # another file replaces it
    path.rename(path.with_name("before.txt"))
  path.write_text(text + "more" if change == "size" else text.replace("b", "c"))
  mtime = status.st_mtime_ns + (change == "mtime")
  os.utime(path, ns=(status.st_atime_ns, mtime))
  assert load(path, folder) == path.read_text().rstrip("\n")
  assert len(list(folder.iterdir())) == 1


@pytest.mark.parametrize("name", ["ids.npy", "about.json"])
@pytest.mark.parametrize("size", [0, 200])
def test_a_truncated_cache_is_rebuilt(
  name: str,
  size: int,
  path: pathlib.Path,
  folder: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
) -> None:
  load(path, folder)
  (cached,) = folder.iterdir()
  data = (cached / name).read_bytes()
  (cached / name).write_bytes(data[:size])
  load(path, folder)
  err = capsys.readouterr().err
  assert err.count("\n") == 1
  assert "cannot be used" in err
  assert (cached / name).read_bytes() == data
  (cached / name).unlink()
  load(path, folder)
  assert (cached / name).read_bytes() == data


def test_a_failed_load_leaves_no_partial_cache(
  path: pathlib.Path, folder: pathlib.Path
) -> None:
  with file_size_limit(1000), pytest.raises(InputError, match="--corpus_cache"):
    load_corpus(Config(), str(path), str(folder))
  assert not list(folder.iterdir())
  for content, message in (
    (b"to be\n" * 9 + b"\xff", "not UTF-8"),
    (b" \n" * 9, "has no line of text"),
  ):
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
      load_corpus(Config(raw=True), str(path), str(folder))
    assert not list(folder.iterdir())


def test_concurrent_and_killed_encoders_leave_one_valid_cache(
  path: pathlib.Path, folder: pathlib.Path
) -> None:
  path.write_text("to be or not to be\n" * 50_000)
  code = f"""
import os, sys
from charlm.data import corpus
from charlm.data.corpus import Config, load_corpus

def killed(*args, read=corpus.read_sources):
  yield from read(*args)
  os.kill(os.getpid(), 9)

if sys.argv[1] == "killed":
  corpus.read_sources = killed
print(load_corpus(Config(), {str(path)!r}, {str(folder)!r}).sha256)
"""
  command = [sys.executable, "-c", code]
  assert subprocess.run([*command, "killed"], cwd=ROOT).returncode == -9
  assert list(folder.iterdir())
  processes = [
    subprocess.Popen([*command, "whole"], stdout=subprocess.PIPE, cwd=ROOT)
    for _ in range(2)
  ]
  printed = [process.communicate()[0] for process in processes]
  assert [process.returncode for process in processes] == [0, 0]
  sha256 = load_corpus(Config(), str(path)).sha256
  assert printed == [f"{sha256}\n".encode()] * 2
  # A day later, another encoder removes the killed one's file.
  (left,) = folder.glob(".*/ids.npy")
  os.utime(left, (0, 0))
  path.write_text("to be or not to be\n" * 100)
  load(path, folder)
  (cached,) = folder.iterdir()
  assert not cached.name.startswith(".")
