"""Baselines beside the models: n-grams, and a compressor."""

import dataclasses
import lzma
import math
from typing import TypedDict

import numpy as np

from charlm.data.vocabulary import encode

MAX_ORDER = 8


class Baseline(TypedDict):
  """The score of a baseline on a text."""

  name: str
  nats: float  # per character, or per byte
  num_bytes: int  # the size of its tables, or of the train text


def cells_of(baseline: Baseline) -> list[str]:
  """Returns name, nats, bits and MiB as the cells of a table."""
  nats = baseline["nats"]
  mib = baseline["num_bytes"] / 2**20
  return [
    baseline["name"],
    f"{nats:.4f}",
    f"{nats / math.log(2):.4f}",
    f"{mib:,.1f}",
  ]


def baselines(
  train: str, text: str, vocab: list[str], encoding: str
) -> list[Baseline]:
  """Scores a text with n-grams of all orders, and with xz.

  `encoding` is the encoding of the texts, for xz.
  """
  train_ids, ids = encode(train, vocab), encode(text, vocab)
  model = KneserNey(train_ids, len(vocab))
  ngrams: list[Baseline] = [
    {
      "name": f"Kneser-Ney, order {order}",
      "nats": float(nats.mean()),
      "num_bytes": model.num_bytes(order),
    }
    for order, nats in enumerate(model.nats(ids), 1)
  ]
  xz: Baseline = {
    "name": "xz",
    "nats": xz_bits_per_character(train, text, encoding) * math.log(2),
    "num_bytes": len(train.encode(encoding)),
  }
  return [*ngrams, xz]


def xz_bits_per_character(train: str, text: str, encoding: str) -> float:
  """Returns the bits per character that a text adds to a compressed train text.

  That is the size of both in one file, minus the size of the train text alone.
  """
  # Preset 9 looks back over 64 MiB for repetitions.
  with_text, without = (
    len(lzma.compress(part.encode(encoding), preset=9 | lzma.PRESET_EXTREME))
    for part in (train + text, train)
  )
  return 8 * (with_text - without) / len(text)


@dataclasses.dataclass(frozen=True)
class _Counts:
  """The counts of all n-grams of one length, or their continuation counts.

  An n-gram is a number whose digits in base V are its ids. Its context is the
  n-gram without its last id.
  """

  grams: np.ndarray  # [G], sorted
  counts: np.ndarray  # [G]
  contexts: np.ndarray  # [C], sorted
  totals: np.ndarray  # [C], the sum of each context's counts
  num_types: np.ndarray  # [C], distinct characters after each context

  @property
  def num_bytes(self) -> int:
    """The memory of the arrays."""
    arrays = (getattr(self, field.name) for field in dataclasses.fields(self))
    return sum(array.nbytes for array in arrays)


class KneserNey:
  """Interpolated Kneser-Ney models of a text, of the orders 1 to `max_order`.

  They follow Chen and Goodman (1999), with one discount per order. A model
  counts how often its longest n-grams occur and, for shorter ones, how many
  distinct characters precede them.
  """

  def __init__(self, ids: np.ndarray, vocab_size: int) -> None:
    """Counts a text `[N]` of ids below `vocab_size`."""
    self._base = vocab_size
    # An n-gram must fit into 64 bits.
    self.max_order = MAX_ORDER
    while vocab_size**self.max_order >= 2**63:
      self.max_order -= 1
    self._raw, self._continued = [], []
    for order in range(1, self.max_order + 1):
      grams, counts = np.unique(self._grams(ids, order), return_counts=True)
      self._raw.append(self._table(grams, counts))
      if order > 1:
        shorter = grams % vocab_size ** (order - 1)
        shorter, counts = np.unique(shorter, return_counts=True)
        self._continued.append(self._table(shorter, counts))

  def num_bytes(self, order: int) -> int:
    """Returns the memory of an order's model."""
    tables = [*self._continued[: order - 1], self._raw[order - 1]]
    return sum(table.num_bytes for table in tables)

  def nats(self, ids: np.ndarray) -> list[np.ndarray]:
    """Scores all characters of a text `[N]` but the first.

    Returns the nats `[N - 1]` of each order's model, from order 1 up.
    """
    shorter = np.full(len(ids) - 1, 1 / self._base)
    results = []
    for order in range(1, self.max_order + 1):
      raw = self._probabilities(
        ids=ids, order=order, table=self._raw[order - 1], shorter=shorter
      )
      results.append(-np.log(raw))
      if order < self.max_order:
        table = self._continued[order - 1]
        shorter = self._probabilities(
          ids=ids, order=order, table=table, shorter=shorter
        )
    return results

  def _probabilities(
    self, ids: np.ndarray, order: int, table: _Counts, shorter: np.ndarray
  ) -> np.ndarray:
    """Returns each character's probability `[N - 1]`.

    It is `shorter`, the one in the next shorter context, if the text before the
    character is too short for the context, or if that was never counted.
    """
    result = shorter.copy()
    # The first unigram is the first character, which is not scored.
    grams = self._grams(ids, order)[1 if order == 1 else 0 :]
    target = slice(len(result) - len(grams), None)
    discount = _discount(table.counts)
    counts = _look_up(table.grams, table.counts, grams)
    contexts = grams // self._base
    totals = _look_up(table.contexts, table.totals, contexts)
    num_types = _look_up(table.contexts, table.num_types, contexts)
    seen = totals > 0
    # Interpolation spreads the discounted counts in proportion to `shorter`.
    smoothed = np.maximum(counts - discount, 0) + (
      discount * num_types * shorter[target]
    )
    result[target][seen] = smoothed[seen] / totals[seen]
    return result

  def _grams(self, ids: np.ndarray, order: int) -> np.ndarray:
    """Returns the n-grams `[N - order + 1]` of a text `[N]`."""
    length = len(ids) - order + 1
    grams = np.zeros(max(length, 0), np.int64)
    for i in range(order):
      grams *= self._base
      grams += ids[i : i + len(grams)]
    return grams

  def _table(self, grams: np.ndarray, counts: np.ndarray) -> _Counts:
    contexts, first, num_types = np.unique(
      grams // self._base, return_index=True, return_counts=True
    )
    totals = np.add.reduceat(counts, first) if len(first) else counts
    return _Counts(
      grams=_smallest(grams),
      counts=_smallest(counts),
      contexts=_smallest(contexts),
      totals=_smallest(totals),
      num_types=_smallest(num_types),
    )


def _discount(counts: np.ndarray) -> float:
  """Estimates the discount from how many n-grams occur once and twice."""
  once, twice = (np.count_nonzero(counts == n) for n in (1, 2))
  # If none occurs once, a typical value.
  return float(once / (once + 2 * twice)) if once else 0.5


def _look_up(
  keys: np.ndarray, values: np.ndarray, wanted: np.ndarray
) -> np.ndarray:
  """Returns the values of the wanted keys, 0 for missing ones."""
  if not len(keys):
    return np.zeros(len(wanted), np.int64)
  places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
  exists = keys[places] == wanted
  return np.where(exists, values[places], 0).astype(np.int64)


def _smallest(array: np.ndarray) -> np.ndarray:
  smallest = np.min_scalar_type(int(array.max(initial=0)))
  # Not uint64, which NumPy converts to floats beside signed integers.
  return array.astype(np.int64 if smallest == np.uint64 else smallest)
