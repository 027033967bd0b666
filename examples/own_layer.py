"""Trains, scores and samples a layer of your own: IndRNN (arXiv 1803.04831).

    python examples/own_layer.py my.txt runs/indrnn

docs/your-model.md explains each step.
"""

import sys

import keras
import tensorflow as tf

import charlm


class IndRNN(charlm.RecurrentLayer):
  """h = relu(x W + b + u * h): each unit sees only its own last state."""

  def __init__(self, units: int, name: str | None = None) -> None:
    super().__init__(name=name)
    self.units = units

  def build(self, shape: list[int | None]) -> None:
    self.kernel = self.add_weight([shape[-1], self.units], name="kernel")
    self.bias = self.add_weight([self.units], "zeros", name="bias")
    self.recurrent = self.add_weight(
      [self.units], "random_uniform", name="recurrent"
    )

  def call(
    self,
    sequences: tf.Tensor,
    initial_state: tf.Tensor | None = None,
    training: bool = False,
  ) -> tuple[tf.Tensor, tf.Tensor]:
    if initial_state is None:
      initial_state = self.initial_state(tf.shape(sequences)[0])
    projected = tf.matmul(sequences, self.kernel) + self.bias
    steps = tf.transpose(projected, [1, 0, 2])  # [T, B, H]
    states = tf.scan(self.next_state, steps, initial_state)
    return tf.transpose(states, [1, 0, 2]), states[-1]

  def next_state(self, state: tf.Tensor, projected: tf.Tensor) -> tf.Tensor:
    return tf.nn.relu(projected + self.recurrent * state)

  def matrices(self) -> list[tuple[keras.Variable, int]]:
    return [(self.kernel, 1)]  # for Muon: one gate


def main(corpus: str, run_dir: str) -> None:
  exit_code = charlm.train(
    layer=IndRNN, corpus=corpus, run_dir=run_dir, rnn_units=128, epochs=1
  )
  if exit_code:  # stopped, or something was not saved: run it again to resume
    sys.exit(exit_code)
  model = charlm.load(run_dir, layer=IndRNN)
  print(model.score(["To be, or not to be"]))
  print(model.generate("The ", num_chars=100)[0].text)


if __name__ == "__main__":
  if len(sys.argv) != 3:
    print("give two arguments: own_layer.py CORPUS RUN_DIR", file=sys.stderr)
    sys.exit(2)
  main(sys.argv[1], sys.argv[2])
