"""Properties that hold for any Unicode text."""

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from charlm.config import Config
from charlm.data.batches import Batches
from charlm.data.cleaning import clean_pieces
from charlm.data.vocabulary import build_vocabulary, decode, encode
from charlm.sampling.generator import GenerativeModel
from charlm.system.devices import create_strategy
from charlm.training.trainer import build_trainer

# Everything but halves of a surrogate pair, which no UTF-8 file holds.
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))


@given(TEXTS)
def test_any_text_round_trips_through_its_vocabulary(text: str) -> None:
  lines = "".join(clean_pieces([text])).split("\n")
  vocab = build_vocabulary(lines)
  assert decode(encode("\n".join(lines), vocab), vocab) == "\n".join(lines)


@settings(max_examples=3, deadline=None, derandomize=True)
@given(TEXTS)
def test_any_text_trains_and_samples_its_own_characters(text: str) -> None:
  lines = "".join(clean_pieces([text * 50])).split("\n")
  assume(len("\n".join(lines)) > 40)
  vocab = build_vocabulary(lines)
  config = Config(embedding_dim=4, rnn_units=8, seq_length=5, batch_size=4)
  batches = Batches(encode("\n".join(lines), vocab), 5, 4)
  trainer = build_trainer(config, len(vocab), batches, create_strategy(1, 4))
  loss, _ = trainer.take_steps(2)
  assert np.isfinite(loss)
  sample = GenerativeModel(trainer.model, vocab).generate_n_chars(60, lines[0])
  assert len(sample) == 60 + len(lines[0])
  assert set(sample) <= set(vocab)
