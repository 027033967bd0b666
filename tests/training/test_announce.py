import pytest

from charlm.training.announce import ProgressBar


def test_a_terminal_gets_a_bar_that_fits(
  monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
  monkeypatch.setattr("sys.stdout.isatty", lambda: True)
  for columns, expected in ((200, "[==========..........]"), (40, "loss 1.")):
    monkeypatch.setenv("COLUMNS", str(columns))
    ProgressBar(400, 100, 0).show(150, 1.25, 45_678.9)
    out = capsys.readouterr().out
    assert out.startswith("\r\x1b[Kepoch 2/4 step 150/400 loss 1.")
    assert expected in out
    assert len(out) - len("\r\x1b[K") < columns
  assert "\n" not in out


def test_a_file_gets_few_plain_lines(
  capsys: pytest.CaptureFixture[str],
) -> None:
  line = ProgressBar(400, 100, 0)
  for step in (100, 200, 300, 400):
    line.show(step, 1.25, 45_678.9)
  out = capsys.readouterr().out
  assert out.startswith(
    "epoch 1/4 step 100/400 loss 1.2500 (1.8034 bits) 45,679 characters/s"
  )
  # The first and the last one: the others came too soon.
  assert out.count("\n") == 2
  assert out.endswith("0:00:00 left\n")
  assert "\r" not in out


def test_the_time_is_told_once_and_without_the_first_call(
  monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
  # The first call compiles for a minute; a step takes a second after it.
  times = {1: 60.0, 5: 64.0, 10: 69.0, 40: 99.0}
  monkeypatch.setattr("time.monotonic", lambda: times.get(step, 0.0))
  step = 0
  bar = ProgressBar(1_000, 100, step)
  for step in times:  # which the clock reads
    bar.show(step, 1.25, 100.0)
  told = [x for x in capsys.readouterr().out.splitlines() if "about" in x]
  assert told == ["time     about 17 min left"]  # 990 steps
