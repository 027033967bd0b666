"""Baselines that need no training: counts of n-grams, and a compressor."""

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
  num_bytes: int  # what it must store


def cells_of(baseline: Baseline) -> list[str]:
  """Returns name, nats, bits and MiB as a table shows them."""
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
  """Scores a text by n-grams of all orders and by xz, given the train text.

  `encoding` is that of the texts, for xz.
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
  """Returns the bits per character that a text adds to the train text in xz.

  The two are compressed as one file, and the train text alone; the difference
  of the sizes counts.
  """
  # Preset 9 looks back over 64 MiB for what is repeated.
  with_text, without = (
    len(lzma.compress(part.encode(encoding), preset=9 | lzma.PRESET_EXTREME))
    for part in (train + text, train)
  )
  return 8 * (with_text - without) / len(text)


@dataclasses.dataclass(frozen=True)
class _Counts:
  """The counts of all n-grams of one length, or their continuation counts.

  A gram is a number whose digits, in base V, are its ids, the newest last. Its
  context is the gram without the newest.
  """

  grams: np.ndarray  # [G], sorted
  counts: np.ndarray  # [G]
  contexts: np.ndarray  # [C], sorted
  totals: np.ndarray  # [C], the sum of each context's counts
  num_types: np.ndarray  # [C], distinct characters after each context

  @property
  def num_bytes(self) -> int:
    """The memory that the tables take."""
    arrays = (getattr(self, field.name) for field in dataclasses.fields(self))
    return sum(array.nbytes for array in arrays)


class KneserNey:
  """Interpolated Kneser-Ney models of the orders 1 to `max_order` of a text.

  After Chen and Goodman (1999), with one discount per order. An order's model
  counts how often its longest grams occur and, for all shorter ones, how many
  distinct characters come before them.
  """

  def __init__(self, ids: np.ndarray, vocab_size: int) -> None:
    """Counts a text `[N]` of ids below `vocab_size`."""
    self._base = vocab_size
    # Grams are 64-bit numbers.
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
    """Returns the memory of the model of an order."""
    tables = [*self._continued[: order - 1], self._raw[order - 1]]
    return sum(table.num_bytes for table in tables)

  def nats(self, ids: np.ndarray) -> list[np.ndarray]:
    """Scores all characters of a text `[N]` but the first, given those before.

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

    It is `shorter`, that of the next shorter context, where the text before a
    character is too short or was never seen.
    """
    result = shorter.copy()
    # The first gram of order 1 is the first character, which is not scored.
    grams = self._grams(ids, order)[1 if order == 1 else 0 :]
    target = slice(len(result) - len(grams), None)
    discount = _discount(table.counts)
    counts = _look_up(table.grams, table.counts, grams)
    contexts = grams // self._base
    totals = _look_up(table.contexts, table.totals, contexts)
    num_types = _look_up(table.contexts, table.num_types, contexts)
    seen = totals > 0
    kept = np.maximum(counts - discount, 0) + (
      discount * num_types * shorter[target]
    )
    result[target][seen] = kept[seen] / totals[seen]
    return result

  def _grams(self, ids: np.ndarray, order: int) -> np.ndarray:
    """Returns the grams of a text `[N]`, `[N - order + 1]`."""
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
  """Returns the discount of Kneser-Ney, from the counts that are 1 and 2."""
  once, twice = (np.count_nonzero(counts == n) for n in (1, 2))
  # Without any seen once, a usual value.
  return float(once / (once + 2 * twice)) if once else 0.5


def _look_up(
  keys: np.ndarray, values: np.ndarray, wanted: np.ndarray
) -> np.ndarray:
  """Returns the values of the wanted keys, 0 where there is none."""
  if not len(keys):
    return np.zeros(len(wanted), np.int64)
  places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
  found = keys[places] == wanted
  return np.where(found, values[places], 0).astype(np.int64)


def _smallest(array: np.ndarray) -> np.ndarray:
  smallest = np.min_scalar_type(int(array.max(initial=0)))
  # Together with signed numbers, NumPy would turn uint64 into floats.
  return array.astype(np.int64 if smallest == np.uint64 else smallest)
