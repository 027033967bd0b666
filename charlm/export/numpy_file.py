"""A file of NumPy, which outlives TensorFlow."""

import io
import pathlib

import numpy as np

from charlm.data.vocabulary import vocabulary_to_json
from charlm.model.language_model import GRULM
from charlm.system.files import write_atomically


def save_numpy(model: GRULM, vocab: list[str], file: pathlib.Path) -> None:
  """Writes the weights and the vocabulary; docs/guide.md shows their use.

  Arrays: `vocabulary` (JSON), `embeddings` `[V, D]`, `dense_kernel` `[H, V]`,
  `dense_bias` `[V]`; for each layer i, from 0 on, `kernel_i` `[D, 3H]` (above
  the first layer, D is H), `recurrent_kernel_i` `[H, 3H]`, `bias_i` `[2, 3H]`
  (of inputs, of states) and, with layer normalisation, `gain_i` `[3H]`. The 3H
  columns are those of the update gate, the reset gate, and the candidate.

  Raises OSError: the file cannot be written.
  """
  arrays = {"embeddings": model.embedding.embeddings}
  for i, gru in enumerate(model.grus):
    for name in ("kernel", "recurrent_kernel", "bias"):
      arrays[f"{name}_{i}"] = getattr(gru.cell, name)
    if getattr(gru, "gain", None) is not None:
      arrays[f"gain_{i}"] = gru.gain
  arrays |= {"dense_kernel": model.dense.kernel, "dense_bias": model.dense.bias}
  data, vocabulary = io.BytesIO(), np.array(vocabulary_to_json(vocab))
  weights = {name: np.asarray(array) for name, array in arrays.items()}
  # NumPy's stub takes any array for the flag `allow_pickle`.
  np.savez(data, vocabulary=vocabulary, **weights)  # type: ignore[arg-type]
  file.parent.mkdir(parents=True, exist_ok=True)
  write_atomically(file, [data.getvalue()])
