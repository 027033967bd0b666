"""The reference: the model as a teaching notebook writes it with Keras."""

import os
import sys
import threading
import time
import traceback
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from benchmarks.task import (
  CHUNK_CHARS,
  LEARNING_RATE,
  SAMPLE_CHARS,
  Run,
  Sizes,
  Text,
  timed,
)

_SHUFFLE_BUFFER = 10_000  # windows


class CharacterModel(keras.Model):
  """Embedding, recurrent layers, and a dense layer with log-softmax."""

  def __init__(self, sizes: Sizes, vocab_size: int) -> None:
    super().__init__()
    self.embedding = keras.layers.Embedding(vocab_size, sizes.embedding_dim)
    lstm = sizes.layer == "lstm"
    kind = keras.layers.LSTM if lstm else keras.layers.GRU
    self.layers_over_time = [
      kind(sizes.rnn_units, return_sequences=True, return_state=True)
      for _ in range(sizes.num_layers)
    ]
    self.dense = keras.layers.Dense(vocab_size, activation=tf.nn.log_softmax)

  def call(
    self,
    inputs: tf.Tensor,
    states: list[tf.Tensor] | None = None,
    return_state: bool = False,
    training: bool = False,
  ) -> Any:
    """Returns log-probabilities `[B, T, V]`, and the states if asked for."""
    x = self.embedding(inputs, training=training)
    if states is None:
      rows = tf.shape(x)[0]
      layers = self.layers_over_time
      states = [layer.get_initial_state(rows) for layer in layers]
    last = []
    for layer, state in zip(self.layers_over_time, states, strict=True):
      x, *state = layer(x, initial_state=state, training=training)
      last.append(state)
    x = self.dense(x, training=training)
    return (x, last) if return_state else x


class CharacterGenerator:
  """Draws a character in each call of a graph function."""

  def __init__(self, model: CharacterModel, vocab: list[str]) -> None:
    self._model = model
    self._ids = _lookup(vocab)
    self._chars = keras.layers.StringLookup(
      vocabulary=vocab[2:], mask_token="", invert=True
    )
    # Never draws padding, an empty next input, or the unknown character.
    self._mask = np.where(np.arange(len(vocab)) < 2, -np.inf, 0)
    self._mask = self._mask.astype(np.float32)

  @tf.function
  def step(self, inputs: tf.Tensor, states: list[tf.Tensor] | None) -> Any:
    """Returns the next character of each text `[B]`, and the states."""
    ids = self._ids(tf.strings.unicode_split(inputs, "UTF-8")).to_tensor()
    log_probs, states = self._model(ids, states, return_state=True)
    log_probs = log_probs[:, -1] + self._mask
    uniform = tf.random.uniform(tf.shape(log_probs), 1e-6, 1 - 1e-6)
    gumbel = -tf.math.log(-tf.math.log(uniform))
    return self._chars(tf.argmax(log_probs + gumbel, axis=-1)), states

  def generate(self, num_chars: int, prefixes: list[str]) -> list[str]:
    """Returns each prefix and `num_chars` characters after it."""
    texts, states = [tf.constant(prefixes)], None
    for _ in range(num_chars):
      chars, states = self.step(texts[-1], states)
      texts.append(chars)
    return [text.decode() for text in tf.strings.join(texts).numpy()]


class _Gate(keras.callbacks.Callback):
  """Lets `fit` take the requested steps, then makes it wait.

  A new call of `fit` for each turn would refill the shuffle buffer.
  """

  def __init__(self) -> None:
    super().__init__()
    self._allowed = threading.Semaphore(0)
    self._done = threading.Semaphore(0)

  def take_steps(self, num_steps: int) -> None:
    """Returns when `fit` has taken the steps."""
    self._allowed.release(num_steps)
    for _ in range(num_steps):
      self._done.acquire()

  def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
    self._allowed.acquire()

  def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
    self._done.release()


