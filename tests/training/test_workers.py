import errno
import types

import pytest

from charlm.errors import DivergedError, InputError, LostRunError
from charlm.training.options import TrainOptions
from charlm.training.workers import _FAILED, _READY, Workers, check_equal


class Chief(Workers):
  """Notes what it tells the others."""

  def __init__(self) -> None:
    super().__init__(types.SimpleNamespace(final_barrier=lambda: None))
    self.told: list[int] = []

  def _share(self, number: int) -> tuple[int, bool]:
    self.told.append(number)
    return number, False


@pytest.mark.parametrize(
  ("error", "code"),
  [
    (InputError("bad"), 2),
    (OSError(errno.ENOSPC, "full"), 2),
    (DivergedError("not finite"), 3),
    (LostRunError("moved"), 4),
    (KeyboardInterrupt(), 130),
    (SystemExit(143), 143),  # of SIGUSR1
    (ValueError("a mistake"), 1),
  ],
)
def test_the_others_end_as_the_chief_does(
  error: BaseException, code: int
) -> None:
  chief = Chief()
  with pytest.raises(type(error)), chief.chief_works():
    raise error
  assert chief.told == [_FAILED + code]


@pytest.mark.parametrize(
  ("change", "named"),
  [
    (
      {"learning_rate": 0.5},
      "learning_rate .0.00125 on worker 0, 0.5 on worker 1.: start all",
    ),
    ({"commit": "b", "new_flag": 1}, "differ: commit .* on worker 0, b on "),
    ({"new_flag": 1}, "new_flag .None on worker 0, 1 on worker 1.: start all"),
  ],
)
def test_what_differs_between_workers_is_named(
  change: dict[str, object], named: str
) -> None:
  cluster = types.SimpleNamespace(
    num_workers=2,
    exchange=lambda facts: [facts, facts | change],
    final_barrier=lambda: None,
    name=lambda index: f"worker {index}",
  )
  with pytest.raises(InputError, match=named):
    check_equal(cluster, TrainOptions(), "0")


def test_the_others_go_on_when_the_chief_has_worked() -> None:
  chief = Chief()
  with chief.chief_works():
    pass
  assert chief.told == [_READY]
