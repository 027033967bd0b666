import dataclasses
import os
import subprocess
import sys
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import SHAKESPEARE_VOCAB as VOCAB
from helpers import build_model, in_a_graph
from hypothesis import given, settings
from hypothesis import strategies as st

from charlm.data.vocabulary import encode
from charlm.errors import InputError
from charlm.model.language_model import GRULM
from charlm.sampling.generator import GenerativeModel, StopBuffer, join_chunks
from charlm.sampling.gumbel import (
  gumbel_noise,
  limit,
  numbers_of_texts,
  temperature_random_sampling,
)
from charlm.sampling.request import Limits, Request

NUM_DRAWS = 200_000
LOG_PROBS = np.log([0.4, 0.25, 0.15, 0.1, 0.06, 0.03, 0.01])
# A chi-squared variable with 6 degrees of freedom exceeds this with a
# probability of 1e-4.
CHI_SQUARED_LIMIT = 27.86
STATELESS_VOCAB = ["[UNK]", "", *"\nabcdef"]
GOLDEN = [0.08767056, 0.32029831, 0.36430645]


@pytest.fixture(scope="module")
def model() -> GRULM:
  keras.utils.set_random_seed(6)
  model = build_model(82, 16, 32, num_layers=2)
  # With larger weights than initial ones, the text depends on its past.
  model.set_weights([4 * weight for weight in model.get_weights()])
  return model


@pytest.fixture(scope="module")
def generator(model: GRULM) -> GenerativeModel:
  """A shared generator at temperature 1, compiled once per number of rows."""
  return GenerativeModel(model, VOCAB)


@pytest.fixture(scope="module")
def greedy(model: GRULM) -> GenerativeModel:
  """A generator that draws the most likely characters."""
  return GenerativeModel(model, VOCAB, temperature=0)


def _ask(
  generator: GenerativeModel,
  num_chars: int,
  prefix: str,
  num_samples: int = 1,
  seed: int = 0,
  **others: Any,
) -> Request:
  """Returns a request at the temperature and limits of a generator."""
  text = {"prefix": prefix, "num_chars": num_chars}
  numbers = {"num_samples": num_samples, "seed": seed}
  return dataclasses.replace(generator._request, **text, **numbers, **others)


def _texts(generator: GenerativeModel, *args: Any, **kwargs: Any) -> list[str]:
  request = _ask(generator, *args, **kwargs)
  return [sample.text for sample in generator.sample(request)]


def _chi_squared(drawn: tf.Tensor, temperature: float) -> float:
  logits = LOG_PROBS / temperature
  expected = np.size(drawn) * np.exp(logits) / np.exp(logits).sum()
  counts = np.bincount(np.ravel(drawn), minlength=7)
  return float(((counts - expected) ** 2 / expected).sum())


def test_draws_follow_the_softmax() -> None:
  temperature = 0.5
  tf.random.set_seed(7)
  log_probs = tf.tile(tf.constant([LOG_PROBS], tf.float32), [NUM_DRAWS, 1])
  drawn = temperature_random_sampling(log_probs, temperature)
  assert drawn.shape == [NUM_DRAWS]
  assert _chi_squared(drawn, temperature) < CHI_SQUARED_LIMIT


