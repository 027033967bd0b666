"""What a recurrent layer offers: all that charlm knows of one.

A layer of your own is a `RecurrentLayer`; docs/your-model.md shows one.

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
  """A Keras layer that runs over windows, and takes single steps.

  Besides the methods below, a layer has these two of Keras:

  - `build(shape)` makes its weights, for inputs of the shape `[None, None, D]`.
  - `call(sequences, initial_state=None, training=False)` runs over a window
    `[B, T, D]` from a state, by default the initial one. It returns the outputs
    `[B, T, H]` and the state after the window.

  Weights whose names have `bias` or `gain` in them are not decayed.
  """

  # The fields of `Config` that the constructor takes besides `units` and
  # `name`, as keyword arguments, and keeps as attributes.
  options: ClassVar[tuple[str, ...]] = ()
  # Whether XLA makes it faster: on a CPU the steps of few windows, on a GPU all
  # steps and scores. Not a layer that calls cuDNN, which XLA cannot.
  fast_with_xla: ClassVar[bool] = False

  units: int  # H

  def __init_subclass__(cls, **kwargs: object) -> None:
    super().__init_subclass__(**kwargs)
    # The default of `step` would project what is projected already.
    own_project = cls.project is not RecurrentLayer.project
    if own_project and cls.step is RecurrentLayer.step:
      raise TypeError(f"{cls.__name__} has a `project`: give it a `step`, too")

  def initial_state(self, batch_size: int | tf.Tensor) -> LayerState:
    """Returns the state before a text; by default zeros `[B, H]`."""
    return tf.zeros([batch_size, self.units])

  def get_config(self) -> dict[str, object]:
    """Returns the arguments of an equal layer, for Keras' `from_config`."""
    names = ("units", "name", *self.options)
    return {name: getattr(self, name) for name in names}

  def step(
    self, projected: tf.Tensor, state: LayerState
  ) -> tuple[tf.Tensor, LayerState]:
    """Takes one time step; meant for loops over characters.

    Takes what `project` returned for inputs `[B, D]`. Returns the output
    `[B, H]` and the state after. By default it runs `call`.
    """
    outputs, state = self.call(projected[:, tf.newaxis], initial_state=state)
    return outputs[:, 0], state

  def project(self, inputs: tf.Tensor) -> tf.Tensor:
    """Computes of inputs `[N, D]` what needs no state, `[N, P]`.

    Sampling does so once for each character of the vocabulary. A layer that
    overrides this must override `step`, too.
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
    """Lists the weights that Muon is to update, `[N, K * M]` each.

    With each is K, the number of its gates: Muon makes the part `[N, M]` of
    each gate nearly orthogonal. Adam updates all other weights.
    """
    return []

  def keras_layer(self) -> keras.layers.Layer | None:
    """Returns Keras' own layer with the same weights, if there is one.

    It is not built. It has `return_sequences=True` and `return_state=True`, and
    its weights are in the same order.
    """
    return None


def import_layer(spec: str) -> type[RecurrentLayer] | None:
  """Imports the class that `--layer=FILE.py:CLASS` names.

  The file is the user's own code, which is executed. Returns None for an empty
  text.

  Raises InputError: no such file, or no such class in it.
  """
  if not spec:
    return None
  file, _, name = spec.rpartition(":")
  file = os.path.expanduser(file)
  module_spec = importlib.util.spec_from_file_location("own_layer", file)
  if not os.path.isfile(file) or not module_spec or not module_spec.loader:
    raise InputError(f"layer is {spec!r}, no Python file: give FILE.py:CLASS")
  module = importlib.util.module_from_spec(module_spec)
  sys.modules["own_layer"] = module  # as dataclasses need it
  module_spec.loader.exec_module(module)
  kind = getattr(module, name, None)
  if not isinstance(kind, type) or not issubclass(kind, RecurrentLayer):
    raise InputError(
      f"{file} has no class {name} that inherits from charlm.RecurrentLayer: "
      "give FILE.py:CLASS"
    )
  return kind
