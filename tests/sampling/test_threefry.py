import numpy as np
import pytest
import tensorflow as tf

from charlm.sampling.threefry import _threefry, sample_keys, uniform_numbers


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
  words = [np.uint32([word]) for word in (*key, *counter)]
  tensors = [tf.constant(word) for word in words]
  compiled = tf.function(_threefry, jit_compile=True)
  for got in (_threefry(*words), _threefry(*tensors), compiled(*tensors)):
    assert tuple(int(word[0]) for word in got) == expected


def test_uniform_numbers_fill_the_unit_interval() -> None:
  keys = sample_keys(np.uint32([1, 2]), np.arange(100, dtype=np.uint32))
  u = uniform_numbers(keys, tf.constant([[3]]), 1000).numpy()
  assert 0 <= u.min() < 1e-4
  assert 1 - 1e-4 < u.max() < 1
  assert len(np.unique(u)) > 99_000
  # 100,000 numbers: four standard deviations of the mean are 0.0037.
  assert abs(u.mean() - 0.5) < 0.004


def test_a_number_depends_on_key_position_and_lane_alone() -> None:
  keys = sample_keys(np.uint32([1, 2]), np.arange(3, dtype=np.uint32))
  positions = np.array([[0, 5, 2**20], [7, -1, 1]], np.int32)  # [S, B]
  words = np.uint32(positions)[:, :, np.newaxis]
  lanes = np.arange(9, dtype=np.uint32)
  bits, _ = _threefry(
    keys[0][:, np.newaxis], keys[1][:, np.newaxis], words + 0 * lanes, lanes
  )
  expected = (bits >> 8).astype(np.float32) * np.float32(2**-24)
  found = uniform_numbers(keys, tf.constant(positions), 9)
  np.testing.assert_array_equal(found, expected)
  same = uniform_numbers(keys, tf.constant([[5], [-1]]), 4)
  np.testing.assert_array_equal(same[0, 1], expected[0, 1, :4])
  np.testing.assert_array_equal(same[1, 1], expected[1, 1, :4])


def test_the_numbers_of_a_seed_stay_as_they_are() -> None:
  # Golden values: others would silently give other texts of the same seed.
  keys = sample_keys(np.uint32([1, 2]), np.arange(2, dtype=np.uint32))
  numbers = uniform_numbers(keys, tf.constant([[5, 5], [5, 6]]), 3)
  first = [3174889, 14397681, 3051277]
  expected = [
    [first, [15547776, 15659156, 909640]],
    [first, [3631041, 16390927, 16153911]],
  ]
  np.testing.assert_array_equal(numbers * 2**24, expected)