@pytest.fixture(scope="module")
def stateless() -> GenerativeModel:
  """A generator whose log-probabilities do not depend on the state.

  So its samples depend only on the random numbers, not on rounding.
  """
  model = build_model(9, 4, 6)
  # The ids that stand for no character are the most likely ones.
  model.dense.set_weights([np.zeros([6, 9]), np.array([9, 9, *LOG_PROBS])])
  return GenerativeModel(model, STATELESS_VOCAB)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_texts_follow_the_softmax(
  stateless: GenerativeModel, temperature: float
) -> None:
  # Three batches of 22 texts, and three chunks of 1,024 characters.
  request = Request(num_chars=3000, num_samples=66, temperature=temperature)
  texts = [sample.text for sample in stateless.sample(request)]
  drawn = np.array([[STATELESS_VOCAB.index(c) - 2 for c in t] for t in texts])
  assert _chi_squared(drawn, temperature) < CHI_SQUARED_LIMIT
  # Neighbours, chunks, texts and batches are independent.
  probs = np.exp(LOG_PROBS / temperature)
  equal = ((probs / probs.sum()) ** 2).sum()
  for one, other in (
    (drawn[:, 1:], drawn[:, :-1]),
    (drawn[:, 1024:], drawn[:, :-1024]),
    (drawn[1:], drawn[:-1]),
    (drawn[22:], drawn[:-22]),
  ):
    # The standard deviation is below 0.002.
    assert abs((one == other).mean() - equal) < 0.01


def test_a_sample_does_not_depend_on_the_others_in_its_batch(
  stateless: GenerativeModel,
) -> None:
  request = Request(num_chars=1100, num_samples=40, seed=2**64 - 1)
  many = [sample.text for sample in stateless.sample(request)]
  assert len(set(many)) == 40
  for num_samples in (1, 33):
    few = dataclasses.replace(request, num_samples=num_samples, num_chars=1030)
    texts = [sample.text for sample in stateless.sample(few)]
    assert texts == [text[:1030] for text in many[:num_samples]]
  chunks = stateless.stream(request, 37)
  assert "".join(chunk.text for chunk in chunks) == many[37]


def test_random_numbers_depend_on_all_arguments() -> None:
  def numbers(seed: int, text: int, position: int) -> np.ndarray:
    texts = range(text, text + 1)
    return numbers_of_texts(seed, texts, position, [4, 9]).numpy()[0]

  seed = 7 + 2**40
  base = numbers(seed, 3, 1024)
  others = [numbers(7, 3, 1024), numbers(seed + 2**63, 3, 1024)]
  others += [numbers(seed, 1024, 3), numbers(seed, 3, 0)]
  others += [numbers(3, seed % 99, 1024)]
  assert len(np.unique([base, *others])) == 6 * 4 * 9
  # If these values change, the same seed gives other texts.
  np.testing.assert_allclose(base[0, :3], GOLDEN, rtol=1e-5)
  together = numbers_of_texts(seed, range(2, 5), 1024, [4, 9])
  np.testing.assert_array_equal(together[1], base)


def test_the_compiled_loop_generates_no_random_numbers(
  stateless: GenerativeModel,
) -> None:
  # LLVM mistook a generator's XORs for a checksum, and never terminated.
  traced = []
  advance = stateless._compiled_draw

  def record(**arguments: Any) -> Any:
    traced.append(arguments)
    return advance(**arguments)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(stateless, "_compiled_draw", record)
    stateless.sample(Request(num_chars=1, top_k=3, top_p=0.9))
  ir = advance.experimental_get_compiler_ir(**traced[0])(stage="hlo")
  assert "while" in ir
  assert "xor" not in ir


def _allowed_by_numpy(
  log_probs: np.ndarray,
  temperature: float,
  top_k: int,
  top_p: float,
) -> set[int]:
  """Goes through the ids `[V]` in order of falling probability."""
  probs = np.exp(log_probs / temperature - np.max(log_probs / temperature))
  order = sorted(range(len(probs)), key=lambda i: -log_probs[i])
  order = [i for i in order if log_probs[i] > -np.inf][: top_k or None]
  total, chosen, share = sum(probs[order]), set(), 0.0
  for i in order:
    if share < top_p * total:
      chosen.add(i)
    share += probs[i]
  return chosen


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_limits_agree_with_sorting_in_numpy(
  data: st.DataObject,
) -> None:
  # Multiples of 1/4 as log-probabilities give ties, and sums that rounding
  # cannot move across these limits.
  quarters = data.draw(st.lists(st.integers(-20, 0), min_size=3, max_size=40))
  log_probs = np.float32(quarters) / 4
  log_probs[data.draw(st.integers(0, len(quarters) - 1))] = -np.inf
  temperature = data.draw(st.sampled_from([0.5, 1.0, 2.0]))
  limits = {
    "top_k": data.draw(st.integers(0, 45)),
    "top_p": data.draw(st.sampled_from([0.01, 0.123, 0.51, 0.87, 0.991, 1.0])),
  }
  two = tf.constant([log_probs] * 2)
  kept = limit(two, temperature, Limits(**limits)).numpy()
  expected = _allowed_by_numpy(
    log_probs.astype(np.float64), temperature, **limits
  )
  assert set(np.flatnonzero(np.isfinite(kept[0]))) == expected
  np.testing.assert_array_equal(kept[0], kept[1])
  chosen = np.isfinite(kept[0])
  np.testing.assert_array_equal(kept[0][chosen], log_probs[chosen])


