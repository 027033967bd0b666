"""What `export.py` writes, read by processes that know no charlm."""

import itertools
import json
import pathlib
import re
import subprocess
import sys
from collections.abc import Callable

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import ROOT, SHAKESPEARE_VOCAB, build_model, in_a_graph

import charlm
import export as export_program
from charlm.data.vocabulary import encode
from charlm.export.saved_model import TextModel
from charlm.runs.loading import load_model
from charlm.runs.run_dir import RunDir
from charlm.sampling.generator import GenerativeModel
from charlm.sampling.options import Request

TEXTS = ["the king of night", "my lord,\n", "ü", "x", "", "I shall not come my"]
TEXTS += [f"not come {'I' * i}" for i in range(10)]
assert len(TEXTS) == 16

_USE_SAVED_MODEL = """
import json, sys
import numpy as np
import tensorflow as tf

def use(functions, texts):
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
  texts = [text.decode() for text in drawn["texts"].numpy()]
  return [scores, out["log_probs"].numpy().tolist(), texts]

batches, results = json.load(sys.stdin), []
for folder in sys.argv[1:]:
  functions = tf.saved_model.load(folder).signatures
  characters = functions["vocabulary"]()["characters"].numpy()
  used = [use(functions, texts) for texts in batches]
  results.append([[c.decode() for c in characters], used])
assert "charlm" not in sys.modules
json.dump(results, sys.stdout)
"""
_USE_KERAS = """
import json, sys
import keras
import numpy as np

batches, results = json.load(sys.stdin), []
for file in sys.argv[1:]:
  model = keras.models.load_model(file)
  vocab = json.load(open(file.replace(".keras", ".vocabulary.json")))
  for texts in batches:
    ids = np.array([[vocab.index(c) for c in text] for text in texts])
    results.append(np.asarray(model(ids)).tolist())
assert "charlm" not in sys.modules
json.dump(results, sys.stdout)
"""


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


def test_a_saved_model_scores_steps_and_generates_as_the_run_does(
  short_run: pathlib.Path,
  layer_norm_run: pathlib.Path,
  tmp_path: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
) -> None:
  folders, batches = [], [TEXTS[:1], TEXTS[3:4], TEXTS, []]
  for run in (short_run, layer_norm_run):
    folder = tmp_path / f"new {run.name}" / "exported"
    args = ["export.py", f"--run_dir={run}", f"--output={folder}"]
    assert export_program.main(args) == 0
    assert capsys.readouterr().out == f"{folder}\n"
    assert list(folder.parent.iterdir()) == [folder]
    folders.append(folder)
  short, layer_norm = _use(_USE_SAVED_MODEL, batches, *folders)
  _assert_as_the_run_does(RunDir(short_run), batches, *short)
  _assert_as_the_run_does(RunDir(layer_norm_run), batches, *layer_norm)