def train(text: Text, num_epochs: int) -> tuple[float, float]:
  """Trains the reference; returns the seconds of `fit`, and its lowest loss.

  The loss is of the eval text, after each epoch; the time includes no scoring.
  """
  sizes, scorer = Sizes(), _Scorer(text.eval_ids)
  num_windows = len(text.train_ids) // (sizes.seq_length + 1)
  keras.utils.set_random_seed(0)
  model = _compiled_model(sizes, text)
  start = time.perf_counter()
  model.fit(
    _dataset(sizes, text),
    epochs=num_epochs,
    steps_per_epoch=num_windows // sizes.batch_size,
    callbacks=[scorer],
    verbose=0,
  )
  seconds = time.perf_counter() - start - scorer.seconds
  return seconds, min(scorer.losses)


class _Scorer(keras.callbacks.Callback):
  """Keeps the eval loss after each epoch, and the seconds that this took."""

  def __init__(self, ids: np.ndarray) -> None:
    super().__init__()
    self.losses: list[float] = []
    self.seconds = 0.0
    self._ids = ids

  def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
    start = time.perf_counter()
    self.losses.append(_score(self.model, self._ids))
    self.seconds += time.perf_counter() - start
    print(f"epoch {epoch + 1}: {self.losses[-1]:.4f}", file=sys.stderr)


def _score(model: CharacterModel, ids: np.ndarray) -> float:
  """Returns the loss, with the state carried from chunk to chunk."""
  nats, states = 0.0, None
  for start in range(0, len(ids) - 1, CHUNK_CHARS):
    chunk = ids[start : start + CHUNK_CHARS + 1].astype(np.int64)
    log_probs, states = model(chunk[np.newaxis, :-1], states, return_state=True)
    nats -= tf.reduce_sum(tf.gather(log_probs[0], chunk[1:], batch_dims=1))
  return float(nats) / (len(ids) - 1)


def _compiled_model(sizes: Sizes, text: Text) -> CharacterModel:
  model = CharacterModel(sizes, len(text.vocab))
  model.compile(
    optimizer=keras.optimizers.Adam(LEARNING_RATE),
    loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
  )
  return model


def build_step(sizes: Sizes, text: Text) -> Run:
  """Training steps of `fit`."""
  model = _compiled_model(sizes, text)
  dataset, gate = _dataset(sizes, text), _Gate()

  def fit() -> None:
    """Trains, then exits: the main thread would wait for more steps."""
    try:
      model.fit(dataset, callbacks=[gate], verbose=0)
      print("fit ended: give a longer --corpus", file=sys.stderr)
    except Exception:
      traceback.print_exc()
    os._exit(1)

  threading.Thread(target=fit, daemon=True).start()
  return timed(gate.take_steps)


def build_sampling(sizes: Sizes, text: Text) -> Run:
  """Samples of `SAMPLE_CHARS` characters in each of `batch_size` texts."""
  model = CharacterModel(sizes, len(text.vocab))
  generator = CharacterGenerator(model, text.vocab)

  def sample(num_samples: int) -> None:
    for _ in range(num_samples):
      generator.generate(SAMPLE_CHARS, ["\n"] * sizes.batch_size)

  return timed(sample)


def build_evaluation(sizes: Sizes, text: Text) -> Run:
  """Chunks of `CHUNK_CHARS` of the eval text, scored in one pass."""
  model = CharacterModel(sizes, len(text.vocab))
  ids = text.eval_ids

  def evaluate(num_chunks: int) -> None:
    scored = np.resize(ids, num_chunks * CHUNK_CHARS + 1).astype(np.int64)
    log_probs = model.predict(scored[np.newaxis, :-1], verbose=0)
    nats = -tf.gather(log_probs[0], scored[1:], batch_dims=1)
    tf.reduce_mean(nats).numpy()  # waits for the result

  return timed(evaluate)


def _dataset(sizes: Sizes, text: Text) -> tf.data.Dataset:
  """Returns endless batches of shuffled windows."""
  ids = _lookup(text.vocab)(tf.strings.unicode_split(text.train, "UTF-8"))
  return (
    tf.data.Dataset.from_tensor_slices(ids)
    .batch(sizes.seq_length + 1, drop_remainder=True)
    .map(lambda window: (window[:-1], window[1:]))
    .shuffle(_SHUFFLE_BUFFER)
    .batch(sizes.batch_size, drop_remainder=True)
    .repeat()
    .prefetch(tf.data.AUTOTUNE)
  )


def _lookup(vocab: list[str]) -> keras.layers.StringLookup:
  return keras.layers.StringLookup(vocabulary=vocab[2:], mask_token="")
