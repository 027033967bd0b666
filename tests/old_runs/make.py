"""Makes the files of this folder: python make.py CHECKOUT."""

import contextlib
import importlib
import io
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time

import numpy as np
import tensorflow as tf

_FOLDER = pathlib.Path(__file__).resolve().parent
_WORDS = ["the", "king", "of", "night", "shall", "not", "come", "my", "lord,"]
_WORDS += ["I", "où", "été", "Größe"]
_FLAGS = (
  "--corpus=corpus.txt --eval_lines=30 --seq_length=20 --batch_size=24 "
  "--embedding_dim=4 --rnn_units=8 --num_replicas=1 --learning_rate=0.01 "
  "--eval_every_steps=15 --checkpoint_every_steps=20 --summary_every_steps=10 "
  "--max_to_keep=1 --device=cpu --epochs=100"
)
_RUNS = {
  "adam": "--valid_lines=20",
  "muon": (
    "--optimizer=muon --weight_decay=0.1 --carry_state --reset_rate=0.05 "
    "--num_layers=2 --valid_lines=20"
  ),
  "layer_norm": (
    "--layer_norm --dropout_rate=0.2 --schedule=cosine --max_steps=200"
  ),
  "byte": "--unit=byte --clip_norm=1",
}


def _make(name: str, more: str) -> dict[str, object]:
  """Trains and scores a run; returns what is expected of it."""
  unfinished = "max_steps" in more
  args = f"{_FLAGS} {more}".split()
  run = pathlib.Path(name)  # relative, as in starts.jsonl
  if unfinished:
    threading.Thread(target=_stop, args=[run]).start()
    _call("train.py", run, args, exit_code=128 + signal.SIGTERM)
  else:
    _call("train.py", run, [*args, "--max_steps=50"])
    args.append("--max_steps=90")
  asked = [
    "--checkpoint=best --protocol=stream",
    "--checkpoint=latest --protocol=stream",
    "--checkpoint=latest --protocol=windows --window=8 --stride=4",
    "--checkpoint=latest --protocol=lines",
  ]
  if name == "adam":
    asked.append("--checkpoint=latest --protocol=stream --dynamic")
  scores = []
  for flags in asked:
    score = json.loads(_call("eval.py", run, ["--json", *flags.split()]))
    del score["protocol"], score["unit"]  # words
    scores.append({"flags": flags.split(), "score": score})
  if name == "adam":
    for path in (run / "summaries").glob("*/*"):
      host = socket.gethostname()
      path.rename(path.with_name(path.name.replace(host, "host")))
  else:
    shutil.rmtree(run / "summaries")
  return {"resume": args, "scores": scores}


def _call(
  script: str, run: pathlib.Path, flags: list[str], exit_code: int = 0
) -> str:
  sys.argv = [script, f"--run_dir={run}", *flags]
  out = io.TextIOWrapper(io.BytesIO(), "utf-8")
  with contextlib.redirect_stdout(out):
    found = importlib.import_module(script[:-3]).main(sys.argv)
  assert found == exit_code
  out.flush()
  return out.buffer.getvalue().decode("utf-8")


def _stop(run: pathlib.Path) -> None:
  """Stops the training once there is a checkpoint."""
  while not (run / "checkpoints" / "ckpt-20.index").exists():
    time.sleep(0.001)
  os.kill(os.getpid(), signal.SIGTERM)


def _weights(run: pathlib.Path) -> dict[str, np.ndarray]:
  """Reads the newest checkpoint's weights by their names there."""
  (path,) = (run / "checkpoints").glob("*.index")
  reader = tf.train.load_checkpoint(str(path.with_suffix("")))
  # TensorFlow names those of the GRU by the optimizer.
  roots = ("model/", "optimizer/_trainable_variables/")
  names = reader.get_variable_to_shape_map()
  return {x: reader.get_tensor(x) for x in names if x.startswith(roots)}


def main() -> None:
  """Makes the corpus, the runs, and what is expected of them."""
  sys.path.insert(0, str(pathlib.Path(sys.argv[1]).resolve()))
  os.chdir(_FOLDER)
  rng = random.Random(0)
  lines = [" ".join(rng.choices(_WORDS, k=6)) + "\n" for _ in range(200)]
  pathlib.Path("corpus.txt").write_text("".join(lines), "utf-8")
  expected, resumed = {}, {}
  for name, flags in _RUNS.items():
    expected[name] = _make(name, flags)
    with tempfile.TemporaryDirectory() as temporary:
      copy = pathlib.Path(temporary, name)
      shutil.copytree(name, copy)
      _call("train.py", copy, expected[name]["resume"])
      resumed |= {f"{name}/{x}": w for x, w in _weights(copy).items()}
  text = json.dumps(expected, indent=1) + "\n"
  pathlib.Path("expected.json").write_text(text, "utf-8")
  np.savez_compressed("resumed.npz", **resumed)


if __name__ == "__main__":
  main()
