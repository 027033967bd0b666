import bz2
import gzip
import io
import lzma
import os
import pathlib
import sys
from collections.abc import Callable

import pytest

from charlm.data.sources import Source, find_sources
from charlm.errors import InputError

COMPRESS = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}
compressions = pytest.mark.parametrize(
  ("suffix", "compress"), COMPRESS.items(), ids=COMPRESS
)


def names(spec: str, folder: pathlib.Path) -> list[str]:
  found = (source.name for source in find_sources(spec))
  return [os.path.relpath(name, folder) for name in found]


def test_files_are_found_for_each_kind_of_spec(tmp_path: pathlib.Path) -> None:
  (tmp_path / "sub" / "sub").mkdir(parents=True)
  for name in ("b.txt", "a.txt", "c.md", "sub/d.md", "sub/sub/e.md"):
    (tmp_path / name).write_text(f"{name}\n")
  for spec, expected in (
    ("{}/c.md", ["c.md"]),
    ("{}", ["a.txt", "b.txt"]),
    ("{}/*.[tm]*", ["a.txt", "b.txt", "c.md"]),
    ("{0}/c.md,{0}", ["c.md", "a.txt", "b.txt"]),
    ("{}/**/*.md", ["c.md", "sub/d.md", "sub/sub/e.md"]),
    ("{}/sub/**", ["sub/d.md", "sub/sub/e.md"]),
    ("{}/**/sub/*", ["sub/d.md", "sub/sub/e.md"]),
    ("{}/**/**/e*", ["sub/sub/e.md"]),
  ):
    assert names(spec.format(tmp_path), tmp_path) == expected, spec


def test_missing_and_special_files_are_refused(tmp_path: pathlib.Path) -> None:
  os.mkfifo(tmp_path / "fifo")
  for spec, message in (
    (f"{tmp_path}/fifo", "not a regular file"),
    (str(tmp_path), r"no file at .*\*\.txt"),
    (f"{tmp_path}/none.txt", "no file at"),
    ("", "empty path"),
  ):
    with pytest.raises(InputError, match=message):
      find_sources(spec)


def read(path: pathlib.Path) -> bytes:
  return b"".join(Source(str(path)).read())


@compressions
def test_a_file_is_decompressed_by_its_suffix(
  suffix: str, compress: Callable[[bytes], bytes], tmp_path: pathlib.Path
) -> None:
  path, data = tmp_path / f"a.{suffix}", os.urandom(300_000) * 2
  # Several streams, as parallel compressors write them.
  whole = compress(data[:9]) + compress(data[9:])
  path.write_bytes(whole)
  assert read(path) == data
  whole = compress(os.urandom(300_000))
  damaged = bytearray(whole)
  damaged[len(whole) // 2] ^= 255
  cut_off = [whole[:size] for size in (1, 20, 1000, len(whole) - 1)]
  for content in (*cut_off, damaged, b"plain text"):
    path.write_bytes(content)
    message = rf"a\.{suffix} cannot be decompressed \(.*\): give a complete"
    with pytest.raises(InputError, match=message):
      read(path)


def test_globs_and_folders_skip_the_files_of_a_run(
  tmp_path: pathlib.Path,
) -> None:
  run = tmp_path / "texts" / "run"
  (run / "checkpoints").mkdir(parents=True)
  (run / "texts").mkdir()
  for name in ("config.json", "vocabulary.json", "eval.txt", "checkpoints/a"):
    (run / name).touch()
  for name in ("note.txt", "texts/b.txt"):  # a user's files
    (run / name).touch()
  folder = tmp_path / "texts"
  (folder / "eval.txt").touch()
  mine = ["eval.txt", "run/note.txt", "run/texts/b.txt"]
  assert names(f"{folder}/**/*", folder) == mine
  assert names(f"{folder}/*/*.txt", folder) == ["run/note.txt"]
  assert names(f"{run}", run) == ["note.txt"]
  with pytest.raises(InputError, match="belong to runs: name"):
    names(f"{folder}/run/eval*", folder)
  # A file that is named explicitly is read.
  assert names(f"{run}/eval.txt", run) == ["eval.txt"]
  # So is a run that was killed before it wrote its config.
  (run / "config.json").rename(run / "lock")
  assert names(f"{folder}/**/*", folder) == mine


def test_standard_input_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
  monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"text")))
  assert b"".join(Source("-", is_file=False).read()) == b"text"
