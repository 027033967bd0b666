import os
import pathlib
import subprocess
import sys
from typing import Any

import pytest
from helpers import ROOT, file_size_limit

from charlm.config import Config
from charlm.data import cache, corpus
from charlm.data.cache import Cache
from charlm.data.corpus import load_corpus
from charlm.data.sources import find_sources
from charlm.data.text import Ids, StoredIds
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
  """Grows with each time that a corpus is read."""
  reads: list[int] = []
  real = corpus.read_sources

  def read(*args: Any) -> Any:
    reads.append(1)
    return real(*args)

  monkeypatch.setattr(corpus, "read_sources", read)
  return reads


def load(path: pathlib.Path, folder: pathlib.Path, **flags: Any) -> str:
  verify = flags.pop("verify", False)
  loaded = load_corpus(Config(**flags), str(path), str(folder), verify)
  assert isinstance(loaded.text.ids, StoredIds)
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
  assert len(reads) == 1 + 3  # those in memory are read each time
  (kept,) = folder.iterdir()
  assert kept.stat().st_mode & 0o777 == 0o600


def test_other_flags_or_files_have_caches_of_their_own(
  path: pathlib.Path, folder: pathlib.Path
) -> None:
  for flags in ({}, {"raw": True}, {"lowercase": True}, {"unit": "byte"}):
    load(path, folder, **flags)
  other = path.with_name("b.txt")
  other.write_text("another text")
  load(other, folder)
  assert len(list(folder.iterdir())) == 5


@pytest.mark.parametrize("change", ["size", "time"])
def test_a_file_that_has_changed_is_read_again(
  change: str, path: pathlib.Path, folder: pathlib.Path
) -> None:
  load(path, folder)
  text = path.read_text()
  status = path.stat()
  path.write_text(text + "more" if change == "size" else text.replace("b", "c"))
  if change == "size":
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
  else:
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
  assert load(path, folder) == path.read_text().rstrip("\n")
  assert len(list(folder.iterdir())) == 1


@pytest.mark.parametrize("size", [0, 5, 16, 500, -1])
def test_a_cache_that_is_cut_off_is_made_anew(
  size: int,
  path: pathlib.Path,
  folder: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
) -> None:
  load(path, folder)
  (kept,) = folder.iterdir()
  data = kept.read_bytes()
  kept.write_bytes(data[:size])
  load(path, folder)
  err = capsys.readouterr().err
  assert err.count("\n") == 1
  assert "cannot be used" in err
  assert kept.read_bytes() == data


def test_another_versions_cache_is_made_anew(
  path: pathlib.Path,
  folder: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture[str],
) -> None:
  monkeypatch.setattr(cache, "_ABOUT", "charlm 0.json")
  load(path, folder)
  monkeypatch.undo()
  load(path, folder)
  assert "cannot be used" in capsys.readouterr().err
  load(path, folder)
  assert not capsys.readouterr().err


def test_ids_are_compared_when_asked_for(
  path: pathlib.Path,
  folder: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
) -> None:
  load(path, folder)
  (kept,) = folder.iterdir()
  data = bytearray(kept.read_bytes())
  data[7] ^= 1
  kept.write_bytes(data)
  damaged = load_corpus(Config(), str(path), str(folder))
  assert str(damaged.text) != path.read_text().rstrip("\n")
  load(path, folder, verify=True)
  assert "SHA-256 differs" in capsys.readouterr().err
  load(path, folder)


def test_a_description_that_has_changed_is_found(
  path: pathlib.Path,
  folder: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
) -> None:
  load(path, folder)
  (kept,) = folder.iterdir()
  kept.write_bytes(
    kept.read_bytes().replace(b'"characters": [1', b'"characters": [2')
  )
  load(path, folder)
  assert "Bad CRC-32" in capsys.readouterr().err


def test_ids_of_no_character_name_the_remedy(
  path: pathlib.Path,
  folder: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
) -> None:
  load(path, folder)
  (kept,) = folder.iterdir()
  kept.write_bytes(b"\xff" + kept.read_bytes()[1:])
  text = load_corpus(Config(), str(path), str(folder)).text
  with pytest.raises(InputError, match="with --verify_corpus"):
    Ids(text, ["[UNK]", "", "t"])[:9]
  with pytest.raises(InputError, match="with --verify_corpus"):
    str(text)
  load(path, folder, verify=True)
  words = "(the encoded corpus has changed): the corpus is encoded anew\n"
  assert capsys.readouterr().err.endswith(words)
  load(path, folder)


