"""How much of a text `sample.py` says is copied."""

import io
import json
import pathlib
import re
import sys

import pytest

import sample as sample_program


def _ran(
  args: list[str], capsys: pytest.CaptureFixture[str]
) -> tuple[str, list[str]]:
  assert sample_program.main(args) == 0
  captured = capsys.readouterr()
  return captured.out, captured.err.splitlines()


@pytest.fixture
def args(trained_run: pathlib.Path) -> list[str]:
  args = ["sample.py", f"--run_dir={trained_run}", "--num_chars=100"]
  # Both texts have a long line with this seed.
  return [*args, "--prefix=the ", "--num_samples=2", "--seed=4"]


def test_only_passages_of_the_train_text_count_as_copied(
  args: list[str],
  lines: list[str],
  tmp_path: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
) -> None:
  out, _ = _ran([*args, "--format=jsonl"], capsys)
  second = json.loads(out.splitlines()[1])["text"]
  match = re.search(r"\S.{38}\S", second)  # in one line
  part, start = match[0], match.start()
  corpus = tmp_path / "corpus.txt"
  # Of the last 50 lines, which are held out, none counts.
  corpus.write_text("\n".join([*lines[:100], part, *lines[:49], second]))
  out, err = _ran([*args, "--format=jsonl", f"--memorised={corpus}"], capsys)
  assert len(err) == 1  # another corpus than the run's
  first, second = (json.loads(line) for line in out.splitlines())
  assert first["memorised"] == {"share": 0, "passages": []}
  place = corpus.read_text().index(part)
  passage = {"start": start, "length": 40, "place": place}
  assert second["memorised"] == {"share": 0.4, "passages": [passage]}
  _, err = _ran([*args, f"--memorised={corpus}"], capsys)
  assert err[-2:] == [
    "sample 1: 40.0% is in passages of 30 characters or more of the train text",
    f"sample 1: 40 characters at {place:,} of the train text: {part!r}",
  ]


@pytest.mark.parametrize("how", [["--stream"], ["--per_line"]])
def test_copied_passages_are_reported_on_stderr(
  how: list[str],
  args: list[str],
  corpus_path: pathlib.Path,
  tmp_path: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
) -> None:
  if how == ["--per_line"]:
    args.remove("--prefix=the ")
    (tmp_path / "lines").write_text("the \n")
    how = [*how, f"--prefix_file={tmp_path}/lines"]
  plain, _ = _ran([*args, *how], capsys)
  out, err = _ran([*args, *how, f"--memorised={corpus_path}"], capsys)
  assert out == plain
  where = "line 1: " if "--per_line" in how else ""
  starts = [f"{where}sample {i}: 0.0% is in passages of " for i in range(2)]
  assert [line[: len(starts[0])] for line in err] == starts


def test_the_corpus_may_come_from_stdin_if_the_prefixes_do_not(
  args: list[str],
  tmp_path: pathlib.Path,
  corpus_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture[str],
) -> None:
  (tmp_path / "prefixes.txt").write_text("the \n")
  stdin = io.TextIOWrapper(io.BytesIO(corpus_path.read_bytes()))
  monkeypatch.setattr(sys, "stdin", stdin)
  flags = ["--per_line", f"--prefix_file={tmp_path}/prefixes.txt"]
  _, err = _ran([*args[:3], *flags, "--memorised=-"], capsys)
  assert err[0].startswith("line 1: sample 0: ")
