"""The Python API: a loaded model."""

import json
import pathlib

import numpy as np
import pytest

import charlm
import eval as eval_program
import sample as sample_program
import train as train_program
from charlm.data.corpus import encode_text
from charlm.errors import InputError

pytestmark = pytest.mark.usefixtures("quick_evaluations")

TEXT = "\ufeff  my lord, the KING\r\nof night\n\n shall not come é"


@pytest.fixture(scope="module")
def model(trained_run: pathlib.Path) -> "charlm.loaded.LoadedModel":
  return charlm.load(trained_run)


@pytest.mark.parametrize("flags", [["--lowercase"], ["--unit=byte"]])
def test_scores_equal_those_of_the_program(
  flags: list[str],
  train_args: list[str],
  tmp_path: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
) -> None:
  run = f"--run_dir={tmp_path}/run"
  assert train_program.main([*train_args, *flags, run, "--epochs=0"]) == 0
  loaded = charlm.load(tmp_path / "run")
  if flags == ["--lowercase"]:
    np.testing.assert_array_equal(loaded.next("THE K"), loaded.next("the k"))
  (tmp_path / "text").write_bytes(TEXT.encode())
  capsys.readouterr()
  args = ["eval.py", run, f"--text={tmp_path}/text", "--json"]
  assert eval_program.main(args) == 0
  expected = json.loads(capsys.readouterr().out)
  del expected["step"], expected["protocol"]
  score, short = loaded.score([TEXT, "th"])
  assert json.loads(json.dumps(score.to_dict())) == expected
  start = f"Score({expected['log_perplexity']:.4f} nats per {score.unit}"
  assert repr(score).startswith(start)
  assert short.num_characters == 1


def test_samples_equal_those_of_the_program(
  model: "charlm.loaded.LoadedModel",
  trained_run: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
) -> None:
  args = ["sample.py", f"--run_dir={trained_run}", "--format=jsonl"]
  flags = ["--prefix=the ", "--num_chars=80", "--num_samples=2", "--seed=3"]
  flags += ["--temperature=2", "--top_k=4", "--stop=k"]
  assert sample_program.main([*args, *flags]) == 0
  printed = capsys.readouterr().out.splitlines()
  # NumPy's numbers are accepted, too.
  options = {
    "num_chars": np.int64(80),
    "seed": np.uint8(3),
    "temperature": np.float32(2),
    "top_k": 4,
    "stop": "k",
  }
  samples = model.generate("the ", num_samples=2, **options)
  assert [json.loads(line) for line in printed] == [
    {"sample": i, "prefix": "the ", **sample.to_dict()}
    for i, sample in enumerate(samples)
  ]
  chunks = [chunk.text for chunk in model.stream("the ", **options)]
  assert "".join(chunks) == samples[0].text


def test_next_character_probabilities_agree_with_the_score(
  model: "charlm.loaded.LoadedModel",
) -> None:
  nats = 0.0
  text = "the king"
  for i in range(1, len(text)):
    probs = model.next(text[:i])
    assert probs.sum() == pytest.approx(1, abs=1e-5)
    nats -= np.log(probs[model.vocabulary.index(text[i])])
  (score,) = model.score([text])
  assert score.log_perplexity * 7 == pytest.approx(nats, abs=1e-4)
  np.testing.assert_array_equal(model.next(), model.next("\n"))


def test_an_encoded_text_is_scored_without_cleaning(
  model: "charlm.loaded.LoadedModel",
) -> None:
  encoded = encode_text([" the king\nof"]).text
  cleaned, unchanged = model.score([str(encoded), encoded])
  assert cleaned.num_characters == 10
  assert unchanged.num_characters == 11


def test_invalid_texts_prefixes_and_devices_are_refused(
  model: "charlm.loaded.LoadedModel", tmp_path: pathlib.Path
) -> None:
  for texts in (["the", " \n "], ["the \ud800"]):
    with pytest.raises(charlm.InputError):
      model.score(texts)
  for texts in ("the", [5], ["the", None]):
    with pytest.raises(TypeError, match="string"):
      model.score(texts)
  for prefix in (None, 5, b"the", "\ud800"):
    with pytest.raises(charlm.InputError, match="prefix is"):
      model.next(prefix)
  with pytest.raises(charlm.InputError, match="num_chars is 0"):
    model.stream(num_chars=0)
  with pytest.raises(charlm.InputError, match="none"):
    charlm.load(tmp_path / "none")
  with pytest.raises(charlm.InputError, match="device is 'tpu'"):
    charlm.load(tmp_path / "none", device="tpu")


@pytest.mark.parametrize(
  ("name", "value"),
  [
    ("top_k", -1),
    *(("temperature", t) for t in (-0.1, 9e-4, 1000.1, np.nan, np.inf)),
    *(("temperature", t) for t in ("x", np.ones(2))),
    *(("top_p", p) for p in (-0.1, 0, 9e-7, 1.001, np.nan)),
    ("seed", 1.5),
    ("prefix", "\ud800"),
  ],
)
def test_an_invalid_argument_is_named(
  name: str, value: object, model: "charlm.loaded.LoadedModel"
) -> None:
  for draw in (model.generate, model.stream):
    with pytest.raises(charlm.InputError, match=f"{name} is"):
      draw(**{name: value})


def test_a_model_that_has_diverged_is_refused(
  model: "charlm.loaded.LoadedModel",
) -> None:
  kernel = model.model.dense.kernel
  before = kernel.numpy()
  # The weights are finite, but their products overflow.
  kernel.assign(np.full(kernel.shape, 3e38) * np.sign(before))
  try:
    for use in (
      lambda: model.score(["the king"]),
      lambda: model.generate("the "),
      lambda: list(model.stream("the ")),
      lambda: model.next("the "),
    ):
      with pytest.raises(InputError, match="the model has diverged"):
        use()
  finally:
    kernel.assign(before)