def test_a_file_in_the_place_of_another_is_read(
  path: pathlib.Path, folder: pathlib.Path
) -> None:
  load(path, folder)
  other, status = path.with_name("b.txt"), path.stat()
  other.write_text(path.read_text().replace("b", "c"))
  os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
  other.replace(path)
  assert "c" in load(path, folder)


def test_a_small_corpus_needs_no_cache(
  path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.setenv("XDG_CACHE_HOME", os.devnull)
  assert len(load_corpus(Config(), str(path)).text) == 1899


def test_no_half_of_a_cache_is_left(
  path: pathlib.Path, folder: pathlib.Path
) -> None:
  for limit in (1000, 1950):  # the ids do not fit; their description
    with file_size_limit(limit), pytest.raises(OSError, match="too large"):
      load_corpus(Config(), str(path), str(folder))
    assert not list(folder.iterdir())
  path.write_bytes(path.read_bytes() + b"\xff")
  with pytest.raises(ValueError, match="not UTF-8"):
    load_corpus(Config(), str(path), str(folder))
  assert not list(folder.iterdir())


def test_what_is_no_file_is_no_cache(
  path: pathlib.Path, folder: pathlib.Path
) -> None:
  load(path, folder)
  (kept,) = folder.iterdir()
  kept.unlink()
  kept.mkdir()
  with pytest.raises(IsADirectoryError):
    load_corpus(Config(), str(path), str(folder))
  assert [*folder.iterdir()] == [kept]
  kept.rmdir()
  os.mkfifo(kept)  # to open it would wait for a writer
  load(path, folder)
  assert kept.is_file()


def test_a_folder_that_cannot_be_searched_is_left_alone(
  path: pathlib.Path, folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  real = os.stat

  def stat(name: Any, *args: Any, **kwargs: Any) -> os.stat_result:
    if str(name).startswith(str(folder)):
      raise PermissionError(13, "Permission denied")
    return real(name, *args, **kwargs)

  monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
  monkeypatch.setattr(os, "stat", stat)
  assert len(load_corpus(Config(), str(path)).text) == 1899


def test_a_part_ends_where_its_text_ends(
  path: pathlib.Path, folder: pathlib.Path
) -> None:
  # In a file, other bytes follow.
  in_memory = load_corpus(Config(), str(path)).text
  in_a_file = load_corpus(Config(), str(path), str(folder)).text
  for text in (in_memory, in_a_file):
    end = text.part(1890, 1899)
    assert str(end.part(0, 100)) == str(text.part(1890, 5000)) == str(end)
    assert not len(text.part(2000, 3000))


def test_what_another_start_has_removed_is_not_missed(
  path: pathlib.Path, folder: pathlib.Path
) -> None:
  cache = Cache(folder, Config(), find_sources(str(path)))
  with cache.open_file():
    for left in folder.iterdir():
      left.unlink()
  cache.discard()
  assert not list(folder.iterdir())


def test_a_blank_corpus_is_refused_each_time(
  path: pathlib.Path, folder: pathlib.Path
) -> None:
  path.write_text(" \n" * 9)
  for _ in range(2):
    with pytest.raises(ValueError, match="has no line of text"):
      load_corpus(Config(raw=True), str(path), str(folder))
    assert not list(folder.iterdir())


def test_left_overs_of_a_kill_are_removed(
  path: pathlib.Path, folder: pathlib.Path
) -> None:
  load(path, folder)
  (kept,) = folder.iterdir()
  old, fresh = (folder / f".{kept.name}.{name}" for name in ("old", "fresh"))
  for left in (old, fresh):
    left.touch()
  os.utime(old, (0, 0))
  kept.unlink()
  load(path, folder)
  assert set(folder.iterdir()) == {kept, fresh}


def test_two_programs_may_make_one_cache_at_once(
  path: pathlib.Path, folder: pathlib.Path
) -> None:
  path.write_text("to be or not to be\n" * 500_000)
  code = "from charlm.data.corpus import Config, load_corpus\n"
  code += f"print(load_corpus(Config(), {str(path)!r}, {str(folder)!r}).sha256)"
  processes = [
    subprocess.Popen(
      [sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=ROOT
    )
    for _ in range(2)
  ]
  printed = {process.communicate()[0] for process in processes}
  assert not any(process.returncode for process in processes)
  assert printed == {f"{load_corpus(Config(), str(path)).sha256}\n".encode()}
  (kept,) = folder.iterdir()
  assert not kept.name.startswith(".")
