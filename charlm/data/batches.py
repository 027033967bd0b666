"""From ids to batches: the batch of a step is a function of (seed, step)."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from charlm.config import Config
from charlm.errors import InputError

_Entry = TypeVar("_Entry")


def split_input_target(
  sequence: Sequence[_Entry],
) -> tuple[Sequence[_Entry], Sequence[_Entry]]:
  """Returns all but the last and all but the first, of a tensor or a list."""
  return sequence[:-1], sequence[1:]


class Batches:
  """The endless sequence of training batches.

  Each epoch is a new full shuffle of all windows, keyed by seed and epoch. So a
  step's batch needs nothing but the seed and the step: to resume is to ask for
  the next step.

  A window's inputs are `seq_length` characters, and its targets the same
  stretch one character later. In this class the `seq_length` + 1 characters
  that windows read do not overlap, and what remains of the text is dropped.
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
    """Takes the whole text as ids `[N]`.

    Args:
      ids: the text, perhaps a memory map.
      seq_length: inputs in a window.
      batch_size: windows in a batch.
      seed: with the epoch, determines the shuffle.
      rows: those of each batch that are read; None for all.
      table: by each of `ids`, the id that a batch has in its place; None for
        the same.

    Raises InputError: the text does not fill one batch of windows.
    """
    self._ids, self._table, self._size = ids, table, seq_length + 1
    self._batch_size, self._seed = batch_size, seed
    self.rows = rows or range(batch_size)
    self._shuffle = (-1, np.empty(0, np.int64))  # of the epoch last asked for
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
    # The text is circular: its first character follows its last. Of a memory
    # map, nothing but the windows is read.
    places = (starts[:, np.newaxis] + np.arange(self._size)) % len(self._ids)
    windows = self._ids[places]
    return windows if self._table is None else self._table[windows]

  def _count_steps(self) -> int:
    """Returns the number of whole batches in an epoch."""
    return len(self._ids) // self._size // self._batch_size

  def _starts(self, epoch: int, index: int) -> np.ndarray:
    """Returns where the windows of an epoch's batch start, `[len(rows)]`."""
    # Windows that do not fill the last batch are left out of this epoch alone.
    places = index * self._batch_size + np.array(self.rows)
    # Kept for the whole epoch; that of another epoch is drawn anew.
    if self._shuffle[0] != epoch:
      num_windows = len(self._ids) // self._size
      rng = _generator(self._seed, epoch)
      self._shuffle = epoch, rng.permutation(num_windows)
    return self._shuffle[1][places] * self._size


class ContinuedBatches(Batches):
  """The endless sequence of batches whose rows go on where they stopped.

  Row b of a batch continues the text of row b of the batch before. The text is
  circular, and is split into `batch_size` equal parts from an offset drawn anew
  each epoch. So no row goes on from one epoch to the next: all rows start an
  epoch from the zero state.
  """

  def _count_steps(self) -> int:
    # A row's windows overlap by a character, and stay in its part of the text.
    return (len(self._ids) // self._batch_size - 1) // (self._size - 1)

  def _starts(self, epoch: int, index: int) -> np.ndarray:
    # Another offset in each epoch: else every window would always be the same.
    first = _generator(self._seed, epoch).integers(len(self._ids))
    parts = len(self._ids) * np.array(self.rows) // self._batch_size
    return first + parts + index * (self._size - 1)


def build_batches(
  ids: np.ndarray,
  config: Config,
  rows: range | None = None,
  table: np.ndarray | None = None,
) -> Batches:
  """Returns the batches of a text `[N]`, or these rows of them.

  They have the ids of the table, if there is one.

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
  # Different keys have independent streams; seed + epoch would repeat keys.
  return np.random.Generator(np.random.Philox(key=[seed, epoch]))
