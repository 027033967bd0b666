"""Text from a model: Gumbel-max sampling.

Every sample has its own stream of random numbers. They depend on (seed, sample,
position) only, and are the same on any device, so a text does not depend on how
many are drawn beside it.

Shapes: B rows, V vocabulary size, S positions (`_buffer`) whose random numbers
are drawn together. A text is drawn in spans of at most S.
"""

import concurrent.futures
import threading
import warnings
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from charlm.config import Config
from charlm.data.tensors import line_to_tensor, text_from_ids
from charlm.data.vocabulary import decode, encode, unknown_characters
from charlm.errors import InputError
from charlm.model.language_model import GRULM, State
from charlm.sampling.gumbel import draw, gumbel_noise
from charlm.sampling.options import Limits, Request, fill_request
from charlm.sampling.rows import Rows
from charlm.sampling.sample import Sample, StopBuffer, join_pieces
from charlm.sampling.threefry import Pair, sample_keys, uniform_numbers
from charlm.system.machine import num_cores

_BUFFER = 1024  # the largest S; XLA compiles for each shape
_MAX_NUMBERS = 2**24  # random numbers held at a time: 64 MB
_STREAMED = 64  # characters in a piece of a streamed text


class GenerativeModel:
  """Generates text; `[UNK]` and padding are never drawn."""

  def __init__(
    self,
    model: GRULM,
    vocab: list[str],
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
  ) -> None:
    """Takes a trained model, and how the methods `generate_*` draw.

    `sample` and `stream` draw as their own request says. See `Request`.

    Raises InputError: a temperature or a limit that is out of range.
    """
    self._model, self._vocab = model, vocab
    limits = Limits(int(top_k), float(top_p), float(min_p))
    self._request = Request(temperature=float(temperature), **limits._asdict())
    # Each core holds the random numbers of one graph call.
    most = _MAX_NUMBERS // num_cores() // len(vocab)
    self._rows = Rows(model, most)
    self._buffer = min(_BUFFER, max(1, most // self._rows.at_most))
    # What is compiled: numbers of rows, and limits.
    self._compiled: set[tuple[int, Limits]] = set()
    # A step for one character is too small to run without XLA. AutoGraph's
    # conversion would delay the first text.
    compiled = {"jit_compile": True, "autograph": False}
    self._compiled_advance = tf.function(self._advance, **compiled)
    self._compiled_noise = tf.function(self._noise, **compiled)

  def generate_one_step(
    self, inputs: tf.Tensor | list[str], states: State | None = None
  ) -> tuple[tf.Tensor, State]:
    """Draws the next character of each text, by TensorFlow's random numbers.

    Takes strings `[B]` of one length, and the states before them. Begin with
    whole texts, without states; then pass the characters `[B]` and the states
    that the last call returned.

    Raises ValueError: the strings differ in length.
    """
    ragged = line_to_tensor(inputs, self._vocab)
    ids = ragged.to_tensor()
    if tf.size(ids) != tf.size(ragged.flat_values):
      raise ValueError("inputs differ in length: give strings of one length")
    log_probs, states = self._model(ids, states, return_state=True)
    how = self._request.temperature, self._request.limits
    chosen = draw(log_probs[:, -1], *how)
    return text_from_ids(chosen[:, tf.newaxis], self._vocab), states

  def generate_n_chars(self, num_chars: int, prefix: str, seed: int = 0) -> str:
    """Returns the prefix and `num_chars` characters after it.

    Warns of characters of the prefix that the model does not know.

    Raises InputError: an argument that `Request` does not allow, or a model
      that has diverged.
    """
    given = {"prefix": prefix, "num_chars": num_chars or 1, "seed": seed}
    request = fill_request(self._request, given, Config())  # prefix as it is
    if unknown := unknown_characters(prefix or "\n", self._vocab):
      warnings.warn(f"not in the vocabulary: {unknown}", stacklevel=2)
    return prefix + self.sample(request)[0].text if num_chars else prefix

  def sample(self, request: Request) -> list[Sample]:
    """Draws the texts of a request, in blocks of up to 32 side by side.

    The prefix is not part of a sample; without one a sample starts a line.
    Sample i depends neither on `num_samples` nor on earlier calls. The first
    call with new limits, or another number of rows side by side, compiles the
    graph for them, which takes a while.

    Raises InputError: a model that has diverged.
    """
    stopped = threading.Event()
    size = self._rows.side_by_side(request.num_samples)
    table = self._input_table()

    def block(first: int) -> list[Sample]:
      """Draws the samples of one block, from `first` on."""
      end = min(request.num_samples, first + size)
      pieces = []
      for new in self._pieces(request, range(first, end), self._buffer, table):
        if stopped.is_set():
          raise concurrent.futures.CancelledError
        pieces.append(new)
      return [join_pieces(row) for row in zip(*pieces, strict=True)]

    firsts = range(0, request.num_samples, size)
    if len(firsts) == 1:  # a thread's start takes as long as 100 characters
      return block(0)
    # One call keeps little more than one core busy.
    with concurrent.futures.ThreadPoolExecutor(num_cores()) as pool:
      try:
        return [sample for row in pool.map(block, firsts) for sample in row]
      except BaseException:  # Ctrl-C reaches this thread alone
        stopped.set()
        pool.shutdown(wait=False, cancel_futures=True)
        raise

  def stream(self, request: Request, sample: int = 0) -> Iterator[Sample]:
    """Yields the text number `sample` in pieces, as it is drawn.

    Raises InputError: a model that has diverged.
    """
    samples, table = range(sample, sample + 1), self._input_table()
    for pieces in self._pieces(request, samples, _STREAMED, table):
      yield from pieces

  def _input_table(self) -> tf.Tensor:
    # Computed once: in threads side by side it takes several times as long.
    return self._model.input_table()

  def _pieces(
    self, request: Request, samples: range, size: int, table: tf.Tensor
  ) -> Iterator[list[Sample]]:
    """Yields the next pieces of some samples, of about `size` characters.

    `table` is the model's input table.
    """
    prefix_ids = encode(request.prefix or "\n", self._vocab)
    prefix_length, end = len(prefix_ids), len(prefix_ids) + request.num_chars
    num_rows = self._rows.computed(len(samples))
    # Threefry's key has two words of 32 bits.
    words = np.array([request.seed & 0xFFFFFFFF, request.seed >> 32], np.uint32)
    rows = np.arange(samples.start, samples.start + num_rows, dtype=np.uint32)
    keys = sample_keys(words, rows)
    last = np.full(num_rows, prefix_ids[0], np.int32)
    tails = [StopBuffer(request.stop) for _ in samples]
    states = self._model.initial_states(num_rows)
    how = tf.constant(request.temperature), request.limits
    if (num_rows, request.limits) not in self._compiled:
      self._compile(keys, request.limits, table, last, states)
    # The test beside the compilation may have shown that one row does not
    # agree with two. Then begin again, with two.
    if num_rows != self._rows.computed(len(samples)):
      yield from self._pieces(request, samples, size, table)
      return
    # `start` is the index of the next character in prefix and sample together;
    # the model has yet to read the character before it, which is in
    # `last`. A span is `num` characters from `start` on, and its random numbers
    # begin at `noise[offset]`. `given` holds its characters that belong to the
    # prefix.
    start = 1
    while start < end and not all(tail.stopped for tail in tails):
      offset = (start - 1) % self._buffer
      # To the end of the buffer at most: `noise` holds no numbers beyond it.
      num = min(size, self._buffer - offset, end - start)
      part = prefix_ids[start : start + num].astype(np.int32)
      given = np.pad(part, (0, self._buffer - len(part)))
      span = np.array([offset, num, len(part)], np.int32)
      if offset == 0:
        noise = self._compiled_noise(keys, tf.constant(start - prefix_length))
      ids, log_probs, states = self._compiled_advance(
        table, last, states, given, span, noise, *how
      )
      ids, log_probs = ids.numpy(), log_probs.numpy()
      last = ids[:, num - 1]
      if np.isnan(log_probs[:, :num]).any():
        raise InputError("the model has diverged: give another --checkpoint")
      new = slice(len(part), num)
      start += num
      yield [
        tail.add(decode(row[new], self._vocab), values[new], start == end)
        for tail, row, values in zip(tails, ids, log_probs, strict=False)
      ]

  def _compile(self, keys: Pair, limits: Limits, *before: object) -> None:
    """Compiles both functions, and tests whether so many rows agree with pairs.

    In two threads, since the first character waits for all of it. Other numbers
    than 1 were tested when they were chosen. Nothing is drawn, since the span
    is empty; `before` are the table, ids and states before it.
    """
    num_rows = len(keys[0])
    given, span = np.zeros(self._buffer, np.int32), np.zeros(3, np.int32)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
      tested = pool.submit(self._rows.agree, num_rows)
      noise = pool.submit(self._compiled_noise, keys, tf.constant(0))
      numbers = tf.zeros([self._buffer, num_rows, len(self._vocab)])
      how = tf.constant(1.0), limits
      self._compiled_advance(*before, given, span, numbers, *how)
      tested.result(), noise.result()
    self._compiled.add((num_rows, limits))

  def _noise(self, keys: Pair, first: tf.Tensor) -> tf.Tensor:
    """Returns Gumbel noise for positions from `first` on, `[S, B, V]`.

    Position 0 is the first character that is drawn; those of the prefix are
    negative, and wrap. It is made before the loop over characters, as
    `uniform_numbers` explains.
    """
    positions = first + tf.range(self._buffer)[:, tf.newaxis]
    return gumbel_noise(uniform_numbers(keys, positions, len(self._vocab)))

  def _advance(
    self,
    table: tf.Tensor,
    last: tf.Tensor,
    states: State,
    given: tf.Tensor,
    span: tf.Tensor,
    noise: tf.Tensor,
    temperature: tf.Tensor,
    limits: Limits,
  ) -> tuple[tf.Tensor, tf.Tensor, State]:
    """Draws the next ids of each row; where the prefix goes on, takes its ids.

    Args:
      table: the model's input table.
      last: ids `[B]` before the span, which are yet to be read.
      states: the state before those ids.
      given: ids `[S]`, of which the first are the prefix' part of the span.
      span: its offset in `noise`, its length, and how many ids of it are
        from `given`, before those that are drawn.
      noise: of the draws, `[S, B, V]`.
      temperature: a tensor, so that another one needs no compilation.
      limits: no tensors, since which of them are set decides the graph.

    Returns the ids and their log-probabilities, `[B, S]` each (valid up to the
    span's length), and the state before the last of these ids.
    """
    offset, length, num_given = tf.unstack(span)
    shape = {"size": self._buffer, "element_shape": last.shape}
    arrays = [tf.TensorArray(kind, **shape) for kind in (tf.int32, tf.float32)]
    # XLA does not vectorise the gates of a single row if they look up their
    # inputs: the step before looks them up, and `x` has them. For more rows
    # that is slower: `x` has ids.
    alone = last.shape[0] == 1
    x = tf.gather(table, last) if alone else last

    def step(
      i: tf.Tensor, x: tf.Tensor, states: State, *arrays: tf.TensorArray
    ) -> tuple[tf.Tensor | State | tf.TensorArray, ...]:
      """Draws the next id of each row, or takes it from the prefix."""
      x = x if alone else tf.gather(table, x)
      log_probs, states = self._model.read(x, states)
      # A gather, since a slice would copy all of the numbers.
      numbers = tf.gather(noise, offset + i)
      drawn = tf.cast(draw(log_probs, temperature, limits, numbers), tf.int32)
      ids = tf.where(i < num_given, tf.gather(given, i), drawn)
      values = ids, tf.gather(log_probs, ids, batch_dims=1)
      pairs = zip(arrays, values, strict=True)
      x = tf.gather(table, ids) if alone else ids
      return i + 1, x, states, *(a.write(i, value) for a, value in pairs)

    _, _, states, *arrays = tf.while_loop(
      lambda i, *_: i < length, step, (0, x, states, *arrays)
    )
    return *(tf.transpose(array.stack()) for array in arrays), states
