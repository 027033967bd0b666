"""Texts of any form, through all programs."""

import io
import json
import math
import pathlib
import random
import sys

import pytest
from helpers import metrics
from soak import assert_equal_runs

import eval as eval_program
import report as report_program
import sample as sample_program
import train as train_program

TEXTS = {
  "chinese": "".join(
    random.Random(0).choices([chr(0x4E00 + i) for i in range(600)], k=9000)
  ),
  # With vowel marks, from right to left.
  "arabic": " ".join(
    "".join(random.Random(i).choices("ابتثجحخ", k=4)) + "\u064e\u0651"
    for i in range(900)
  ),
  "emoji": "\U0001f469\u200d\U0001f680 e\u0301 \u00e9\n" * 500,
}


def _json(args: list[str], capsys: pytest.CaptureFixture) -> dict:
  capsys.readouterr()
  assert eval_program.main(["eval.py", *args, "--json"]) == 0
  return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_any_script_trains_scores_and_samples(
  text: str,
  train_args: list[str],
  tmp_path: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
) -> None:
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


@pytest.fixture(scope="module")
def bytes_run(
  train_args: list[str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[pathlib.Path, bytes]:
  """A finished run of a file of any bytes, only to be read; and its content."""
  folder, rng = tmp_path_factory.mktemp("bytes"), random.Random(0)
  words = [rng.randbytes(3) for _ in range(90)] + [b"\n", bytes(range(256))]
  data = b"\xef\xbb\xbf" + b"".join(rng.choices(words, k=4000))
  (folder / "data.bin").write_bytes(data)
  args = [*train_args, f"--corpus={folder}/data.bin", "--unit=byte"]
  args += ["--eval_chars=800", "--valid_chars=700", f"--run_dir={folder}/run"]
  assert train_program.main(args) == 0
  return folder / "run", data


def test_bytes_of_any_file(
  bytes_run: tuple[pathlib.Path, bytes],
  tmp_path: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
) -> None:
  folder, data = bytes_run
  run = f"--run_dir={folder}"
  assert (folder / "eval.txt").read_bytes() == data[-800:]
  assert (folder / "valid.txt").read_bytes() == data[-1500:-800]
  vocab = json.loads((folder / "vocabulary.json").read_text())
  assert vocab == ["[UNK]", "", *map(chr, range(256))]
  own = _json([run], capsys)
  assert (own["unit"], own["num_unknown"]) == ("byte", 0)
  assert own["bits_per_byte"] == own["bits_per_character"]
  # Those of another program are scored as they are, too.
  (tmp_path / "other").write_bytes(data[-800:])
  other = _json([run, f"--text={tmp_path}/other"], capsys)
  assert other == own
  assert eval_program.main(["eval.py", run]) == 0
  assert "nats per byte" in capsys.readouterr().out


def test_samples_of_bytes_are_shown_as_text(
  train_args: list[str],
  tmp_path: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
) -> None:
  (tmp_path / "text").write_text("ä\n" * 2000, encoding="utf-8")
  args = [*train_args, f"--corpus={tmp_path}/text", "--unit=byte"]
  args += [f"--run_dir={tmp_path}/run", "--max_steps=40", "--learning_rate=0.1"]
  assert train_program.main(args) == 0
  drawn = metrics(tmp_path / "run", "eval")[-1]
  printed = capsys.readouterr().out.partition(f"{'-' * 20}\n")[2]
  assert printed == drawn["sample"] + "\n"
  assert "ä\nä\n" in printed
  assert drawn["continuation"].startswith("ä\nä\n")
  args = ["report.py", f"--run_dir={tmp_path}/run", "--format=json"]
  assert report_program.main(args) == 0
  numbers = json.loads(capsys.readouterr().out)
  (run,) = numbers["groups"][0]["runs"]
  assert "ä\nä\n" in run["samples"][0]
  assert "ä" in numbers["passages_with_the_highest_loss"][0]["text"]


def test_what_is_written_of_bytes_is_bytes(
  bytes_run: tuple[pathlib.Path, bytes],
  capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
  folder, data = bytes_run
  run = f"--run_dir={folder}"
  capfdbinary.readouterr()
  args = ["sample.py", run, "--num_chars=600", "--prefix=é"]
  assert sample_program.main(args) == 0
  sampled = capfdbinary.readouterr().out
  assert len(sampled) == 2 + 600 + 1
  assert sampled.startswith("é".encode())
  assert max(sampled) > 127
  assert sample_program.main([*args, "--stream"]) == 0
  assert capfdbinary.readouterr().out == sampled
  assert eval_program.main(["eval.py", run, "--per_line"]) == 0
  lines = capfdbinary.readouterr().out.removesuffix(b"\n").split(b"\n")
  expected = data[-800:].removesuffix(b"\n").split(b"\n")
  assert [line.split(b"\t", 4)[-1] for line in lines] == expected
  counts = [int(line.split(b"\t")[1]) for line in lines]
  assert counts == [len(line) + 1 for line in expected]


def test_a_run_is_the_same_in_any_form(
  train_args: list[str],
  trained_run: pathlib.Path,
  corpus_path: pathlib.Path,
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  # By standard input, with the ids in a file.
  data = io.BytesIO(corpus_path.read_bytes())
  monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(data))
  args = [*train_args, "--corpus=-", f"--corpus_cache={tmp_path}/cache"]
  args += ["--epochs=3", f"--run_dir={tmp_path}/run"]
  assert train_program.main(args) == 0
  assert_equal_runs(tmp_path / "run", trained_run)
  assert not list((tmp_path / "cache").iterdir())


def test_max_steps_can_be_raised_but_not_under_a_schedule(
  train_args: list[str],
  tmp_path: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
) -> None:
  args = [*train_args, f"--run_dir={tmp_path}/a"]
  for max_steps in (3, 0):
    assert train_program.main([*args, f"--max_steps={max_steps}"]) == 0
  steps = [record["step"] for record in metrics(tmp_path / "a", "eval")]
  assert steps == [3, 12]
  # A shorter one changes nothing.
  before = (tmp_path / "a" / "config.json").read_text()
  assert train_program.main([*args, "--max_steps=3"]) == 0
  assert (tmp_path / "a" / "config.json").read_text() == before
  args = [*train_args, f"--run_dir={tmp_path}/b", "--schedule=cosine"]
  assert train_program.main([*args, "--max_steps=3"]) == 0
  rates = [r["learning_rate"] for r in metrics(tmp_path / "b", "train")]
  assert rates[-1] == 0  # the schedule ends where training does
  capsys.readouterr()
  assert train_program.main([*args, "--max_steps=5"]) == 2
  assert "max_steps (3 before, 5 now" in capsys.readouterr().err


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
  args.append("--epochs=0")
  assert train_program.main(args) == 0
  captured = capsys.readouterr()
  assert (
    f"1 distinct lines of {tmp_path}/eval are in the train text" in captured.err
  )
  assert f"of {tmp_path}/eval that are read as [UNK]: 'z'\n" in captured.err
  size = len("\n".join(lines))
  assert (
    f"train    {size:,} characters, {size:,} bytes, SHA-256" in captured.out
  )
  eval_text = (tmp_path / "run" / "eval.txt").read_text()
  assert eval_text == "the king\nzzz yyy\n" + lines[0]
  assert _json([f"--run_dir={tmp_path}/run"], capsys)["num_unknown"] == 3
  # The continuation begins with the text itself, not with "[UNK]".
  args[args.index("--epochs=0")] = "--max_steps=1"
  assert train_program.main([*args, f"--run_dir={tmp_path}/trained"]) == 0
  record = metrics(tmp_path / "trained", "eval")[-1]
  assert record["continuation"].startswith(eval_text[:100])


def test_rare_characters_are_read_as_unknown(
  train_args: list[str],
  lines: list[str],
  tmp_path: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
) -> None:
  text = "\n".join([*lines[:200], "qqzzz", *lines[200:], "q"])
  (tmp_path / "text").write_text(text)
  args = [*train_args, f"--corpus={tmp_path}/text", "--min_count=4"]
  args.append("--epochs=0")
  assert train_program.main([*args, f"--run_dir={tmp_path}/run"]) == 0
  printed = capsys.readouterr().out
  assert "; rare, read as [UNK]: 2 (occur 6 times)" in printed
  assert (tmp_path / "run" / "eval.txt").read_text().endswith("q")
  assert _json([f"--run_dir={tmp_path}/run"], capsys)["num_unknown"] == 1
