import collections
import lzma

import numpy as np

from charlm.evaluation import ngram


def _slow_nats(train: list[int], text: list[int], v: int, order: int) -> list:
  """Computes the same nats straight from the definition."""

  def grams(k: int) -> list[tuple]:
    return [tuple(train[i : i + k]) for i in range(len(train) - k + 1)]

  tables = {order: collections.Counter(grams(order))}
  for k in range(1, order):
    tables[k] = collections.Counter(g[1:] for g in set(grams(k + 1)))

  def probability(context: tuple, char: int, k: int) -> float:
    if k == 0:
      return 1 / v
    shorter = probability(context, char, k - 1)
    own = context[len(context) - k + 1 :]
    if len(own) < k - 1:
      return shorter
    table = tables[k]
    followers = {g[-1]: n for g, n in table.items() if g[:-1] == own}
    if not followers:
      return shorter
    once, twice = (sum(n == m for n in table.values()) for m in (1, 2))
    discount = once / (once + 2 * twice) if once else 0.5
    kept = max(followers.get(char, 0) - discount, 0)
    rest = discount * len(followers) * shorter
    return (kept + rest) / sum(followers.values())

  return [
    -np.log(probability(tuple(text[:i]), text[i], order))
    for i in range(1, len(text))
  ]


def test_probabilities_follow_the_definition() -> None:
  rng = np.random.default_rng(0)
  train, text = (
    rng.choice(5, n, p=[0.4, 0.3, 0.2, 0.07, 0.03]) for n in (300, 60)
  )
  model = ngram.KneserNey(train, 7)
  for order, nats in enumerate(model.nats(text), 1):
    expected = _slow_nats(train.tolist(), text.tolist(), 7, order)
    np.testing.assert_allclose(nats, expected, rtol=1e-9)


def test_a_large_vocabulary_lowers_the_largest_order() -> None:
  ids = np.random.default_rng(3).integers(0, 5000, 2000)
  model = ngram.KneserNey(ids, 5000)
  assert model.max_order == 5
  assert len(model.nats(ids[:100])) == 5


def test_xz_counts_only_what_the_text_adds() -> None:
  train, text = "to be or not to be\n" * 50, "that is the question\n"
  sizes = [
    len(lzma.compress(part.encode(), preset=9 | lzma.PRESET_EXTREME))
    for part in (train, train + text)
  ]
  expected = 8 * (sizes[1] - sizes[0]) / len(text)
  assert ngram.xz_bits_per_character(train, text, "utf-8") == expected


def test_text_that_repeats_the_train_text_costs_almost_nothing() -> None:
  rng = np.random.default_rng(4)
  train, other = (
    "".join(map(chr, rng.integers(97, 123, 20_000))) for _ in range(2)
  )
  assert ngram.xz_bits_per_character(train, train[5000:15_000], "utf-8") < 0.1
  assert 4.5 < ngram.xz_bits_per_character(train, other, "utf-8") < 5.5
