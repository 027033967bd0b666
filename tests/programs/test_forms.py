"""Unusual corpora and split files, through all programs."""

import io
import json
import math
import pathlib
import random
import sys

import pytest
from helpers import evaluating_quickly, metrics
from soak import assert_equal_runs

import eval as eval_program
import sample as sample_program
import train as train_program

_RNG = random.Random(0)
# Chinese, right-to-left Arabic with vowel marks, and joined emoji.
TEXT = "".join(
  "".join(_RNG.choices([chr(0x4E00 + i) for i in range(600)], k=20))
  + "".join(_RNG.choices("ابتثجحخ", k=4))
  + "\u064e\u0651 \U0001f469\u200d\U0001f680 e\u0301 \u00e9\n"
  for _ in range(300)
)


def _json(args: list[str], capsys: pytest.CaptureFixture) -> dict:
  capsys.readouterr()
  with evaluating_quickly():
    assert eval_program.main(["eval.py", *args, "--json"]) == 0
  return json.loads(capsys.readouterr().out)


@pytest.mark.usefixtures("quick_evaluations")
def test_any_script_trains_scores_and_samples(
  train_args: list[str],
  tmp_path: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
) -> None:
  text = TEXT
  (tmp_path / "text").write_text(text, encoding="utf-8")
  run = f"--run_dir={tmp_path}/run"
  args = [*train_args, f"--corpus={tmp_path}/text", "--eval_chars=900", run]
  assert train_program.main([*args, "--raw", "--seq_length=9"]) == 0
  assert (tmp_path / "run" / "eval.txt").read_text("utf-8") == text[-900:]
  score = _json([run], capsys)
  nats = score["log_perplexity"] * 899
  num_bytes = len(text[-899:].encode())
  bits = nats / math.log(2) / num_bytes
  assert score["bits_per_byte"] == pytest.approx(bits, rel=1e-12)
  assert (score["unit"], score["num_characters"]) == ("character", 899)
  (tmp_path / "end.txt").write_text(text[-900:], encoding="utf-8")
  assert _json([run, f"--text={tmp_path}/end.txt"], capsys) == score
  (last,) = metrics(tmp_path / "run", "eval")
  assert last["bits_per_byte"] == score["bits_per_byte"]
  sample_args = ["sample.py", run, "--num_chars=40", f"--prefix={text[0]}"]
  assert sample_program.main(sample_args) == 0
  sample = capsys.readouterr().out
  assert len(sample) == 42
  assert set(sample[:-1]) <= set(text)


def test_a_byte_model_handles_any_file(
  train_args: list[str],
  tmp_path: pathlib.Path,
  capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
  rng = random.Random(0)
  words = [rng.randbytes(3) for _ in range(90)] + [b"\n", bytes(range(256))]
  data = b"\xef\xbb\xbf" + b"".join(rng.choices(words, k=4000))
  (tmp_path / "data.bin").write_bytes(data)
  folder = tmp_path / "run"
  run = f"--run_dir={folder}"
  args = [*train_args, f"--corpus={tmp_path}/data.bin", "--unit=byte", run]
  args += ["--eval_chars=800", "--valid_chars=700"]
  assert train_program.main(args) == 0
  assert (folder / "eval.txt").read_bytes() == data[-800:]
  assert (folder / "valid.txt").read_bytes() == data[-1500:-800]
  vocab = json.loads((folder / "vocabulary.json").read_text())
  assert vocab == ["[UNK]", "", *map(chr, range(256))]
  # The same bytes in a file get the same score.
  (tmp_path / "other").write_bytes(data[-800:])
  own, other = (
    _json([run, *text], capfdbinary)
    for text in ([], [f"--text={tmp_path}/other"])
  )
  assert other == own
  assert (own["unit"], own["num_unknown"]) == ("byte", 0)
  assert own["bits_per_byte"] == pytest.approx(own["bits_per_character"])
  # A sample is written as bytes, like its prefix.
  (tmp_path / "prefixes").write_bytes(b"\xc3\xa9\n\xff")
  args = ["sample.py", run, "--num_chars=600"]
  assert sample_program.main([*args, "--prefix=é"]) == 0
  sampled = capfdbinary.readouterr().out
  assert len(sampled) == 2 + 600 + 1
  assert sampled.startswith("é".encode())
  assert max(sampled) > 127
  lines = [f"--prefix_file={tmp_path}/prefixes", "--per_line"]
  assert sample_program.main([*args, *lines]) == 0
  assert capfdbinary.readouterr().out.startswith(
    sampled + b"-" * 20 + b"\n\xff"
  )


@pytest.mark.usefixtures("quick_evaluations")
def test_a_corpus_from_stdin_trains_the_same_run(
  train_args: list[str],
  short_run: pathlib.Path,
  corpus_path: pathlib.Path,
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  text = corpus_path.read_bytes()
  args = [*train_args, "--corpus=-", f"--run_dir={tmp_path}/run"]
  # The run goes on with the same text, and refuses another.
  for piped, exit_code in ((text, 0), (text, 0), (text + b"more", 2)):
    data = io.TextIOWrapper(io.BytesIO(piped))
    monkeypatch.setattr(sys, "stdin", data)
    assert train_program.main(args) == exit_code
    assert_equal_runs(tmp_path / "run", short_run)


@pytest.mark.usefixtures("quick_evaluations")
def test_max_steps_can_be_raised_but_not_under_a_schedule(
  train_args: list[str], tmp_path: pathlib.Path
) -> None:
  args = [*train_args, f"--run_dir={tmp_path}/a"]
  for max_steps in (3, 0):
    assert train_program.main([*args, f"--max_steps={max_steps}"]) == 0
  steps = [record["step"] for record in metrics(tmp_path / "a", "eval")]
  assert steps == [3, 12]
  args = [*train_args, f"--run_dir={tmp_path}/b", "--schedule=cosine"]
  assert train_program.main([*args, "--max_steps=3"]) == 0
  rates = [r["learning_rate"] for r in metrics(tmp_path / "b", "train")]
  assert rates[-1] == 0  # the schedule ends with the training
  assert train_program.main([*args, "--max_steps=5"]) == 2


def test_eval_and_valid_texts_may_be_files(
  train_args: list[str],
  lines: list[str],
  tmp_path: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
) -> None:
  (tmp_path / "eval").write_text("the king\nzzz yyy\n" + lines[0] + "\n")
  (tmp_path / "valid").write_text("of night\n")
  args = [*train_args, f"--eval_corpus={tmp_path}/eval", "--min_count=2"]
  args += [f"--valid_corpus={tmp_path}/valid", f"--run_dir={tmp_path}/run"]
  args.append("--max_steps=1")
  assert train_program.main(args) == 0
  warned = capsys.readouterr().err.splitlines()
  assert len(warned) == 2  # a shared line, and unknown characters
  eval_text = (tmp_path / "run" / "eval.txt").read_text()
  assert eval_text == "the king\nzzz yyy\n" + lines[0]
  assert _json([f"--run_dir={tmp_path}/run"], capsys)["num_unknown"] == 3
