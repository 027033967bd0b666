from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import SHAKESPEARE_VOCAB as VOCAB

from charlm.model import GRULM, build_model
from charlm.sampling import (
  GenerativeModel,
  _threefry,
  _uniform,
  temperature_random_sampling,
)
from charlm.vocabulary import encode

NUM_DRAWS = 200_000
LOG_PROBS = np.log([0.4, 0.25, 0.15, 0.1, 0.06, 0.03, 0.01])
# The chi-squared distribution with 6 degrees of freedom exceeds this once in
# 10,000 times.
CHI_SQUARED_LIMIT = 27.86


@pytest.fixture(scope="module")
def model() -> GRULM:
  keras.utils.set_random_seed(6)
  model = build_model(82, 16, 32, num_layers=2)
  # Larger weights than initial ones, so that the text depends on its past.
  model.set_weights([4 * weight for weight in model.get_weights()])
  return model


def _texts(generator: GenerativeModel, *args: Any, **kwargs: Any) -> list[str]:
  return [sample.text for sample in generator.sample(*args, **kwargs)]


def _chi_squared(drawn: tf.Tensor, temperature: float) -> float:
  logits = LOG_PROBS / temperature
  expected = NUM_DRAWS * np.exp(logits) / np.exp(logits).sum()
  counts = np.bincount(np.ravel(drawn), minlength=7)
  return float(((counts - expected) ** 2 / expected).sum())


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_softmax(temperature: float) -> None:
  tf.random.set_seed(7)
  log_probs = tf.tile(tf.constant([LOG_PROBS], tf.float32), [NUM_DRAWS, 1])
  drawn = temperature_random_sampling(log_probs, temperature)
  assert drawn.shape == [NUM_DRAWS]
  assert _chi_squared(drawn, temperature) < CHI_SQUARED_LIMIT


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_the_generators_draws_follow_the_softmax(temperature: float) -> None:
  seed = tf.constant([8, 0], tf.uint32)
  drawn = [
    temperature_random_sampling(
      tf.constant(LOG_PROBS, tf.float32),
      temperature,
      _uniform(seed, tf.range(2_000), tf.constant(position), 7),
    )
    for position in range(NUM_DRAWS // 2_000)
  ]
  assert _chi_squared(tf.stack(drawn), temperature) < CHI_SQUARED_LIMIT


def test_temperature_0_is_argmax() -> None:
  log_probs = np.random.default_rng(9).normal(size=[500, 20])
  drawn = temperature_random_sampling(log_probs.astype(np.float32), 0)
  np.testing.assert_array_equal(drawn, log_probs.argmax(-1))


@pytest.mark.parametrize(
  ("key", "counter", "expected"),
  [  # known answers of the generator's authors
    ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
    ((2**32 - 1,) * 2, (2**32 - 1,) * 2, (0x1CB996FC, 0xBB002BE7)),
    (
      (0x13198A2E, 0x03707344),
      (0x243F6A88, 0x85A308D3),
      (0xC4923A9C, 0x483DF7A0),
    ),
  ],
)
def test_threefry_known_answers(
  key: tuple[int, int], counter: tuple[int, int], expected: tuple[int, int]
) -> None:
  words = [tf.constant(word, tf.uint32) for word in (*key, *counter)]
  assert tuple(int(word) for word in _threefry(*words)) == expected
  compiled = tf.function(_threefry, jit_compile=True)
  assert tuple(int(word) for word in compiled(*words)) == expected


def test_uniform_numbers_fill_the_unit_interval() -> None:
  seed = tf.constant([1, 2], tf.uint32)
  u = _uniform(seed, tf.range(100), tf.constant(3), 1000).numpy()
  assert 0 <= u.min() < 1e-4
  assert 1 - 1e-4 < u.max() < 1
  assert len(np.unique(u)) > 99_000
  # 100,000 numbers: four standard deviations of the mean are 0.0037.
  assert abs(u.mean() - 0.5) < 0.004


def test_the_same_seed_gives_the_same_text(model: GRULM) -> None:
  generator = GenerativeModel(model, VOCAB)
  text = generator.generate_n_chars(60, "ROMEO ", seed=3)
  assert text.startswith("ROMEO ")
  assert len(text) == 66
  assert text == GenerativeModel(model, VOCAB).generate_n_chars(
    60, "ROMEO ", seed=3
  )
  others = {generator.generate_n_chars(60, "ROMEO ", s) for s in (4, 2**40)}
  assert len(others | {text}) == 3


def test_a_sample_does_not_depend_on_the_others(model: GRULM) -> None:
  generator = GenerativeModel(model, VOCAB)
  samples = _texts(generator, 50, "\n", num_samples=9)
  assert len(set(samples)) == 9
  for num_samples in (1, 2, 5):
    assert _texts(generator, 50, "\n", num_samples) == samples[:num_samples]


def test_a_sample_does_not_depend_on_many_others_at_full_size() -> None:
  # A product of more rows than 32 rounds differently at this size.
  keras.utils.set_random_seed(6)
  model = build_model(82, 256, 512)
  model.set_weights([4 * weight for weight in model.get_weights()])
  generator = GenerativeModel(model, VOCAB)
  many = _texts(generator, 300, "\n", num_samples=65)
  assert len(many) == 65
  assert _texts(generator, 300, "\n", num_samples=2) == many[:2]
  assert _texts(generator, 300, "\n", num_samples=34) == many[:34]


def test_a_shorter_text_starts_the_longer_one(model: GRULM) -> None:
  generator = GenerativeModel(model, VOCAB)
  long = _texts(generator, 1100, "a")[0]
  assert len(long) == 1100
  assert _texts(generator, 30, "a")[0] == long[:30]
  assert _texts(generator, 1, "a")[0] == long[:1]


def test_greedy_text_equals_stepping_the_model(model: GRULM) -> None:
  text = GenerativeModel(model, VOCAB, temperature=0).sample(40, "The ")[0].text
  expected, ids, states = "", encode("The ", VOCAB)[np.newaxis], None
  for _ in range(40):
    log_probs, states = model(ids, states, return_state=True)
    ids = np.argmax(log_probs[:, -1:, 2:], -1) + 2
    expected += VOCAB[ids[0, 0]]
  assert text == expected


def test_steps_from_strings_equal_the_whole_text(model: GRULM) -> None:
  generator = GenerativeModel(model, VOCAB, temperature=0)
  chars, states = generator.generate_one_step(["The ", "Thou"])
  texts = [chars]
  for _ in range(9):
    chars, states = generator.generate_one_step(chars, states)
    texts.append(chars)
  rows = tf.strings.join(texts).numpy()
  assert rows[0].decode() == _texts(generator, 10, "The ")[0]
  assert rows[1].decode() == _texts(generator, 10, "Thou")[0]


@pytest.mark.parametrize("temperature", [0.0, 1.0, 50.0])
def test_unknown_and_padding_are_never_drawn(temperature: float) -> None:
  model = build_model(5, 4, 6)
  model.dense.set_weights([np.zeros([6, 5]), np.array([9.0, 9, 0, 0, 0])])
  vocab = ["[UNK]", "", "a", "b", "c"]
  generator = GenerativeModel(model, vocab, temperature)
  text = generator.sample(500, "a")[0].text
  assert len(text) == 500
  assert set(text) <= set("abc")
  chars, _ = generator.generate_one_step(["a"] * 500)
  assert set(chars.numpy()) <= {b"a", b"b", b"c"}


def test_unknown_characters_of_a_prefix_are_read_as_unknown(
  model: GRULM,
) -> None:
  generator = GenerativeModel(model, VOCAB)
  assert _texts(generator, 20, "é😀") == _texts(generator, 20, "ßà")
  assert _texts(generator, 20, "é") != _texts(generator, 20, "e")


def test_one_compilation_serves_all_prefixes_and_lengths(model: GRULM) -> None:
  generator = GenerativeModel(model, VOCAB)
  for num_chars, prefix in ((1, "a"), (20, "The "), (900, "\n")):
    _texts(generator, num_chars, prefix)
  assert generator._advance.experimental_get_tracing_count() == 1


@pytest.mark.parametrize("temperature", [-0.1, float("nan"), float("inf")])
def test_impossible_temperatures_are_refused(
  model: GRULM, temperature: float
) -> None:
  with pytest.raises(ValueError, match="temperature"):
    GenerativeModel(model, VOCAB, temperature)


def test_steps_need_strings_of_one_length(model: GRULM) -> None:
  with pytest.raises(ValueError, match="one length"):
    GenerativeModel(model, VOCAB).generate_one_step(["a", "abc"])


def test_an_empty_prefix_is_refused(model: GRULM) -> None:
  with pytest.raises(ValueError, match="newline"):
    GenerativeModel(model, VOCAB).sample(3, "")
