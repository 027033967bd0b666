import re

import pytest

from charlm.config import Config
from charlm.data.corpus import encode_text
from charlm.data.split import split_text
from charlm.system.messages import beginning, say, warn
from charlm.training.announce import Screen, _line, describe_text


def _screen(last_step: int = 400) -> Screen:
  return Screen(
    last_step=last_step,
    steps_per_epoch=100,
    part="valid",
    unit="character",
    prefix="Is",
    temperature=0.7,
  )


@pytest.mark.parametrize("columns", [200, 80, 40])
def test_a_terminal_gets_a_bar_that_fits(
  columns: int,
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture[str],
) -> None:
  monkeypatch.setattr("sys.stdout.isatty", lambda: True)
  monkeypatch.setenv("COLUMNS", str(columns))
  _screen().show_progress(100, 1.25, 45_678.9)
  bar = capsys.readouterr().out
  assert len(bar) == min(columns - 3, 79)
  assert "step 100/400  loss 1.2500" in bar
  if columns > 40:  # a quarter of the run is done
    done, left = re.match(r"\[(=+)(\.+)\]", bar).groups()
    assert len(done) == (len(done) + len(left)) // 4
  # Any other output replaces the bar.
  warn("too hot")
  say("done\n")
  assert capsys.readouterr() == ("\r\x1b[Kdone\n", "too hot\n")


def test_without_a_terminal_progress_is_an_occasional_line(
  capsys: pytest.CaptureFixture[str],
) -> None:
  screen = _screen()
  for step in (100, 200, 300, 400):
    screen.show_progress(step, 1.25, 45_678.9)
  # The others came too soon after the first.
  assert capsys.readouterr().out == ("step 100/400  loss 1.2500\n")


def test_the_time_left_excludes_compilation(
  monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
  # The first call compiles for a minute; a step takes a second after it.
  now = 60.0
  monkeypatch.setattr("time.monotonic", lambda: now)
  screen = _screen(last_step=1_000)
  shown = []
  for step in (1, 5, 31, 41, 971):
    screen.show_progress(step, 1.25, 100.0)
    shown.append(capsys.readouterr().out.partition("loss 1.2500")[2].strip())
    if step == 31:  # the first evaluation takes another minute
      screen.leave_out(60)
      now += 60
    now += {1: 4.0, 5: 26.0, 31: 10.0, 41: 930.0}.get(step, 0.0)
  # Lines are half a minute apart.
  times = ["16 min left", "16 min left", "29 s left"]
  assert shown == ["", "", *(f"100 characters/s  {time}" for time in times)]


def test_an_evaluation_shows_a_line_and_two_rows_of_its_sample(
  capsys: pytest.CaptureFixture[str],
) -> None:
  screen = _screen()
  sample = f" this\t\u3000\x1b[31m\n\n{'a' * 100}\nno"
  for train_loss, is_best in ((2.5, True), (None, False)):
    screen.show_evaluation(
      1250, train_loss=train_loss, loss=2.25, is_best=is_best, sample=sample
    )
  assert capsys.readouterr().out.splitlines() == [
    "epoch      step  train loss  valid loss  (nats per character)",
    "         samples of temperature 0.7, after 'Is'",
    " 12.5     1,250      2.5000      2.2500  best so far",
    "          this   \u3000\ufffd[31m",
    f"         {'a' * 70}",
    " 12.5     1,250                  2.2500",
    "          this   \u3000\ufffd[31m",
    f"         {'a' * 70}",
  ]


def test_lines_fit_on_the_screen() -> None:
  assert _line("run", "runs/my") == "run      runs/my\n"
  assert _line("run", "a" * 71) == f"run      {'a' * 67}...\n"
  assert beginning("\u6c34" * 9, 5) == "\u6c34" * 2  # two columns each


def test_invisible_carriage_returns_are_announced() -> None:
  config = Config(raw=True)
  for end, announced in (("\r\n", True), ("\n", False)):
    corpus = encode_text([f"a line{end}" * 30])
    split = split_text(corpus.text, config)
    text = describe_text(config, corpus, split, corpus.text.characters)
    assert ("carriage returns" in text) == announced
