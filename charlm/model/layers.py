"""The interface of a recurrent layer, which is all that charlm uses of it.

A layer of your own inherits from `RecurrentLayer` (docs/your-model.md).

Shapes: B rows of a batch, T time steps, D inputs, H units. A state is any
structure of float32 tensors `[B, ...]`.
"""

import importlib.util
import os
import sys
from typing import Any, ClassVar, TypeAlias

import keras
import tensorflow as tf

from charlm.errors import InputError

LayerState: TypeAlias = Any  # any structure of tensors `[B, ...]`


class RecurrentLayer(keras.layers.Layer):
  """A Keras layer that runs over windows, and takes single time steps.

  Besides the methods below, implement two methods of Keras:

  - `build(shape)` makes the weights for inputs of the shape `[None, None, D]`.
  - `call(sequences, initial_state=None, training=False)` runs over a window
    `[B, T, D]` from a state, by default the initial one. It returns the outputs
    `[B, T, H]` and the state after the window.

  Weight decay skips weights whose names contain `bias` or `gain`.
  """

  # The fields of `Config` that the constructor takes as keyword arguments,
  # besides `units` and `name`, and stores as attributes.
  options: ClassVar[tuple[str, ...]] = ()
  # Whether XLA speeds it up: on a CPU the training steps with few windows, on a
  # GPU all of training and scoring. False for a layer that calls cuDNN, which
  # XLA cannot.
  fast_with_xla: ClassVar[bool] = False

  units: int  # H

  def __init_subclass__(cls, **kwargs: object) -> None:
    super().__init_subclass__(**kwargs)
    # The default `step` calls `call`, which would project a second time.
    own_project = cls.project is not RecurrentLayer.project
    if own_project and cls.step is RecurrentLayer.step:
      raise TypeError(f"{cls.__name__} has a `project`: give it a `step`, too")

  def initial_state(self, batch_size: int | tf.Tensor) -> LayerState:
    """Returns the state at the start of a text; by default zeros `[B, H]`."""
    return tf.zeros([batch_size, self.units])

  def get_config(self) -> dict[str, object]:
    """Returns the constructor's arguments, for Keras' `from_config`."""
    names = ("units", "name", *self.options)
    return {name: getattr(self, name) for name in names}

  def step(
    self, projected: tf.Tensor, state: LayerState
  ) -> tuple[tf.Tensor, LayerState]:
    """Takes one time step; meant for loops over characters.

    Takes the result of `project` for inputs `[B, D]`. Returns the output
    `[B, H]` and the next state. By default it runs `call`.
    """
    outputs, state = self.call(projected[:, tf.newaxis], initial_state=state)
    return outputs[:, 0], state

  def project(self, inputs: tf.Tensor) -> tf.Tensor:
    """Computes the part of a step that needs no state: `[N, D]` to `[N, P]`.

    Sampling calls it once, for all characters of the vocabulary. A layer that
    overrides it must override `step`, too.
    """
    return inputs

  def call_ids(
    self,
    ids: tf.Tensor,
    embeddings: tf.Tensor,
    initial_state: LayerState = None,
    training: bool = False,
  ) -> tuple[tf.Tensor, LayerState]:
    """Runs over the embeddings `[V, D]` of ids `[B, T]`, as `call` does."""
    sequences = tf.gather(embeddings, ids)
    return self(sequences, initial_state=initial_state, training=training)

  def matrices(self) -> list[tuple[keras.Variable, int]]:
    """Lists the matrices `[N, K * M]` that Muon updates, each with K.

    K is the number of gates: Muon orthogonalises the part `[N, M]` of each gate
    separately. Adam updates all other weights.
    """
    return []

  def keras_layer(self) -> keras.layers.Layer | None:
    """Returns an unbuilt layer of Keras with the same weights, if there is one.

    It has `return_sequences=True` and `return_state=True`, and its weights are
    in the same order.
    """
    return None


def import_layer(spec: str) -> type[RecurrentLayer] | None:
  """Imports the class that `--layer=FILE.py:CLASS` names.

  This executes the file, which is the user's own code. Returns None for an
  empty string.

  Raises InputError: the file does not exist, or has no such class.
  """
  if not spec:
    return None
  file, _, name = spec.rpartition(":")
  file = os.path.expanduser(file)
  module_spec = importlib.util.spec_from_file_location("own_layer", file)
  if not os.path.isfile(file) or not module_spec or not module_spec.loader:
    raise InputError(f"layer is {spec!r}, no Python file: give FILE.py:CLASS")
  module = importlib.util.module_from_spec(module_spec)
  sys.modules["own_layer"] = module  # dataclasses look it up there
  module_spec.loader.exec_module(module)
  kind = getattr(module, name, None)
  if not isinstance(kind, type) or not issubclass(kind, RecurrentLayer):
    raise InputError(
      f"{file} has no class {name} that inherits from charlm.RecurrentLayer: "
      "give FILE.py:CLASS"
    )
  return kind
