"""Models that `export.py` writes, used by processes without charlm."""

import json
import pathlib
import re
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf
from helpers import ROOT

import charlm
import export as export_program
from charlm.model.layers import import_layer
from charlm.runs.run import open_run
from charlm.runs.trained_model import load_model

# The call of docs/exported.md with ids in a NumPy array: a text in two chunks,
# the second one starting from the state after the first.
_USE = """
import sys
import numpy as np
import tensorflow as tf

for path in sys.argv[1:]:
  if path.endswith(".keras"):
    import keras  # not needed for a SavedModel
    step = keras.models.load_model(path)
  else:
    model = tf.saved_model.load(path)
    step = model.serve
  with np.load(path + ".inputs.npz") as file:
    ids, *states = file.values()
  outputs = []
  for chunk in (ids[:, :3], ids[:, 3:]):
    states = [tf.constant(state) for state in states]
    log_probs, *states = step([tf.constant(chunk, tf.int32), *states])
    outputs.append(log_probs)
  outputs = [tf.concat(outputs, axis=1), *states]
  np.savez(path + ".outputs.npz", *[output.numpy() for output in outputs])
assert "charlm" not in sys.modules
"""


@pytest.fixture(scope="module")
def two_layers(trained: Callable[..., pathlib.Path]) -> pathlib.Path:
  """An untrained run of two layers."""
  return trained("two_layers", "--num_layers=2", "--epochs=0")


def _export(
  run: pathlib.Path, path: pathlib.Path, kind: str, *flags: str
) -> None:
  args = ["export.py", f"--run_dir={run}", f"--output={path}", *flags]
  assert export_program.main([*args, f"--format={kind}"]) == 0


def _write_inputs(run: pathlib.Path, path: pathlib.Path) -> None:
  config = open_run(run).config
  rng = np.random.default_rng(0)
  ids = rng.integers(2, 10, [3, 8])
  states = rng.normal(size=[config.num_layers, 3, config.rnn_units])
  np.savez(f"{path}.inputs.npz", ids, *states.astype(np.float32))


def _assert_outputs(run: pathlib.Path, path: pathlib.Path) -> None:
  with np.load(f"{path}.inputs.npz") as file:
    ids, *states = file.values()
  model, _ = load_model(open_run(run), "latest")
  log_probs, states = model(ids, tuple(states), return_state=True)
  with np.load(f"{path}.outputs.npz") as file:
    for output, expected in zip(
      file.values(), [log_probs, *states], strict=True
    ):
      np.testing.assert_allclose(output, expected, atol=1e-5)


def _vocabulary(file: pathlib.Path) -> list[str]:
  return json.loads(file.read_text())


def test_exported_models_run_without_charlm(
  short_run: pathlib.Path,
  two_layers: pathlib.Path,
  two_layers_run: pathlib.Path,
  tmp_path: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
) -> None:
  exported = []
  for run in (short_run, two_layers_run):
    path = tmp_path / "new folder" / run.name
    _export(run, path, "saved_model")
    assert capsys.readouterr().out == f"{path}\n"
    exported.append((run, path, path / "vocabulary.json"))
  for run in (short_run, two_layers):
    path = tmp_path / f"{run.name}.keras"
    _export(run, path, "keras")
    vocabulary = path.with_suffix(".vocabulary.json")
    settings = path.with_suffix(".settings.json")
    assert capsys.readouterr().out == f"{path}\n{vocabulary}\n{settings}\n"
    assert json.loads(settings.read_text())["rnn_units"] == 16
    exported.append((run, path, vocabulary))
  for run, path, vocabulary in exported:
    assert _vocabulary(vocabulary) == open_run(run).vocab
    _write_inputs(run, path)
  paths = [path for _, path, _ in exported]
  subprocess.run([sys.executable, "-c", _USE, *paths], check=True, cwd=tmp_path)
  for run, path, _ in exported:
    _assert_outputs(run, path)