def test_top_k_counts_ids_whose_probability_underflows() -> None:
  # Rounding loses such probabilities in a sum with the first one.
  log_probs = tf.constant([[0.0, -20, -30, -40, -50]])
  kept = limit(log_probs, 1.0, Limits(top_k=4))
  np.testing.assert_array_equal(kept, [[0, -20, -30, -40, -np.inf]])


@pytest.mark.parametrize("shape", [(1, 1), (3, 2, 300)])
@pytest.mark.parametrize("xla", [False, True])
def test_temperature_0_is_argmax(shape: tuple[int, ...], xla: bool) -> None:
  log_probs = np.random.default_rng(9).normal(size=shape).astype(np.float32)
  # With few distinct values there are ties: NumPy takes the first maximum.
  ties = np.round(log_probs)
  impossible = np.full_like(log_probs, -np.inf)
  greedy = tf.function(temperature_random_sampling, jit_compile=xla)
  for scores in (log_probs, ties, impossible):
    drawn = greedy(scores, tf.constant(0.0))
    assert drawn.dtype == tf.int64
    np.testing.assert_array_equal(drawn, scores.argmax(-1))


@pytest.mark.parametrize("size", [1, 33, 300])
@pytest.mark.parametrize("xla", [False, True])
def test_draws_are_the_argmax_of_scores_with_gumbel_noise(
  size: int, xla: bool
) -> None:
  generator = np.random.default_rng(size)
  logits, uniform = generator.random((2, 500, size), np.float32)

  @tf.function(jit_compile=xla)
  def draw_ids(logits: tf.Tensor, temperature: tf.Tensor) -> tf.Tensor:
    # In one graph, where XLA must not compute a score twice, and differently.
    noise = gumbel_noise(uniform)
    log_probs = tf.nn.log_softmax(logits)
    return temperature_random_sampling(log_probs, temperature, noise)

  noise = -np.log(-np.log(1e-6 + uniform.astype(np.float64) * (1 - 2e-6)))
  expected = (logits + 0.7 * noise).argmax(-1)
  drawn = draw_ids(logits, tf.constant(0.7))
  np.testing.assert_array_equal(drawn, expected)


def test_the_same_seed_gives_the_same_text(
  model: GRULM, generator: GenerativeModel
) -> None:
  text = generator.generate_n_chars(60, "ROMEO ", seed=3)
  assert text.startswith("ROMEO ")
  assert len(text) == 66
  other = GenerativeModel(model, VOCAB, temperature=1.0)
  assert text == other.generate_n_chars(60, "ROMEO ", seed=3)
  # The defaults are seed 0 and temperature 1.
  (expected,) = _texts(other, 30, "a", num_samples=1, seed=0)
  assert generator.generate_n_chars(30, "a") == "a" + expected
  # Without a prefix, a text starts a new line.
  assert generator.generate_n_chars(30, "") == _texts(other, 30, "\n")[0]
  of_numpy = np.int64(30), np.str_("a"), np.uint64(0)
  assert generator.generate_n_chars(*of_numpy) == "a" + expected
  for wrong in ((30.5, "a"), (30, b"a"), (30, "a", 0.5), (0, "a", -1)):
    with pytest.raises(InputError):
      generator.generate_n_chars(*wrong)
  # Both halves of the seed matter.
  others = {
    generator.generate_n_chars(60, "ROMEO ", seed)
    for seed in (4, 2**40, 3 + 2**40, 3 + 2**63)
  }
  assert len(others | {text}) == 5


