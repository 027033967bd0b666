"""No size of a model keeps a compiler busy for long."""

import sweep


def test_no_combination_of_sizes_takes_long_to_compile() -> None:
  # Each of these numbers of units and rows hung at each multiple of 8, when
  # the random numbers were made in the loop over characters.
  of_each_use = {c.use: c for c in sweep.drawn(seed=1)}
  combinations = [*sweep.hung()[::7], *of_each_use.values()]
  for combination, seconds in sweep.sweep(combinations, 1, most=60):
    assert seconds < 60, combination