def _run_tflite(
  file: pathlib.Path, ids: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Reads ids `[T]`; returns log-probabilities `[T, V]` and the last state."""
  step = tf.lite.Interpreter(str(file)).get_signature_runner()
  state = np.zeros(step.get_input_details()["state"]["shape"], np.float32)
  outputs = []
  for i in ids:
    output = step(id=np.array([i], np.int32), state=state)
    outputs.append(output["log_probs"][0])
    state = output["state"]
  return np.stack(outputs), state


@pytest.mark.parametrize("layer", ["", f"{ROOT}/examples/mingru.py:MinGRU"])
def test_a_tflite_step_computes_the_model_of_any_layer(
  layer: str,
  trained: Callable[..., pathlib.Path],
  two_layers_run: pathlib.Path,
  tmp_path: pathlib.Path,
) -> None:
  flags = [f"--layer={layer}", "--num_layers=2", "--epochs=0"]
  run = trained("two_mingru", *flags) if layer else two_layers_run
  _export(run, tmp_path / "step.tflite", "tflite", f"--layer={layer}")
  assert _vocabulary(tmp_path / "step.vocabulary.json") == open_run(run).vocab
  model = charlm.load(run, layer=import_layer(layer)).model
  ids = np.random.default_rng(0).integers(2, 10, 20)
  log_probs, state = _run_tflite(tmp_path / "step.tflite", ids)
  expected, states = model(ids[np.newaxis], return_state=True)
  np.testing.assert_allclose(log_probs, expected[0], atol=1e-4)
  np.testing.assert_allclose(state, model.pack(states), atol=1e-4)


@pytest.mark.usefixtures("quick_evaluations")
def test_tflite_scores_as_charlm_and_int8_is_small_and_almost_as_good(
  tmp_path: pathlib.Path,
) -> None:
  run = ROOT / "models" / "english"
  text = (run / "eval.txt").read_text("utf-8")[:2000]
  loaded = charlm.load(run)
  (expected,) = loaded.score([text])
  ids, sizes = loaded.ids(text), []
  for kind, tolerance in (("tflite", 1e-4), ("tflite-int8", 0.01)):
    file = tmp_path / f"{kind}.tflite"
    _export(run, file, kind)
    log_probs, _ = _run_tflite(file, ids[:-1])
    loss = -log_probs[np.arange(len(ids) - 1), ids[1:]].mean()
    assert loss == pytest.approx(expected.log_perplexity, abs=tolerance)
    sizes.append(file.stat().st_size)
  assert sizes[1] < 0.3 * sizes[0]


def test_an_operation_that_tflite_lacks_is_named_and_nothing_written(
  trained: Callable[..., pathlib.Path],
  tmp_path: pathlib.Path,
  capfd: pytest.CaptureFixture[str],
) -> None:
  code = (ROOT / "examples" / "own_layer.py").read_text()
  layer = tmp_path / "layer.py"
  layer.write_text(code.replace("tf.nn.relu", "tf.math.erfinv"))
  own = f"--layer={layer}:IndRNN"
  run = trained("erfinv", own, "--epochs=0")
  capfd.readouterr()
  args = ["export.py", f"--run_dir={run}", own, "--format=tflite"]
  assert export_program.main([*args, f"--output={tmp_path}/a.tflite"]) == 2
  out, error = capfd.readouterr()
  assert not out
  assert error == (
    "export.py: TensorFlow Lite has no Erfinv, which the layer calls: give "
    "--format=saved_model or npz\n"
  )
  assert list(tmp_path.iterdir()) == [layer]


@pytest.mark.usefixtures("quick_evaluations")
@pytest.mark.parametrize("layers", [1, 2])
def test_the_documented_code_scores_with_numpy_alone(
  layers: int,
  short_run: pathlib.Path,
  two_layers_run: pathlib.Path,
  tmp_path: pathlib.Path,
) -> None:
  path = short_run if layers == 1 else two_layers_run
  _export(path, tmp_path / "model.npz", "npz")
  page = (ROOT / "docs" / "exported.md").read_text()
  (code,) = re.findall(
    r"```python\n(import json\n\nimport numpy as np\n\nwith.*?)```",
    page,
    re.DOTALL,
  )
  code += "import sys\nassert not {'tensorflow', 'charlm'} & set(sys.modules)\n"
  texts = ["the king", "of night shall not coméé my lord,\nI"]
  code += f"print(json.dumps([score(text) for text in {texts}]))"
  command = [sys.executable, "-c", code]
  out = subprocess.check_output(command, cwd=tmp_path, text=True)
  losses = json.loads(out.splitlines()[-1])
  expected = [s.log_perplexity for s in charlm.load(path).score(texts)]
  assert losses == pytest.approx(expected, abs=1e-5)
