import numpy as np
import pytest

from charlm.data.permutation import permute

KEYS = np.random.default_rng(0).integers(2**64, size=[400, 8], dtype=np.uint64)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 16, 17, 255, 1000, 4097])
def test_it_is_a_permutation(size: int) -> None:
  for key in KEYS[:5]:
    places = permute(np.arange(size), size, key)
    assert sorted(places.tolist()) == list(range(size))


@pytest.mark.parametrize("size", [2**23 + 1, 10**10, 2**40 - 1])
def test_each_place_is_computed_alone(size: int) -> None:
  places = np.array([size - 1, 0, 12345, size // 2])
  together = permute(places, size, KEYS[0])
  alone = [permute(places[i : i + 1], size, KEYS[0])[0] for i in range(4)]
  assert together.tolist() == alone
  assert 0 <= together.min() <= together.max() < size
  assert len(set(together.tolist())) == 4


@pytest.mark.parametrize("size", [16, 50])
def test_pairs_of_places_are_sent_anywhere_alike(size: int) -> None:
  # The difference of the places of neighbours, on a ring, over many keys: all
  # but 0 are as likely. 3 sigma of chi-squared with `size - 2` degrees.
  counts = np.zeros(size)
  for key in KEYS:
    places = permute(np.arange(size), size, key)
    counts += np.bincount(
      np.diff(places, append=places[0]) % size, minlength=size
    )
  assert counts[0] == 0
  expected = counts.sum() / (size - 1)
  chi_squared = ((counts[1:] - expected) ** 2 / expected).sum()
  assert abs(chi_squared - (size - 2)) < 4 * (2 * (size - 2)) ** 0.5
