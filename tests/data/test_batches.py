import itertools

import numpy as np
import pytest
from helpers import SHAKESPEARE_VOCAB as VOCAB

from charlm.data.batches import (
  Batches,
  ContinuedBatches,
)
from charlm.data.corpus import encode_text
from charlm.data.tensors import create_batch_dataset
from charlm.data.vocabulary import encode, extend_vocab
from charlm.errors import InputError


def test_each_epoch_shuffles_all_windows_anew() -> None:
  ids = np.arange(12 * 5 + 3, dtype=np.uint8)
  batches = Batches(ids, seq_length=4, batch_size=4, seed=3)
  assert batches.steps_per_epoch == 3
  epochs = [
    np.concatenate([batches.batch(3 * epoch + i) for i in range(3)])
    for epoch in range(3)
  ]
  for windows in epochs:
    starts = sorted(windows[:, 0].tolist())
    assert starts == list(range(0, 60, 5))
    assert (np.diff(windows.astype(int), axis=1) == 1).all()
  assert not np.array_equal(epochs[0], epochs[1])
  assert not np.array_equal(epochs[1], epochs[2])


def test_a_batch_depends_only_on_seed_and_step() -> None:
  ids = np.arange(250, dtype=np.uint8)
  args = {"seq_length": 4, "batch_size": 5}
  in_order = Batches(ids, **args, seed=1)
  expected = [in_order.batch(step) for step in range(40)]
  jumping = Batches(ids, **args, seed=1)
  for step in (39, 3, 17, 3):
    np.testing.assert_array_equal(jumping.batch(step), expected[step])
  other = Batches(ids, **args, seed=2)
  assert not np.array_equal(other.batch(0), expected[0])


def test_the_batches_of_seed_0_never_change() -> None:
  # Golden values: another order would silently change every resumed run.
  for kind, expected in (
    (Batches, [[190, 60, 80, 140], [10, 90, 70, 190]]),
    (ContinuedBatches, [[6, 56, 106, 156], [13, 63, 113, 163]]),
  ):
    batches = kind(np.arange(200, dtype=np.uint8), 9, 4)  # 0 is the default
    firsts = [batches.batch(step)[:, 0].tolist() for step in (0, 7)]
    assert firsts == expected


def test_the_dataset_yields_the_trainers_batches(lines: list[str]) -> None:
  ids = encode("\n".join(lines), VOCAB)
  batches = Batches(ids, 20, 16, seed=5)
  served = create_batch_dataset(lines, VOCAB, 20, 16, seed=5)
  step = 0
  for _ in range(2):
    for inputs, targets in served:
      windows = batches.batch(step)
      np.testing.assert_array_equal(inputs, windows[:, :-1])
      np.testing.assert_array_equal(targets, windows[:, 1:])
      step += 1
  assert step == 2 * batches.steps_per_epoch


def test_a_text_shorter_than_a_batch_is_refused() -> None:
  Batches(np.zeros(4 * 5, np.uint8), 4, 4)
  with pytest.raises(InputError, match="fewer than one batch"):
    Batches(np.zeros(4 * 5 - 1, np.uint8), 4, 4)
  ContinuedBatches(np.zeros(4 * 5, np.uint8), 4, 4)
  with pytest.raises(InputError, match="fewer than one batch"):
    ContinuedBatches(np.zeros(4 * 5 - 1, np.uint8), 4, 4)


def test_continued_rows_resume_where_the_last_batch_ended() -> None:
  # Each id is its position in the circular text of 97.
  ids, seq_length, rows = np.arange(97, dtype=np.uint8), 5, 4
  batches = ContinuedBatches(ids, seq_length, rows, seed=3)
  assert batches.steps_per_epoch == (97 // 4 - 1) // 5
  first_places = []
  for epoch in range(3):
    steps = range(batches.steps_per_epoch)
    windows = [
      batches.batch(epoch * batches.steps_per_epoch + i).astype(int)
      for i in steps
    ]
    for window in windows:
      assert (np.diff(window, axis=1) % 97 == 1).all()
    for before, after in itertools.pairwise(windows):
      # The last target is the next input.
      np.testing.assert_array_equal(before[:, -1], after[:, 0])
    inputs = np.concatenate([window[:, :-1].ravel() for window in windows])
    assert len(set(inputs)) == len(inputs)
    first_places.append(windows[0][0, 0])
  assert len(set(first_places)) == 3


@pytest.mark.parametrize("kind", [Batches, ContinuedBatches])
def test_a_table_maps_batches_to_the_ids_of_a_vocabulary(
  kind: type, lines: list[str]
) -> None:
  string = "\n".join(lines)
  vocab = extend_vocab(["[UNK]", "", *"zyx"], string.replace("k", ""))
  text = encode_text([string]).text
  expected = kind(encode(string, vocab), 13, 5, seed=4)
  batches = kind(text.ids, 13, 5, seed=4, table=text.table(vocab))
  assert batches.steps_per_epoch == expected.steps_per_epoch
  for step in range(0, 2 * batches.steps_per_epoch, 7):
    batch = batches.batch(step)
    assert batch.dtype == np.uint8
    np.testing.assert_array_equal(batch, expected.batch(step))
