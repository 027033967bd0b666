"""What `export.py` writes, read by processes that know no charlm."""

import json
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import SHAKESPEARE_VOCAB

import export as export_binary
import train as train_binary
from charlm.data.vocabulary import encode
from charlm.export.saved_model import TextModel
from charlm.model.language_model import build_model
from charlm.runs.loading import load_model
from charlm.runs.run_dir import RunDir
from charlm.sampling.generator import GenerativeModel

TEXTS = ["the king of night", "my lord,\n", "ü", "x", "", "I shall not come my"]
TEXTS += [f"not come {'I' * i}" for i in range(10)]
assert len(TEXTS) == 16

_USE_SAVED_MODEL = """
import json, sys
import numpy as np
import tensorflow as tf

model = tf.saved_model.load(sys.argv[1])
functions, results = model.signatures, []
for texts in json.load(sys.stdin):
  scores = functions["score"](texts=tf.constant(texts, tf.string))
  scores = {name: value.numpy().tolist() for name, value in scores.items()}
  spec = functions["step"].structured_input_signature[1]["states"]
  states = tf.zeros([len(texts), *spec.shape[1:]])
  for chars in (["t"] * len(texts), ["h"] * len(texts)):
    chars = tf.constant(chars, tf.string)
    out = functions["step"](characters=chars, states=states)
    states = out["states"]
  drawn = functions["generate"](
    prefixes=tf.constant(texts, tf.string),
    length=tf.constant(40),
    temperature=tf.constant(0.7),
    seed=tf.constant(5 + 2**33, tf.int64),
  )
  results.append([
    scores, out["log_probs"].numpy().tolist(),
    [text.decode() for text in drawn["texts"].numpy()],
  ])
characters = functions["vocabulary"]()["characters"].numpy()
assert "charlm" not in sys.modules
json.dump([[c.decode() for c in characters], results], sys.stdout)
"""
_USE_KERAS = """
import json, sys
import keras
import numpy as np

model = keras.models.load_model(sys.argv[1])
vocab = json.load(open(sys.argv[2]))
results = []
for texts in json.load(sys.stdin):
  ids = np.array([[vocab.index(c) for c in text] for text in texts])
  results.append(np.asarray(model(ids)).tolist())
assert "charlm" not in sys.modules
json.dump(results, sys.stdout)
"""


@pytest.fixture(
  scope="module",
  params=[["--num_layers=1"], ["--num_layers=2"]],
  ids=" ".join,
)
def run(
  request: pytest.FixtureRequest,
  train_args: list[str],
  tmp_path_factory: pytest.TempPathFactory,
) -> RunDir:
  """A run whose model has the layers that a test asks for, or one, or two."""
  path = tmp_path_factory.mktemp("runs") / "run"
  args = [f"--run_dir={path}", *request.param]
  assert train_binary.main([*train_args, *args, "--epochs=0"]) == 0
  return RunDir(path)


def _use(code: str, data: list, *args: str | pathlib.Path) -> list:
  result = subprocess.run(
    [sys.executable, "-c", code, *args],
    input=json.dumps(data),
    capture_output=True,
    text=True,
    check=True,
    cwd=args[0].parent,
  )
  return json.loads(result.stdout)


@pytest.mark.parametrize(
  "run",
  [["--num_layers=1"], ["--num_layers=2", "--layer_norm"]],
  indirect=True,
  ids=" ".join,
)
def test_a_saved_model_scores_steps_and_generates_as_the_run_does(
  run: RunDir, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
  folder = tmp_path / "new" / "exported"
  args = ["export.py", f"--run_dir={run.path}", f"--output={folder}"]
  assert export_binary.main(args) == 0
  assert capsys.readouterr().out == f"{folder}\n"
  assert list(folder.parent.iterdir()) == [folder]
  batches = [TEXTS[:1], TEXTS[3:4], TEXTS, []]
  characters, results = _use(_USE_SAVED_MODEL, batches, folder)
  vocab, (model, _) = run.vocabulary(), load_model(run, "latest")
  assert characters == vocab
  generator = GenerativeModel(model, vocab, 0.7)
  for texts, (scores, log_probs, drawn) in zip(batches, results, strict=True):
    for i, text in enumerate(texts):
      ids = encode(text, vocab).astype(int)[np.newaxis]
      number = max(0, len(text) - 1)
      assert scores["num_characters"][i] == number
      costs = np.zeros(len(scores["nats"][i]))
      if number:
        predicted = model(ids[:, :-1]).numpy()[0]
        costs[:number] = -predicted[np.arange(number), ids[0, 1:]]
      np.testing.assert_allclose(scores["nats"][i], costs, atol=1e-5)
      mean = costs.sum() / max(1, number)
      assert scores["log_perplexity"][i] == pytest.approx(mean, abs=1e-5)
      samples = generator.sample(40, text or "\n", 16, seed=5 + 2**33)
      assert drawn[i] == samples[i].text
    expected = model(encode("th", vocab)[np.newaxis].astype(int))[0, -1]
    if texts:
      np.testing.assert_allclose(log_probs, [expected] * len(texts), atol=1e-5)


def test_a_bound_on_the_random_numbers_changes_no_exported_text(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  vocab = ["[UNK]", "", *"\nabcdefgh"]
  model = build_model(len(vocab), 4, 6)
  model.set_weights([9 * weight for weight in model.get_weights()])
  texts = []
  for most in (2**20, 400, 1):
    monkeypatch.setattr("charlm.export.saved_model._MAX_NUMBERS", most)
    generate = TextModel(model, vocab).functions()["generate"]
    drawn = generate(
      tf.constant(["abcdefgh" * 6, "", "b"]),
      tf.constant(50),
      tf.constant(1.0),
      tf.constant(3, tf.int64),
    )
    texts.append(drawn["texts"].numpy().tolist())
  assert texts[0] == texts[1] == texts[2]
  assert len(set(texts[0])) == 3


def test_a_text_alone_is_generated_as_beside_others() -> None:
  # A product of one row rounds differently at this size, and such weights make
  # another text of it within 30 characters.
  keras.utils.set_random_seed(6)
  model = build_model(len(SHAKESPEARE_VOCAB), 16, 512)
  recurrent = model.gru.cell.recurrent_kernel
  recurrent.assign(16 * recurrent)
  model.dense.kernel.assign(8 * model.dense.kernel)
  generate = TextModel(model, SHAKESPEARE_VOCAB).functions()["generate"]
  numbers = [tf.constant(100), tf.constant(1.0), tf.constant(3, tf.int64)]
  alone, beside = (
    generate(tf.constant(["\n"] * n), *numbers)["texts"][0] for n in (1, 5)
  )
  assert alone == beside


def test_plain_keras_opens_the_keras_file(
  run: RunDir, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
  file = tmp_path / "model.keras"
  args = ["export.py", f"--run_dir={run.path}", f"--output={file}"]
  assert export_binary.main([*args, "--format=keras"]) == 0
  vocabulary = tmp_path / "model.vocabulary.json"
  assert capsys.readouterr().out == f"{file}\n{vocabulary}\n"
  batches = [["the king of"], ["the king of", "my lord, no"] * 8]
  results = _use(_USE_KERAS, batches, file, vocabulary)
  model, vocab = load_model(run, "latest")[0], run.vocabulary()
  for texts, log_probs in zip(batches, results, strict=True):
    ids = np.stack([encode(text, vocab).astype(int) for text in texts])
    np.testing.assert_allclose(log_probs, model(ids), atol=1e-5)
