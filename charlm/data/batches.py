"""Training batches: the batch of a step is a function of (seed, step)."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from charlm.config import Config
from charlm.errors import InputError

_Entry = TypeVar("_Entry")


def split_input_target(
  sequence: Sequence[_Entry],
) -> tuple[Sequence[_Entry], Sequence[_Entry]]:
  """Returns all elements but the last, and all but the first."""
  return sequence[:-1], sequence[1:]


class Batches:
  """An endless sequence of training batches.

  Each epoch shuffles all windows anew, keyed by seed and epoch. A step's batch
  depends only on the seed and the step, so resuming needs no other state.

  A window's inputs are `seq_length` characters; its targets are shifted by one.
  Here the chunks of `seq_length` + 1 characters do not overlap, and the rest of
  the text is dropped.
  """

  def __init__(
    self,
    ids: np.ndarray,
    seq_length: int,
    batch_size: int,
    seed: int = 0,
    rows: range | None = None,
    table: np.ndarray | None = None,
  ) -> None:
    """Prepares the batches of a text.

    Args:
      ids: the whole text, `[N]`.
      seq_length: characters per window.
      batch_size: windows per batch.
      seed: determines the shuffles.
      rows: the rows of each batch to read; None for all.
      table: maps `ids` to those of the batches; None for the identity.

    Raises InputError: the text does not fill one batch of windows.
    """
    self._ids, self._table, self._size = ids, table, seq_length + 1
    self._batch_size, self._seed = batch_size, seed
    self.rows = rows or range(batch_size)
    self._shuffle = (-1, np.empty(0, np.int64))  # of the last requested epoch
    self.characters_per_step = batch_size * seq_length
    self.steps_per_epoch = self._count_steps()
    if self.steps_per_epoch < 1:
      sizes = {"--batch_size": batch_size, "--seq_length": seq_length}
      lower = " or ".join(flag for flag, size in sizes.items() if size > 1)
      raise InputError(
        f"the train text has {len(ids)} characters, fewer than one batch of "
        f"{batch_size} windows of {seq_length} + 1 characters: give a longer "
        "--corpus" + (f", or lower {lower}" if lower else "")
      )

  def batch(self, step: int) -> np.ndarray:
    """Returns the windows of a step, `[len(rows), seq_length + 1]`."""
    epoch, index = divmod(step, self.steps_per_epoch)
    starts = self._starts(epoch, index)
    # The text is circular: its first character follows its last.
    places = (starts[:, np.newaxis] + np.arange(self._size)) % len(self._ids)
    windows = self._ids[places]
    return windows if self._table is None else self._table[windows]

  def _count_steps(self) -> int:
    """Returns the number of whole batches in an epoch."""
    return len(self._ids) // self._size // self._batch_size

  def _starts(self, epoch: int, index: int) -> np.ndarray:
    """Returns the start of each window in an epoch's batch, `[len(rows)]`."""
    # An epoch skips the windows that do not fill its last batch: each time
    # different ones.
    places = index * self._batch_size + np.array(self.rows)
    # The shuffle is cached for one epoch.
    if self._shuffle[0] != epoch:
      num_windows = len(self._ids) // self._size
      rng = _generator(self._seed, epoch)
      self._shuffle = epoch, rng.permutation(num_windows)
    return self._shuffle[1][places] * self._size


class ContinuedBatches(Batches):
  """An endless sequence of batches whose rows continue across batches.

  Row b of a batch continues row b of the previous one. The circular text is
  split into `batch_size` equal chunks, from a new random offset in each epoch.
  Rows therefore do not continue across epochs: every epoch starts from the zero
  state.
  """

  def _count_steps(self) -> int:
    # A row's windows overlap by one character, and stay in the row's chunk.
    return (len(self._ids) // self._batch_size - 1) // (self._size - 1)

  def _starts(self, epoch: int, index: int) -> np.ndarray:
    # A new offset per epoch, or all epochs would have the same windows.
    offset = _generator(self._seed, epoch).integers(len(self._ids))
    chunks = len(self._ids) * np.array(self.rows) // self._batch_size
    return offset + chunks + index * (self._size - 1)


def build_batches(
  ids: np.ndarray,
  config: Config,
  rows: range | None = None,
  table: np.ndarray | None = None,
) -> Batches:
  """Returns the batches of a text `[N]`, with the arguments of `Batches`.

  Raises InputError: the text does not fill one batch of windows.
  """
  kind = ContinuedBatches if config.carry_state else Batches
  return kind(
    ids=ids,
    seq_length=config.seq_length,
    batch_size=config.batch_size,
    seed=config.seed,
    rows=rows,
    table=table,
  )


def _generator(seed: int, epoch: int) -> np.random.Generator:
  # Different keys give independent streams; seed + epoch would repeat keys.
  return np.random.Generator(np.random.Philox(key=[seed, epoch]))
