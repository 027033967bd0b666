"""PyTorch's contestant: eager `nn.GRU` or `nn.LSTM`."""

import torch
from torch import nn

from benchmarks.task import LEARNING_RATE, Run, Sizes, Text, timed
from charlm.data.batches import Batches


class CharacterModel(nn.Module):
  """Embedding, recurrent layers, and a linear layer."""

  def __init__(self, sizes: Sizes, vocab_size: int) -> None:
    super().__init__()
    self.embedding = nn.Embedding(vocab_size, sizes.embedding_dim)
    kind = nn.LSTM if sizes.layer == "lstm" else nn.GRU
    self.layers = kind(
      sizes.embedding_dim,
      sizes.rnn_units,
      sizes.num_layers,
      batch_first=True,
    )
    self.linear = nn.Linear(sizes.rnn_units, vocab_size)

  def forward(self, inputs: torch.Tensor) -> torch.Tensor:
    """Returns logits `[B, T, V]` of ids `[B, T]`."""
    outputs, _ = self.layers(self.embedding(inputs))
    return self.linear(outputs)


def build_step(sizes: Sizes, text: Text) -> Run:
  """Training steps, with products in float32 or in bfloat16."""
  batches = Batches(text.train_ids, sizes.seq_length, sizes.batch_size)
  device = "cuda" if torch.cuda.is_available() else "cpu"
  model = CharacterModel(sizes, len(text.vocab)).to(device)
  optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE)
  bfloat16 = sizes.precision == "bfloat16"
  step = 0

  def take_steps(num_steps: int) -> None:
    nonlocal step
    for _ in range(num_steps):
      windows = torch.from_numpy(batches.batch(step)).to(device).long()
      with torch.autocast(device, torch.bfloat16, enabled=bfloat16):
        logits = model(windows[:, :-1])
      loss = nn.functional.cross_entropy(
        logits.float().flatten(0, 1), windows[:, 1:].flatten()
      )
      optimizer.zero_grad()
      loss.backward()
      optimizer.step()
      step += 1
    loss.item()  # waits for a GPU, whose calls return early

  return timed(take_steps)
