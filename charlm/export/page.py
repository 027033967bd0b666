"""Exports a model as one HTML page that generates text in a browser."""

import base64
import datetime
import html
import json
from pathlib import Path
from typing import Any

import numpy as np

from charlm.errors import InputError
from charlm.model.language_model import LanguageModel
from charlm.runs.records import read_records
from charlm.runs.run import Run
from charlm.system.files import write_atomically
from charlm.system.pages import html_page, json_for_script

_FOLDER = Path(__file__).parent
_LAYERS = ("gru", "lstm")  # the layers in `model.js`


def save_page(model: LanguageModel, run: Run, step: int, file: Path) -> None:
  """Writes the page of a run's model, with weights rounded to float16.

  The page contains no text of the run: only the vocabulary, the corpus's name
  and size, and the losses.

  Raises:
    InputError: the layer is neither a GRU nor an LSTM.
    OSError: the file cannot be written.
  """
  weights = _weights(model, run)
  data = {
    "weights": weights,
    "vocabulary": run.vocab,
    "unit": run.config.unit,
    "lowercase": run.config.lowercase,
    "lineBreak": "\r\n" if "\r\n" in str(run.eval_text()) else "\n",
  }
  script, worker, style, body = (
    (_FOLDER / name).read_text("utf-8")
    for name in ("page.js", "model.js", "page.css", "page.html")
  )
  body = body.replace("ABOUT", _about(model, run, step))
  for name, text in (
    ("data", json.dumps(data)),
    ("worker", json.dumps(worker)),
  ):
    body += f'<script type="application/json" id="{name}">'
    body += f"{json_for_script(text)}</script>\n"
  name = html.escape(run.path.resolve().name)
  page = html_page(
    title=f"{name}, a model that writes",
    style=style,
    script=script,
    body=body,
    loads_nothing=True,
  )
  file.parent.mkdir(parents=True, exist_ok=True)
  write_atomically(file, [page.encode()])


def _weights(model: LanguageModel, run: Run) -> dict[str, Any]:
  """Packs the weights for `model.js`: matrices are `[outputs, inputs]`."""
  config = run.config
  if config.layer not in _LAYERS:
    raise InputError(
      f"a page cannot compute the layer {config.layer}: give --format=npz"
    )
  layers = []
  for layer in model.recurrent_layers:
    kernel, recurrent, bias = (weight.numpy() for weight in layer.weights)
    # The LSTM has only an input bias.
    biases = bias if config.layer == "gru" else (bias, np.zeros_like(bias))
    input_bias, recurrent_bias = biases
    layers.append(
      {
        "kernel": _packed(kernel.T),
        "recurrent": _packed(recurrent.T),
        "bias": _packed(input_bias),
        "recurrentBias": _packed(recurrent_bias),
      }
    )
  return {
    "layer": config.layer,
    "units": config.rnn_units,
    "embeddings": _packed(model.embedding.embeddings.numpy()),
    "layers": layers,
    "dense": _packed(model.dense.kernel.numpy().T),
    "bias": _packed(model.dense.bias.numpy()),
  }


def _packed(array: np.ndarray) -> str:
  """Encodes an array as little-endian float16, in base64."""
  return base64.b64encode(array.astype("<f2").tobytes()).decode()


def _about(model: LanguageModel, run: Run, step: int) -> str:
  """Returns the table rows that describe the model, as HTML."""
  config = run.config
  layers = "layer" if config.num_layers == 1 else "layers"
  losses = {
    record["split"]: record["loss"]
    for record in read_records(run.metrics_path)
    if record["step"] == step
  }
  # One file or, separated by commas, several.
  corpus = Path(config.corpus)
  size = f", {corpus.stat().st_size:,} bytes" if corpus.is_file() else ""
  names = [corpus.name]
  if not size:
    names = [Path(name).name for name in config.corpus.split(",")]
  rows = {
    "run": f"{run.path.resolve().name}, step {step:,}",
    "text": f"{', '.join(names)}{size}",
    "model": f"{config.layer.upper()}, {config.num_layers} {layers} of "
    f"{config.rnn_units} units, {model.count_params():,} weights",
    **{
      f"{part} loss": f"{losses[part]:.4f} nats per {config.unit}"
      for part in ("valid", "eval")
      if part in losses
    },
    "exported": f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}, by charlm",
  }
  return "".join(
    f"<tr><th>{name}</th><td>{html.escape(value)}</td></tr>\n"
    for name, value in rows.items()
  )
