import numpy as np
import pytest
import tensorflow as tf

from charlm.threefry import _threefry, sample_keys, uniform_numbers


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
  u = uniform_numbers(keys, tf.constant(3), 1000).numpy()
  assert 0 <= u.min() < 1e-4
  assert 1 - 1e-4 < u.max() < 1
  assert len(np.unique(u)) > 99_000
  # 100,000 numbers: four standard deviations of the mean are 0.0037.
  assert abs(u.mean() - 0.5) < 0.004
