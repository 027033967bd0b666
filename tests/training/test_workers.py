import errno
import types

import pytest

from charlm.errors import DivergedError, InputError, LostRunError
from charlm.training.workers import _DONE, _FAILED, Workers


class Chief(Workers):
  """Notes what it tells the others."""

  def __init__(self) -> None:
    super().__init__(types.SimpleNamespace(final_barrier=lambda: None))
    self.told: list[int] = []

  def _tell(self, number: int) -> tuple[int, bool]:
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


def test_the_others_go_on_when_the_chief_has_worked() -> None:
  chief = Chief()
  with chief.chief_works():
    pass
  assert chief.told == [_DONE]