def _assert_as_the_run_does(
  run: RunDir, batches: list[list[str]], characters: list[str], results: list
) -> None:
  vocab, (model, _) = run.vocabulary(), load_model(run, "latest")
  assert characters == vocab
  predict, generator = in_a_graph(model), GenerativeModel(model, vocab)
  for texts, (scores, log_probs, drawn) in zip(batches, results, strict=True):
    for i, text in enumerate(texts):
      ids = encode(text, vocab).astype(int)[np.newaxis]
      number = max(0, len(text) - 1)
      assert scores["num_characters"][i] == number
      expected = np.zeros(len(scores["nats"][i]))
      if number:
        predicted = predict(ids[:, :-1]).numpy()[0]
        expected[:number] = -predicted[np.arange(number), ids[0, 1:]]
      np.testing.assert_allclose(scores["nats"][i], expected, atol=1e-5)
      mean = expected.sum() / max(1, number)
      assert scores["log_perplexity"][i] == pytest.approx(mean, abs=1e-5)
      samples = generator.sample(Request(text, "", 40, 16, 5 + 2**33, 0.7))
      assert drawn[i] == samples[i].text
    expected = predict(encode("th", vocab)[np.newaxis])[0, -1]
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
  short_run: pathlib.Path,
  trained: Callable[..., pathlib.Path],
  tmp_path: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
) -> None:
  two_layers = trained("two_layers", "--num_layers=2", "--epochs=0")
  runs, files = [RunDir(short_run), RunDir(two_layers)], []
  for run in runs:
    file = tmp_path / f"{run.path.name}.keras"
    args = ["export.py", f"--run_dir={run.path}", f"--output={file}"]
    assert export_program.main([*args, "--format=keras"]) == 0
    vocabulary = file.with_suffix(".vocabulary.json")
    assert capsys.readouterr().out == f"{file}\n{vocabulary}\n"
    files.append(file)
  batches = [["the king of"], ["the king of", "my lord, no"] * 8]
  results = _use(_USE_KERAS, batches, *files)
  pairs = itertools.product(runs, batches)
  for (run, texts), log_probs in zip(pairs, results, strict=True):
    model, vocab = load_model(run, "latest")[0], run.vocabulary()
    ids = np.stack([encode(text, vocab).astype(int) for text in texts])
    np.testing.assert_allclose(log_probs, model(ids), atol=1e-5)


def test_a_keras_file_with_states_is_stepped_by_plain_keras(
  trained: Callable[..., pathlib.Path], tmp_path: pathlib.Path
) -> None:
  run = RunDir(trained("two_layers", "--num_layers=2", "--epochs=0"))
  file = tmp_path / "stepped.keras"
  args = ["export.py", f"--run_dir={run.path}", f"--output={file}"]
  assert export_program.main([*args, "--format=keras", "--with_state"]) == 0
  code = (
    "import json, sys; import keras, numpy as np\n"
    "model = keras.models.load_model(sys.argv[1])\n"
    "tensor = keras.ops.convert_to_tensor\n"
    "ids, units = np.array(json.load(sys.stdin)), model.inputs[1].shape[1]\n"
    "states = [np.zeros([len(ids), units], 'float32')] * 2\n"
    "parts = []\n"
    "for part in (ids[:, :3], ids[:, 3:4], ids[:, 4:]):\n"
    "  log_probs, *states = model([tensor(part), *map(tensor, states)])\n"
    "  parts.append(np.asarray(log_probs))\n"
    "assert 'charlm' not in sys.modules\n"
    "json.dump(np.concatenate(parts, axis=1).tolist(), sys.stdout)"
  )
  model, vocab = load_model(run, "latest")[0], run.vocabulary()
  ids = [encode(text, vocab).tolist() for text in ("the king", "my lord,")]
  found = _use(code, ids, file)
  np.testing.assert_allclose(found, model(np.array(ids)), atol=1e-5)


@pytest.mark.parametrize("layers", [1, 2])
def test_the_code_in_the_guide_scores_with_numpy_alone(
  layers: int,
  short_run: pathlib.Path,
  layer_norm_run: pathlib.Path,
  tmp_path: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
) -> None:
  path = short_run if layers == 1 else layer_norm_run
  args = ["export.py", f"--run_dir={path}", f"--output={tmp_path}/model.npz"]
  assert export_program.main([*args, "--format=npz"]) == 0
  assert capsys.readouterr().out == f"{tmp_path}/model.npz\n"
  guide = (ROOT / "docs" / "guide.md").read_text()
  (code,) = re.findall(r"```python\n(import json\n.*?)```", guide, re.DOTALL)
  code += "import sys\nassert not {'tensorflow', 'charlm'} & set(sys.modules)\n"
  texts = ["the king", "of night shall not coméé my lord,\nI"]
  code += f"print(json.dumps([score(text) for text in {texts}]))"
  command = [sys.executable, "-c", code]
  out = subprocess.check_output(command, cwd=tmp_path, text=True)
  found = json.loads(out.splitlines()[-1])
  expected = [s.log_perplexity for s in charlm.load(path).score(texts)]
  assert found == pytest.approx(expected, abs=1e-5)
