"""Passages that `sample.py` finds copied from the train text."""

import json
import pathlib
import re

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
  # With this seed, both samples have a long line.
  return [*args, "--prefix=the ", "--num_samples=2", "--seed=4"]


def test_only_passages_of_the_train_text_count_as_copied(
  args: list[str],
  lines: list[str],
  tmp_path: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
) -> None:
  out, _ = _ran([*args, "--format=jsonl"], capsys)
  second = json.loads(out.splitlines()[1])["text"]
  match = re.search(r"\S.{38}\S", second)  # within one line
  copied, start = match[0], match.start()
  corpus = tmp_path / "corpus.txt"
  # The last 50 lines are held out and do not count.
  corpus.write_text("\n".join([*lines[:100], copied, *lines[:49], second]))
  out, err = _ran([*args, "--format=jsonl", f"--memorised={corpus}"], capsys)
  assert len(err) == 1  # this is not the run's corpus
  first, second = (json.loads(line) for line in out.splitlines())
  assert first["memorised"] == {"share": 0, "passages": []}
  place = corpus.read_text().index(copied)
  passage = {"start": start, "length": 40, "place": place}
  assert second["memorised"] == {"share": 0.4, "passages": [passage]}
  _, err = _ran([*args, f"--memorised={corpus}"], capsys)
  assert err[-2:] == [
    "sample 1: 40.0% is copied from the train text, in passages of 30 "
    "characters or more",
    f"sample 1: 40 characters at {place:,} of the train text: {copied!r}",
  ]


@pytest.mark.parametrize("flags", [["--stream"], ["--per_line"]])
def test_copied_passages_are_reported_on_stderr(
  flags: list[str],
  args: list[str],
  corpus_path: pathlib.Path,
  tmp_path: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
) -> None:
  if flags == ["--per_line"]:
    args.remove("--prefix=the ")
    (tmp_path / "lines").write_text("the \n")
    flags = [*flags, f"--prefix_file={tmp_path}/lines"]
  plain, _ = _ran([*args, *flags], capsys)
  out, err = _ran([*args, *flags, f"--memorised={corpus_path}"], capsys)
  assert out == plain
  line = "line 1: " if "--per_line" in flags else ""
  starts = [f"{line}sample {i}: 0.0% is copied from " for i in range(2)]
  assert [each[: len(starts[0])] for each in err] == starts
