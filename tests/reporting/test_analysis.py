import numpy as np
import pytest

from charlm.reporting import analysis


def test_classes_cover_all_characters() -> None:
  text = "Ab c\n1,É é\t!"
  nats = np.arange(len(text), dtype=float)
  groups = analysis.by_class(text, nats, "utf-8")
  assert sum(group["num_characters"] for group in groups) == len(text)
  means = {group["name"]: group["mean_nats"] for group in groups}
  assert means == {
    "capital letter": (0 + 7) / 2,
    "other letter": (1 + 3 + 9) / 3,
    "space": (2 + 8 + 10) / 3,
    "newline": 4,
    "digit": 5,
    "punctuation": (6 + 11) / 2,
  }


def test_positions_in_words() -> None:
  text = "it is-abcdefghijkl 12"
  nats = np.zeros(len(text))
  nats[[0, 3, 6]] = 3  # the first letters
  nats[[16, 17]] = 1  # the 11th and the 12th
  # The first character is not scored.
  groups = analysis.by_position_in_word(" " + text, nats, "utf-8")
  assert [group["name"] for group in groups] == (
    [*map(str, range(1, 10)), "10 or more"]
  )
  assert [group["num_characters"] for group in groups] == [3, 3, *[1] * 7, 3]
  assert groups[0]["mean_nats"] == 3
  assert groups[-1]["mean_nats"] == pytest.approx(2 / 3)
  second, third = analysis.by_position_in_word("abc", np.arange(2.0), "utf-8")
  assert [(g["name"], g["mean_nats"]) for g in (second, third)] == [
    ("2", 0),
    ("3", 1),
  ]


def test_bytes_above_ascii_are_parts_of_letters() -> None:
  text = "É a".encode().decode("latin-1")
  groups = analysis.by_class(text, np.array([1.0, 2, 3, 4]), "latin-1")
  assert [(g["name"], g["num_characters"], g["mean_nats"]) for g in groups] == [
    ("byte above ASCII", 2, 1.5),
    ("other letter", 1, 4),
    ("space", 1, 3),
  ]
  groups = analysis.by_position_in_word(
    " " + text, np.array([1.0, 2, 3, 4]), "latin-1"
  )
  assert [(g["name"], g["mean_nats"]) for g in groups] == [("1", 2.5), ("2", 2)]


def test_context_lengths() -> None:
  nats = np.tile([9.0, 7, 5, 5, 4, 4, 4, 4, 3, 3], 3)[:-1]
  groups = analysis.by_context_length(nats, window=10)
  assert [(g["name"], g["num_characters"], g["mean_nats"]) for g in groups] == [
    ("1", 3, 9),
    ("2", 3, 7),
    ("3 to 4", 6, 5),
    ("5 to 8", 12, 4),
    ("9 to 10", 5, 3),
  ]


def test_worst_passages_do_not_overlap() -> None:
  nats = np.ones(1000)
  nats[300:310] = 5
  nats[700:705] = 4
  first, second = analysis.worst_passages(nats, length=10, number=2)
  assert first == (300, 5)
  assert 695 <= second[0] <= 700
  assert second[1] == pytest.approx(2.5)
  assert analysis.worst_passages(np.ones(25), 10, 9) == [(0, 1), (10, 1)]
  assert analysis.worst_passages(np.ones(5), 10) == [(0, 1)]


def test_costs_near_the_largest_of_float32_have_a_mean() -> None:
  (group,) = analysis.by_class("aaaa", np.full(4, 3e38, np.float32), "utf-8")
  assert group["mean_nats"] == pytest.approx(3e38)