def test_greedy_text_equals_stepping_the_model(
  model: GRULM, greedy: GenerativeModel
) -> None:
  (text,) = _texts(greedy, 40, "The ")
  expected, ids, states = "", encode("The ", VOCAB)[np.newaxis], None
  for _ in range(40):
    log_probs, states = model(ids, states, return_state=True)
    ids = np.argmax(log_probs[:, -1:, 2:], -1) + 2
    expected += VOCAB[ids[0, 0]]
  assert text == expected
  assert greedy.generate_n_chars(40, "The ") == "The " + expected


def test_single_steps_generate_the_same_text(
  greedy: GenerativeModel,
) -> None:
  chars, states = greedy.generate_one_step(["The ", "Thou"])
  texts = [chars]
  for _ in range(9):
    chars, states = greedy.generate_one_step(chars, states)
    texts.append(chars)
  rows = tf.strings.join(texts).numpy()
  assert rows[0].decode() == _texts(greedy, 10, "The ")[0]
  assert rows[1].decode() == _texts(greedy, 10, "Thou")[0]


def test_unknown_characters_in_a_prefix_become_the_unknown_id(
  generator: GenerativeModel,
) -> None:
  assert _texts(generator, 20, "é😀") == _texts(generator, 20, "ßà")
  assert _texts(generator, 20, "é") != _texts(generator, 20, "e")
  for num_chars in (0, 9):
    with pytest.warns(UserWarning, match="not in the vocabulary: 'é'"):
      text = generator.generate_n_chars(num_chars, "aé")
    assert text.startswith("aé")
    assert len(text) == 2 + num_chars


def test_only_a_change_of_limits_recompiles() -> None:
  code = """
from charlm.system.process import import_quietly
import_quietly("tensorflow")
from charlm.config import Config
from charlm.model.language_model import model_of
from charlm.sampling.generator import GenerativeModel
from charlm.sampling.request import Request

vocab = ["[UNK]", "", *"\\nabcdefghijklmnopqrstuvwxyz"]
config = Config(embedding_dim=4, rnn_units=8)
generator = GenerativeModel(model_of(config, len(vocab)), vocab)
for top_k in (0, 3, 0):
  for temperature, num_chars, prefix in (
    (1.0, 1, "a"), (0.0, 20, "the "), (7.0, 2500, "b" * 1500)
  ):
    request = Request(
      prefix, num_chars=num_chars, temperature=temperature, top_k=top_k
    )
    generator.sample(request)
    list(generator.stream(request))
"""
  # Makes TensorFlow log each compilation by XLA.
  logging = {"TF_CPP_MIN_LOG_LEVEL": "0", "TF_CPP_VMODULE": "device_compiler=2"}
  result = subprocess.run(
    [sys.executable, "-c", code],
    check=True,
    capture_output=True,
    text=True,
    env=os.environ | logging,
  )
  # One for the loop over a prefix, and two for the loop that draws.
  assert result.stderr.count("Compilation of XLA executable time") == 3


def test_single_steps_require_strings_of_equal_length(model: GRULM) -> None:
  with pytest.raises(ValueError, match="one length"):
    GenerativeModel(model, VOCAB).generate_one_step(["a", "abc"])


def test_sampling_only_the_most_likely_character_is_greedy(
  model: GRULM, greedy: GenerativeModel
) -> None:
  expected = _texts(greedy, 60, "The ")
  generator = GenerativeModel(model, VOCAB, 0.7, top_k=1)
  assert _texts(generator, 60, "The ") == expected
  for outermost in (0.001, 1000.0):
    assert _texts(generator, 60, "The ", temperature=outermost) == expected


