"""The loop over time, forward and back in chunks, which knows no cell.

Shapes: B rows of a batch, T time steps, F rows of the input's kernel (features
or, with ids, entries of the vocabulary), H units, S time steps of a chunk.
Tensors are feature-major, `[T, features, B]`: the weights, as the left factor
of every matrix product, need not be repacked at every time step, and gates are
split and joined without strides.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple, TypeAlias

import keras
import tensorflow as tf

from charlm.model.layers import LayerState, RecurrentLayer

_Size: TypeAlias = "int | tf.Tensor"
Tensors: TypeAlias = Sequence[tf.Tensor]
Gradients: TypeAlias = "Sequence[tf.Tensor | None]"  # None: nothing comes

# Up to this many entries of the vocabulary each entry is projected once, into a
# table, and positions are looked up. Above, each position is projected: a
# table's gradient is a product with one-hot rows, whose cost grows with the
# vocabulary (BUILD.md).
MAX_TABLE = 400
# The largest S * B of a chunk of several steps: with a smaller one, the sums
# over chunks take longer, and with a larger one, memory grows. And the largest
# H * S * B, which shortens chunks where H is large.
_COLUMNS = 1024
_ENTRIES = 2**19


class Cell:
  """One time step of a layer, forward and back.

  A step has rows of gradients, `[rows, B]` each, with respect to the gates
  before their activations. The input's product takes the first `num_inputs` of
  them, the recurrent product the last `num_recurrent`.
  """

  num_inputs: int
  num_recurrent: int
  num_gradients: int
  kept: tuple[int, ...]  # the rows of each tensor that a step keeps

  def step(
    self,
    inputs: tf.Tensor,
    recurrent: tf.Tensor,
    state: Tensors,
    parameters: Tensors,
    axis: int = 0,
  ) -> tuple[Tensors, Tensors]:
    """Takes a time step.

    Training and scoring have their features in axis 0. Sampling has a row for
    each text, and its features in axis 1: XLA vectorises the gates of a few
    texts only there.

    Args:
      inputs: the product of the input, bias included, `[num_inputs, B]`.
      recurrent: the product of the first tensor of the state.
      state: tensors `[H, B]`; the first is the output of the step before.
      parameters: further weights, `[rows, B]`, or `[rows]` if the axis is 1.
      axis: 0, or 1 if all of these have their axes the other way round.

    Returns the state after, and what `step_back` needs.
    """
    raise NotImplementedError

  def step_back(
    self, kept: Tensors, before: Tensors, d_after: Tensors
  ) -> tuple[Tensors, Gradients]:
    """Takes the same step back.

    Args:
      kept: what `step` returned.
      before: the state before the step.
      d_after: the gradient with respect to the state after it.

    Returns the rows of gradients, and the gradient with respect to the state
      before, without what comes through the recurrent product.
    """
    raise NotImplementedError

  def parameter_gradients(
    self, rows: tf.Tensor, dtype: tf.DType
  ) -> list[tf.Tensor]:
    """Sums up the gradients of the parameters, given rows `[rows, S * B]`."""
    return []


def chunk_length(num_rows: int, units: int) -> int:
  """Returns S for B rows and H units, unless T is smaller."""
  return max(1, min(_COLUMNS, _ENTRIES // units) // num_rows)


def scan(
  cell: Cell,
  *,
  features: tf.Tensor,
  kernel: tf.Tensor,
  recurrent_kernel: tf.Tensor,
  parameters: Tensors,
  state: Tensors,
  product_dtype: tf.DType,
) -> tuple[tf.Tensor, ...]:
  """Runs a cell over time.

  Args:
    cell: the equation.
    features: `[T, F, B]`, or ids `[T, B]` below F in place of one-hot features.
    kernel: of the features, `[F, cell.num_inputs]`.
    recurrent_kernel: of the state, `[H, cell.num_recurrent]`.
    parameters: further weights of the cell, `[rows]`.
    state: tensors `[B, H]` before the first time step.
    product_dtype: of the factors and the results of the matrix products.

  Returns the outputs `[B, T, H]`, and the last of each further tensor of the
    state, `[B, H]`.
  """

  @tf.custom_gradient
  def run(
    features: tf.Tensor,
    kernel: tf.Tensor,
    recurrent_kernel: tf.Tensor,
    *weights_and_state: tf.Tensor,
  ) -> tuple[tuple[tf.Tensor, ...], Callable[..., object]]:
    """Returns the outputs, and the function for the gradients."""
    by_id = features.dtype.is_integer  # int64 below: a gather takes no uint8
    features = tf.cast(features, tf.int64 if by_id else product_dtype)
    # Cast in here: outside, their gradients would be rounded, too.
    kernel = tf.cast(kernel, product_dtype)
    recurrent_kernel = tf.cast(recurrent_kernel, product_dtype)
    states, kept = _forward(
      cell,
      features=features,
      kernel=kernel,
      recurrent_kernel=recurrent_kernel,
      parameters=weights_and_state[: len(parameters)],
      state=weights_and_state[len(parameters) :],
    )
    # Only the outputs are kept as one tensor; the gradient reads the arrays.
    outputs, *others = states
    computed = _Computed(
      cell=cell,
      features=features,
      kernel=kernel,
      recurrent_kernel=recurrent_kernel,
      states=states,
      kept=kept,
    )
    last = [tf.transpose(each.read(each.size() - 1)) for each in others]
    outputs = tf.transpose(outputs.stack()[1:], [2, 0, 1])
    return (outputs, *last), computed.gradients

  # By position: in a graph TensorFlow takes no other arguments here.
  return run(features, kernel, recurrent_kernel, *parameters, *state)


def _forward(
  cell: Cell,
  *,
  features: tf.Tensor,
  kernel: tf.Tensor,
  recurrent_kernel: tf.Tensor,
  parameters: Tensors,
  state: Tensors,
) -> tuple[list[tf.TensorArray], list[tf.TensorArray]]:
  """Returns the T + 1 states, and what the steps back need."""
  dtype, units = state[0].dtype, state[0].shape[1]
  num_steps = tf.shape(features)[0]
  by_id = features.dtype.is_integer
  # Once, not in every time step.
  kernel = kernel if by_id else tf.transpose(kernel)
  recurrent_kernel = tf.transpose(recurrent_kernel)
  # B may be static in the features though it is not in the state.
  shape = tf.TensorShape([units, features.shape[-1]])
  state = [tf.ensure_shape(tf.transpose(each), shape) for each in state]
  parameters = [x[:, None] + tf.zeros_like(state[0][:1]) for x in parameters]

  def read(t: int | tf.Tensor) -> tf.Tensor:
    """Returns the features of time step t or, for ids, their projections."""
    x = features[t]
    return tf.transpose(tf.gather(kernel, x)) if by_id else x

  def step(
    t: tf.Tensor,
    x: tf.Tensor,
    state: Tensors,
    states: Sequence[tf.TensorArray],
    kept: Sequence[tf.TensorArray],
  ) -> tuple[object, ...]:
    """Computes time step t from its `x`; returns the `x` of the next, too."""
    x = x if by_id else tf.matmul(kernel, x)
    h = tf.cast(state[0], recurrent_kernel.dtype)
    recurrent = tf.cast(tf.matmul(recurrent_kernel, h), dtype)
    state, values = cell.step(tf.cast(x, dtype), recurrent, state, parameters)
    for each in state:
      each.set_shape(shape)  # a loop's variables keep their shapes
    kept = _written(kept, t, values)
    # XLA would not vectorise gates that look up x. The last x is unused.
    x = read((t + 1) % num_steps)
    return t + 1, x, list(state), _written(states, t + 1, state), kept

  array = functools.partial(tf.TensorArray, dtype, clear_after_read=False)
  arrays = [array(num_steps + 1, element_shape=shape) for _ in state]
  rows = [[number, shape[1]] for number in cell.kept]
  _, _, _, states, kept = tf.while_loop(
    lambda t, *_: t < num_steps,
    step,
    (
      0,
      read(0),
      state,
      _written(arrays, 0, state),
      [array(num_steps, element_shape=each) for each in rows],
    ),
    parallel_iterations=1,  # a time step needs the one before
  )
  return states, kept


def _written(
  arrays: Sequence[tf.TensorArray], t: _Size, values: Tensors
) -> list[tf.TensorArray]:
  pairs = zip(arrays, values, strict=True)
  return [array.write(t, value) for array, value in pairs]


class _Carried(NamedTuple):
  """What goes back in time from one time step to the one before it."""

  d_state: Tensors  # [H, B] each
  d_features: Sequence[tf.TensorArray]  # of elements [F, B]; none for ids


class _Computed(NamedTuple):
  """What the loop over time read and computed."""

  cell: Cell
  features: tf.Tensor
  # These two, and features that are not ids, are in the dtype of the products.
  kernel: tf.Tensor
  recurrent_kernel: tf.Tensor
  states: Sequence[tf.TensorArray]  # of T + 1 elements [H, B] each
  kept: Sequence[tf.TensorArray]  # of what each time step keeps

  @property
  def units(self) -> int:
    """H."""
    return int(self.states[0].element_shape[0])

  @property
  def depth(self) -> _Size:
    """F."""
    return self.kernel.shape[0] or tf.shape(self.kernel)[0]

  @property
  def by_id(self) -> bool:
    """Whether the features are ids."""
    return bool(self.features.dtype.is_integer)

  def gradients(
    self, d_outputs: tf.Tensor, *d_last: tf.Tensor
  ) -> tuple[object, ...]:
    """Propagates the gradients of what `scan` returns back in time.

    A chunk of time steps adds to the gradient of a kernel by one product. That
    is faster than a product for each step, and takes less memory than one for
    all of them.

    Returns the gradients of features (None if they are ids), kernel, recurrent
      kernel, parameters, and state.
    """
    dtype = d_outputs.dtype
    num_steps = self.features.shape[0] or tf.shape(self.features)[0]
    size = 1  # divides any T: XLA needs a static size, and T may not be static
    if isinstance(num_steps, int):
      # Where the batch size is unknown, `Config`'s default.
      length = chunk_length(self.features.shape[-1] or 64, self.units)
      size = min(length, num_steps)
    num_chunks, rest = num_steps // size, num_steps % size

    def step(
      i: tf.Tensor, sums: Tensors, carried: _Carried
    ) -> tuple[tf.Tensor, Tensors, _Carried]:
      """Goes back over the chunk `i`."""
      sums, carried = self._chunk(
        d_outputs=d_outputs,
        start=rest + i * size,
        size=size,
        sums=sums,
        carried=carried,
      )
      return i - 1, sums, carried

    zeros = tf.zeros_like(self.states[0].read(0))  # [H, B]
    array = [] if self.by_id else [tf.TensorArray(self.kernel.dtype, num_steps)]
    carried = _Carried([zeros, *map(tf.transpose, d_last)], array)
    _, sums, carried = tf.while_loop(
      lambda i, *_: i >= 0,
      step,
      (num_chunks - 1, self._no_sums(dtype), carried),
      parallel_iterations=1,
    )
    if isinstance(rest, int) and rest:
      sums, carried = self._chunk(
        d_outputs=d_outputs, start=0, size=rest, sums=sums, carried=carried
      )
    d_kernel, d_recurrent, *d_parameters = sums
    d_features = carried.d_features
    # In the order of the arguments of the scan.
    return (
      None if self.by_id else tf.cast(d_features[0].stack(), dtype),
      tf.transpose(d_kernel),
      d_recurrent,
      *d_parameters,
      *map(tf.transpose, carried.d_state),
    )

  def _no_sums(self, dtype: tf.DType) -> list[tf.Tensor]:
    """Returns zeros for the gradients of kernels and parameters."""
    cell = self.cell
    no_rows = tf.zeros([cell.num_gradients, 0], dtype)
    return [
      tf.zeros([cell.num_inputs, self.depth], dtype),
      tf.zeros([self.units, cell.num_recurrent], dtype),
      *cell.parameter_gradients(no_rows, dtype),
    ]

  def _chunk(
    self,
    *,
    d_outputs: tf.Tensor,
    start: _Size,
    size: _Size,
    sums: Tensors,
    carried: _Carried,
  ) -> tuple[list[tf.Tensor], _Carried]:
    """Goes back over the `size` time steps from `start` on.

    Adds to the sums, which are the gradients of kernel `[num_inputs, F]`,
    recurrent kernel, and parameters.
    """
    dtype, cell = d_outputs.dtype, self.cell
    d_outputs = tf.slice(d_outputs, [0, start, 0], [-1, size, -1])
    d_outputs = tf.transpose(d_outputs, [1, 2, 0])  # [S, H, B]
    d_gates, carried = self._propagate(
      d_outputs=d_outputs, start=start, size=size, carried=carried
    )
    previous = self.states[0].gather(start + tf.range(size))
    previous = _columns(tf.cast(previous, d_gates.dtype))  # [H, S * B]
    if self.by_id:
      ids = tf.reshape(tf.slice(self.features, [start, 0], [size, -1]), [-1])
      inputs = tf.one_hot(ids, self.depth, dtype=d_gates.dtype)
    else:
      features = tf.slice(self.features, [start, 0, 0], [size, -1, -1])
      inputs = tf.transpose(_columns(features))  # [S * B, F]
    d_recurrent_rows = d_gates[-cell.num_recurrent :]
    found = [
      tf.matmul(d_gates[: cell.num_inputs], inputs),
      tf.matmul(previous, d_recurrent_rows, transpose_b=True),
      *cell.parameter_gradients(d_gates, dtype),
    ]
    pairs = zip(sums, found, strict=True)
    return [total + tf.cast(x, dtype) for total, x in pairs], carried

  def _propagate(
    self, *, d_outputs: tf.Tensor, start: _Size, size: _Size, carried: _Carried
  ) -> tuple[tf.Tensor, _Carried]:
    """Propagates the gradient of a chunk's outputs `[S, H, B]` back in time.

    Returns the gradients `[rows, S * B]` of the steps, and what it carries.
    """
    product_dtype, cell = self.kernel.dtype, self.cell
    shape = self.states[0].element_shape

    def step(
      i: tf.Tensor, d_gates: tf.TensorArray, carried: _Carried
    ) -> tuple[tf.Tensor, tf.TensorArray, _Carried]:
      """Goes back over the time step `start + i`."""
      t, ((d_h, *d_others), d_features) = start + i, carried
      rows, (d_before, *d_others) = cell.step_back(
        kept=[array.read(t) for array in self.kept],
        before=[array.read(t) for array in self.states],
        # The state after step t is an output, and what step t + 1 started from.
        d_after=[d_h + d_outputs[i], *d_others],
      )
      rows = tf.concat([tf.cast(d, product_dtype) for d in rows], axis=0)
      product = self.recurrent_kernel @ rows[-cell.num_recurrent :]
      d_h = tf.cast(product, d_outputs.dtype)
      if d_before is not None:
        d_h = d_before + d_h
      d_state = [d_h, *d_others]
      for each in d_state:
        each.set_shape(shape)  # a loop's variables keep their shapes
      d_inputs = rows[: cell.num_inputs]
      d_features = [a.write(t, self.kernel @ d_inputs) for a in d_features]
      return i - 1, d_gates.write(i, rows), _Carried(d_state, d_features)

    row_shape = [cell.num_gradients, shape[1]]
    d_gates = tf.TensorArray(product_dtype, size, element_shape=row_shape)
    _, d_gates, carried = tf.while_loop(
      lambda i, *_: i >= 0,
      step,
      (size - 1, d_gates, carried),
      parallel_iterations=1,
    )
    return _columns(d_gates.stack()), carried


def _columns(x: tf.Tensor) -> tf.Tensor:
  """Sets the time steps of x `[S, N, B]` side by side: `[N, S * B]`."""
  num_rows = x.shape[1] or tf.shape(x)[1]
  return tf.reshape(tf.transpose(x, [1, 0, 2]), [num_rows, -1])


class CellLayer(RecurrentLayer):
  """A layer of Keras whose time step is a `Cell`; a subclass is Keras' layer.

  Scoring, sampling and training share this step, where charlm's loop runs it.
  """

  plain: ClassVar[type[keras.layers.RNN]]  # Keras' own layer

  def __init__(self, units: int, **options: Any) -> None:
    """Takes the `name` and the `dtype`, as Keras does."""
    super().__init__(units, return_sequences=True, return_state=True, **options)

  def equation(self) -> Cell:
    """Returns the cell."""
    raise NotImplementedError

  def parameters(self) -> list[tf.Tensor]:
    """Returns the cell's further weights, `[rows]` each."""
    return []

  def step(
    self, projected: tf.Tensor, state: LayerState
  ) -> tuple[tf.Tensor, LayerState]:
    """Returns the output `[B, H]` and the state after an input."""
    flat = tf.nest.flatten(state)
    recurrent = tf.matmul(flat[0], self.cell.recurrent_kernel)
    parameters = self.parameters()
    after, _ = self.equation().step(
      projected, recurrent, flat, parameters, axis=1
    )
    return after[0], tf.nest.pack_sequence_as(state, list(after))

  def matrices(self) -> list[tuple[keras.Variable, int]]:
    """Lists both kernels, each with the number of its gates."""
    kernels = self.cell.kernel, self.cell.recurrent_kernel
    return [(kernel, kernel.shape[1] // self.units) for kernel in kernels]

  def keras_layer(self) -> keras.layers.Layer:
    """Returns a plain layer of Keras."""
    return self.plain(
      self.units, return_sequences=True, return_state=True, name=self.name
    )


class ScannedLayer(CellLayer):
  """A layer that runs its cell by `scan`; a subclass is Keras' layer, too.

  It computes what Keras' layer does, with the same weights, which are
  interchangeable in checkpoints (except .weights.h5 files of functional models,
  which name layers by their class). Its gradients cannot be differentiated
  again.

  `precision` acts in training alone: `bfloat16` rounds factors and result of
  each matrix product; of the table of `call_ids`, the result alone.
  """

  options: ClassVar[tuple[str, ...]] = ("precision",)
  fast_with_xla: ClassVar[bool] = True

  def __init__(
    self, units: int, precision: str = "float32", **options: Any
  ) -> None:
    """Takes the `name` and the `dtype`, too; other arguments are refused."""
    super().__init__(units, **options)
    self.precision = precision

  def input_kernel(self) -> tf.Tensor:
    """Returns the kernel `[D + 1, num_inputs]` of inputs, then of a 1."""
    raise NotImplementedError

  def call(
    self,
    sequences: tf.Tensor,
    initial_state: LayerState = None,
    training: bool = False,
  ) -> tuple[tf.Tensor, LayerState]:
    """Runs over a window `[B, T, D]`, T at least 1.

    Returns the outputs `[B, T, H]`, and the state after the last of them.
    """
    if sequences.shape[0] == 1 and not training:
      # One text: a product for all time steps is faster than one in each. Its
      # rows are a table, in which a time step is an id.
      num_steps = sequences.shape[1] or tf.shape(sequences)[1]
      return self._run(
        features=tf.range(num_steps)[:, None],
        kernel=self.project(sequences[0]),
        state=initial_state,
        training=training,
      )
    # The bias is the kernel's row for one more feature, which is always 1.
    features = tf.concat([sequences, tf.ones_like(sequences[..., :1])], axis=2)
    return self._run(
      features=tf.transpose(features, [1, 2, 0]),  # [T, D + 1, B]
      kernel=self.input_kernel(),
      state=initial_state,
      training=training,
    )

  def call_ids(
    self,
    ids: tf.Tensor,
    embeddings: tf.Tensor,
    initial_state: LayerState = None,
    training: bool = False,
  ) -> tuple[tf.Tensor, LayerState]:
    """Runs over a window of ids: `call(tf.gather(embeddings, ids))`, faster.

    If V is at most `MAX_TABLE`, each embedding is projected once, in a table,
    not at each occurrence.

    Ids `[B, T]` must be below V, the number of embeddings `[V, D]`: others give
    an error or a wrong result.
    """
    embeddings = tf.convert_to_tensor(embeddings)
    if (embeddings.shape[0] or 0) > MAX_TABLE:
      sequences = tf.gather(embeddings, ids)
      return self.call(sequences, initial_state, training=training)
    return self._run(
      features=tf.transpose(ids),
      kernel=self.project(embeddings),
      state=initial_state,
      training=training,
    )

  def _run(
    self,
    *,
    features: tf.Tensor,
    kernel: tf.Tensor,
    state: LayerState,
    training: bool,
  ) -> tuple[tf.Tensor, LayerState]:
    """Runs over features `[T, D + 1, B]` with a kernel for them.

    Or over ids `[T, B]` with a table `[V, num_inputs]` in place of the kernel.
    """
    zeros = self.initial_state(tf.shape(features)[-1])
    flat = tf.nest.flatten(zeros if state is None else state)
    short = {"float32": False, "bfloat16": training}[self.precision]
    outputs, *others = scan(
      self.equation(),
      features=features,
      kernel=kernel,
      recurrent_kernel=tf.convert_to_tensor(self.cell.recurrent_kernel),
      parameters=self.parameters(),
      state=[tf.cast(each, self.compute_dtype) for each in flat],
      product_dtype=tf.as_dtype("bfloat16" if short else self.compute_dtype),
    )
    outputs.set_shape([features.shape[-1], features.shape[0], self.units])
    last = [outputs[:, -1], *others]
    return outputs, tf.nest.pack_sequence_as(zeros, last)
