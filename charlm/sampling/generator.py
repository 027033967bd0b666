"""Generates text from a model by Gumbel-max sampling.

The random numbers of text i depend only on (seed, i, position). They are drawn
outside the compiled loop over characters, for a chunk of positions at a time.

Shapes: B rows, each a text, V vocabulary size, S positions in a chunk.
"""

import concurrent.futures
import dataclasses
import functools
import warnings
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from charlm.config import Config
from charlm.data.tensors import line_to_tensor, text_from_ids
from charlm.data.vocabulary import decode, encode, unknown_characters
from charlm.errors import InputError, all_finite
from charlm.model.language_model import LanguageModel, State
from charlm.sampling.gumbel import draw, gumbel_noise, numbers_of_texts
from charlm.sampling.request import Limits, Request, fill_request
from charlm.system.devices import num_cores

SEPARATOR = "-" * 20  # between printed texts
# XLA compiles each shape anew, so S depends only on V, even if fewer characters
# are drawn. A text's random numbers depend on S.
_CHUNK = 1024  # the largest S
_MAX_NUMBERS = 2**17  # the largest S * V: 0.5 MB
_MAX_ROWS = 32  # texts in one graph call
_STREAMED = 8  # characters in a chunk of a streamed text, so that it flows
# Up to this many texts, the CPU is faster: each character takes a chain of
# small operations, and a GPU takes longer for each.
FEW_TEXTS = 8


@dataclasses.dataclass(frozen=True, eq=False)
class Sample:
  """A text after a prefix, or the next chunk of one."""

  text: str  # N characters
  # [N], in nats, straight from the model: before temperature and limits.
  log_probs: np.ndarray
  stopped: bool = False  # whether `stop` came next

  def to_dict(self) -> dict[str, object]:
    """Returns the fields that `sample.py --format=jsonl` prints."""
    log_probs = [round(x, 6) for x in self.log_probs.tolist()]
    return {"text": self.text, "log_probs": log_probs, "stopped": self.stopped}


def join_chunks(chunks: Sequence[Sample]) -> Sample:
  """Joins one or more consecutive chunks of a text."""
  text = "".join(chunk.text for chunk in chunks)
  log_probs = np.concatenate([chunk.log_probs for chunk in chunks])
  return Sample(text, log_probs, chunks[-1].stopped)


class StopBuffer:
  """Holds back the end of a text as long as it may be the start of `stop`."""

  def __init__(self, stop: str) -> None:
    self.stopped = False
    self._stop = stop
    self._text, self._log_probs = "", np.empty(0, np.float32)

  def add(self, text: str, log_probs: np.ndarray, at_end: bool) -> Sample:
    """Takes the next characters; returns those that cannot belong to `stop`."""
    # Texts are drawn in a batch: one that has stopped still gets characters
    # until the others stop.
    if self.stopped:
      return Sample("", log_probs[:0], True)
    # `stop` may straddle two chunks.
    text = self._text + text
    log_probs = np.concatenate([self._log_probs, log_probs])
    size = text.find(self._stop) if self._stop else -1
    self.stopped = size >= 0
    if not self.stopped:
      size = len(text) if at_end else len(text) - self._overlap(text)
      self._text, self._log_probs = text[size:], log_probs[size:]
    return Sample(text[:size], log_probs[:size], self.stopped)

  def _overlap(self, text: str) -> int:
    """Returns how many characters at the end may be the start of `stop`."""
    # Longest first: a shorter overlap would release the start of `stop`.
    sizes = range(min(len(text), len(self._stop) - 1), 0, -1)
    return next((n for n in sizes if self._stop.startswith(text[-n:])), 0)


class _PrefixState(NamedTuple):
  """The starting point of all texts of a request."""

  table: tf.Tensor  # the model's input table
  last: np.ndarray  # `[1]`, the id of the prefix's last character
  states: State  # one row, before that character