def test_reported_log_probabilities_are_the_model_s(
  model: GRULM, monkeypatch: pytest.MonkeyPatch
) -> None:
  # Prefix and text in chunks of one character.
  monkeypatch.setattr("charlm.sampling.generator._MAX_NUMBERS", 1)
  generator = GenerativeModel(model, VOCAB, 0.6, top_k=9)
  predict = in_a_graph(model)
  prefix = "The king and his"
  for sample in generator.sample(_ask(generator, 100, prefix, 3)):
    ids = encode(prefix + sample.text, VOCAB)[np.newaxis].astype(np.int32)
    log_probs = predict(ids[:, :-1]).numpy()[0, len(prefix) - 1 :]
    expected = log_probs[np.arange(100), ids[0, len(prefix) :]]
    np.testing.assert_allclose(sample.log_probs, expected, atol=2e-4)


@pytest.mark.parametrize("length", [1, 1025, 1026])
def test_reading_a_prefix_in_chunks_gives_the_same_state(
  model: GRULM, generator: GenerativeModel, length: int
) -> None:
  prefix = ("Who's there? Nay, answer me: " * 100)[:length]
  begin = generator._begin(Request(prefix))
  ids = encode(prefix, VOCAB)[np.newaxis].astype(np.int32)
  whole = tf.function(model, autograph=False)
  _, expected = whole(ids, return_state=True)
  _, states = model.read(tf.gather(begin.table, begin.last), begin.states)
  for one, other in zip(states, expected, strict=True):
    np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("stop", ["", "th"])
def test_streaming_gives_the_same_sample(
  generator: GenerativeModel, stop: str
) -> None:
  request = _ask(generator, 1300, "The ", seed=5, stop=stop, temperature=0.8)
  (sample,) = generator.sample(request)
  whole = join_chunks(list(generator.stream(request)))
  assert (whole.text, whole.stopped) == (sample.text, sample.stopped)
  np.testing.assert_array_equal(whole.log_probs, sample.log_probs)


def test_a_sample_ends_before_its_stop_string(
  generator: GenerativeModel,
) -> None:
  request = _ask(generator, 2000, "The ", 9, temperature=0.8)
  whole = generator.sample(request)
  for size in (1, 2, 3):
    # In one of these cases, the stop string spans two chunks.
    stop = whole[0].text[8 - size + 1 : 9]
    cut = generator.sample(dataclasses.replace(request, stop=stop))
    for sample, text in zip(
      cut, (sample.text for sample in whole), strict=True
    ):
      assert sample.text == text.partition(stop)[0]
      assert sample.stopped == (stop in text)
      assert len(sample.log_probs) == len(sample.text)


@given(
  st.text("ab", min_size=1, max_size=20),
  st.text("ab", min_size=1, max_size=4),
  st.integers(1, 5),
)
def test_the_stop_buffer_ends_a_stream_where_the_whole_text_ends(
  text: str, stop: str, size: int
) -> None:
  buffer, shown, log_probs = StopBuffer(stop), "", []
  for start in range(0, len(text), size):
    so_far = text[: start + size]
    at_end = so_far == text
    numbers = np.arange(start, len(so_far), dtype=np.float32)
    chunk = buffer.add(text[start : start + size], numbers, at_end)
    shown += chunk.text
    log_probs += chunk.log_probs.tolist()
    expected = so_far.partition(stop)[0]
    if stop not in so_far and not at_end:
      # Holds back the longest suffix that may start the stop string.
      ends = [so_far[i:] for i in range(len(so_far))]
      expected = so_far.removesuffix(next(filter(stop.startswith, ends), ""))
    assert shown == expected
    assert log_probs == list(range(len(shown)))
    assert chunk.stopped == buffer.stopped == (stop in so_far)