class GenerativeModel:
  """Generates text; never draws `[UNK]` or padding."""

  def __init__(
    self,
    model: LanguageModel,
    vocab: list[str],
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
  ) -> None:
    """Takes a trained model, and settings for the methods `generate_*`.

    `sample` and `stream` take theirs from a `Request`, which explains them.

    Raises InputError: the temperature or a limit is out of range.
    """
    self._model, self._vocab = model, vocab
    self._request = Request(
      temperature=float(temperature), top_k=int(top_k), top_p=float(top_p)
    )
    # A multiple of 4, as `numbers_of_texts` requires.
    self._chunk = max(4, min(_CHUNK, _MAX_NUMBERS // len(vocab)) // 4 * 4)
    # One character is so little work that overhead dominates without XLA.
    # AutoGraph's conversion would delay the first text.
    xla = functools.partial(tf.function, jit_compile=True, autograph=False)
    self._compiled_read, self._compiled_draw = xla(self._read), xla(self._draw)

  def generate_one_step(
    self, inputs: tf.Tensor | list[str], states: State | None = None
  ) -> tuple[tf.Tensor, State]:
    """Draws the next character of each text with TensorFlow's global generator.

    Takes strings `[B]` of equal length, and the states before them. Start with
    whole texts and no states, then pass the characters `[B]` and the states
    that the last call returned.

    Raises ValueError: the strings differ in length.
    """
    ragged = line_to_tensor(inputs, self._vocab)
    ids = ragged.to_tensor()
    if tf.size(ids) != tf.size(ragged.flat_values):
      raise ValueError("inputs differ in length: give strings of one length")
    log_probs, states = self._model(ids, states, return_state=True)
    chosen = draw(
      log_probs[:, -1], self._request.temperature, self._request.limits
    )
    return text_from_ids(chosen[:, tf.newaxis], self._vocab), states

  def generate_n_chars(self, num_chars: int, prefix: str, seed: int = 0) -> str:
    """Returns the prefix and the `num_chars` characters drawn after it.

    Warns if the prefix has characters that the model does not know.

    Raises InputError: `Request` does not allow an argument, or the model has
      diverged.
    """
    values = {"prefix": prefix, "num_chars": num_chars or 1, "seed": seed}
    request = fill_request(self._request, values, Config())  # prefix unchanged
    if unknown := unknown_characters(prefix or "\n", self._vocab):
      warnings.warn(f"not in the vocabulary: {unknown}", stacklevel=2)
    return prefix + self.sample(request)[0].text if num_chars else prefix

  def sample(self, request: Request) -> list[Sample]:
    """Draws the texts of a request, in batches of up to 32.

    A sample does not contain the prefix; without one, it starts a line. Sample
    i draws the same random numbers whatever `num_samples` is. The first call
    with new limits, or with another batch size, compiles a graph, which takes a
    while.

    Raises InputError: the model has diverged.
    """
    begin = self._begin(request)

    def draw_batch(samples: range) -> list[Sample]:
      """Draws the samples of one batch."""
      chunks = self._chunks(
        request=request, samples=samples, size=self._chunk, begin=begin
      )
      return [join_chunks(row) for row in zip(*chunks, strict=True)]

    num_batches = -(-request.num_samples // _MAX_ROWS)
    size = -(-request.num_samples // num_batches)
    everything = range(request.num_samples)
    batches = [everything[i : i + size] for i in everything[::size]]
    if len(batches) == 1:  # starting a thread costs as much as 100 characters
      return draw_batch(everything)
    # One call keeps little more than one core busy.
    with concurrent.futures.ThreadPoolExecutor(num_cores()) as pool:
      drawn = pool.map(draw_batch, batches)
      return [sample for batch in drawn for sample in batch]

  def stream(self, request: Request, sample: int = 0) -> Iterator[Sample]:
    """Yields sample number `sample` in chunks, as it is drawn.

    Raises InputError: the model has diverged.
    """
    samples, begin = range(sample, sample + 1), self._begin(request)
    for chunks in self._chunks(
      request=request, samples=samples, size=_STREAMED, begin=begin
    ):
      yield from chunks

  def _begin(self, request: Request) -> _PrefixState:
    """Reads the prefix up to its last character, in chunks of one shape."""
    # Once, here: in parallel threads it takes several times as long.
    table = self._model.input_table()
    states = self._model.initial_states(1)
    ids = encode(request.prefix or "\n", self._vocab).astype(np.int32)
    for start in range(0, len(ids) - 1, self._chunk):
      chunk = ids[start : min(start + self._chunk, len(ids) - 1)]
      padded = np.pad(chunk, (0, self._chunk - len(chunk)))
      length = tf.constant(len(chunk))
      states = self._compiled_read(
        table=table, ids=padded, length=length, states=states
      )
    return _PrefixState(table, ids[-1:], states)

  def _chunks(
    self, request: Request, samples: range, size: int, begin: _PrefixState
  ) -> Iterator[list[Sample]]:
    """Yields the next chunk of each sample, of at most `size` characters."""
    num_rows, shape = len(samples), [self._chunk, len(self._vocab)]
    last = np.repeat(begin.last, num_rows)
    states = tf.nest.map_structure(
      lambda state: tf.broadcast_to(state, [num_rows, *state.shape[1:]]),
      begin.states,
    )
    temperature = tf.constant(request.temperature)
    buffers = [StopBuffer(request.stop) for _ in samples]
    start, end = 0, request.num_chars
    while start < end and not all(buffer.stopped for buffer in buffers):
      offset = start % self._chunk
      if offset == 0:
        numbers = numbers_of_texts(
          seed=request.seed, texts=samples, position=start, shape=shape
        )
      num = min(size, self._chunk - offset, end - start)
      ids, log_probs, states = self._compiled_draw(
        table=begin.table,
        last=last,
        states=states,
        numbers=numbers,
        offset=tf.constant(offset),
        length=tf.constant(num),
        temperature=temperature,
        limits=request.limits,
      )
      ids, log_probs = ids.numpy()[:, :num], log_probs.numpy()[:, :num]
      if not all_finite(log_probs):
        raise InputError("the model has diverged: give another --checkpoint")
      last = ids[:, -1]
      start += num
      yield [
        buffer.add(decode(row, self._vocab), values, start == end)
        for buffer, row, values in zip(buffers, ids, log_probs, strict=True)
      ]

  def _read(
    self, table: tf.Tensor, ids: tf.Tensor, length: tf.Tensor, states: State
  ) -> State:
    """Returns the state of one row after the first `length` of ids `[S]`."""
    # Outside the loop, since XLA does not vectorise gates with a look-up.
    inputs = tf.gather(table, ids)[:, tf.newaxis]  # [S, 1, columns]

    def step(i: tf.Tensor, states: State) -> tuple[tf.Tensor, State]:
      """Reads the next character."""
      _, states = self._model.read(tf.gather(inputs, i), states)
      return i + 1, states

    return tf.while_loop(lambda i, _: i < length, step, (0, states))[1]

  def _draw(
    self,
    table: tf.Tensor,
    last: tf.Tensor,
    states: State,
    numbers: tf.Tensor,
    offset: tf.Tensor,
    length: tf.Tensor,
    temperature: tf.Tensor,
    limits: Limits,
  ) -> tuple[tf.Tensor, tf.Tensor, State]:
    """Draws the next ids of each row.

    Args:
      table: the model's input table.
      last: the previous ids `[B]`, which the model has not read yet.
      states: the state before those ids.
      numbers: uniform random numbers for the draws, `[B, S, V]`.
      offset: position of the first draw in `numbers`.
      length: how many ids to draw.
      temperature: a tensor, so that a new value needs no compilation.
      limits: not tensors, since the graph depends on which are set.

    Returns the ids and their log-probabilities, `[B, S]` each, of which the
    first `length` are valid, and the state before the last valid id.
    """
    # XLA does not vectorise the gates of a single row if they look up their
    # inputs. So each step looks up the next one's: `x` is the inputs. With more
    # rows that is slower, so `x` is the ids.
    alone = last.shape[0] == 1
    x = tf.gather(table, last) if alone else last

    def step(
      i: tf.Tensor,
      x: tf.Tensor,
      states: State,
      drawn: tf.TensorArray,
      values: tf.TensorArray,
    ) -> tuple[tf.Tensor | State | tf.TensorArray, ...]:
      """Draws the next id of each row, and stores its log-probability."""
      x = x if alone else tf.gather(table, x)
      log_probs, states = self._model.read(x, states)
      # A gather, since a slice would copy all numbers.
      noise = gumbel_noise(tf.gather(numbers, offset + i, axis=1))
      ids = draw(
        log_probs=log_probs,
        temperature=temperature,
        limits=limits,
        noise=noise,
      )
      ids = tf.cast(ids, tf.int32)
      drawn = drawn.write(i, ids)
      values = values.write(i, tf.gather(log_probs, ids, batch_dims=1))
      x = tf.gather(table, ids) if alone else ids
      return i + 1, x, states, drawn, values

    shape = last.shape
    drawn = tf.TensorArray(tf.int32, self._chunk, element_shape=shape)
    values = tf.TensorArray(tf.float32, self._chunk, element_shape=shape)
    _, _, states, drawn, values = tf.while_loop(
      lambda i, *_: i < length, step, (0, x, states, drawn, values)
    )
    return tf.transpose(drawn.stack()), tf.transpose(values.stack()), states
