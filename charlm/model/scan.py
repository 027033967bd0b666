"""The loop over time, for any cell, with its own backpropagation through time.

Shapes: B rows of a batch, T time steps, F rows of the input kernel (features
or, with ids, entries of the vocabulary), H units, S time steps of a chunk.
Tensors are feature-major, `[T, features, B]`. The weights are then the left
factor of every matrix product, so oneDNN does not repack them at each time
step, and gates are split and concatenated as contiguous rows.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple, TypeAlias

import keras
import tensorflow as tf

from charlm.model.layers import LayerState, RecurrentLayer

_Size: TypeAlias = "int | tf.Tensor"
Tensors: TypeAlias = Sequence[tf.Tensor]
Gradients: TypeAlias = "Sequence[tf.Tensor | None]"  # None means zero

# For a vocabulary of at most this size, each entry is projected once, into a
# table, and each position looks up its row. For a larger one, each position is
# projected: the gradient of a table is a product with one-hot rows, whose cost
# grows with the vocabulary.
MAX_TABLE = 400
# The largest S * B and H * S * B of a chunk of several steps. Smaller chunks
# spend more time on adding up gradients, larger ones take more memory.
_COLUMNS = 1024
_ENTRIES = 2**19


class Cell:
  """One time step of a layer, forward and backward.

  The gates before their activations sum an input product and a recurrent
  product. The gradients with respect to them are the rows of a matrix
  `[num_gradients, B]`: the first `num_inputs` rows are the gradient of the
  input product, the last `num_recurrent` rows that of the recurrent product.
  """

  num_inputs: int
  num_recurrent: int
  num_gradients: int
  saved: tuple[int, ...]  # rows of each tensor saved for the backward pass

  def step(
    self,
    inputs: tf.Tensor,
    recurrent: tf.Tensor,
    state: Tensors,
    parameters: Tensors,
    axis: int = 0,
  ) -> tuple[Tensors, Tensors]:
    """Takes a time step.

    Training and scoring have the features in axis 0. Sampling has a row per
    text and the features in axis 1: XLA vectorises the gates of a few texts
    only in this layout.

    Args:
      inputs: the input product, bias included, `[num_inputs, B]`.
      recurrent: the recurrent product `[num_recurrent, B]`, which is the
        recurrent kernel times the first tensor of the state.
      state: tensors `[H, B]`; the first is the output of the previous step.
      parameters: further weights, `[rows, B]`, or `[rows]` if the axis is 1.
      axis: the axis of the features; if it is 1, all shapes are transposed.

    Returns the next state, and the tensors that `step_backward` needs.
    """
    raise NotImplementedError

  def step_backward(
    self, saved: Tensors, before: Tensors, d_after: Tensors
  ) -> tuple[Tensors, Gradients]:
    """Backpropagates through the same step.

    Args:
      saved: the tensors that `step` saved.
      before: the state before the step.
      d_after: the gradient with respect to the state after the step.

    Returns the rows of the gates' gradients, and the gradient with respect to
      the state before the step, except for its path through the recurrent
      product.
    """
    raise NotImplementedError

  def parameter_gradients(
    self, rows: tf.Tensor, dtype: tf.DType
  ) -> list[tf.Tensor]:
    """Sums the parameters' gradients over the gates' `[rows, S * B]`."""
    return []


def chunk_length(num_rows: int, units: int) -> int:
  """Returns S for B rows and H units, without regard to T."""
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
    cell: the equation of a time step.
    features: `[T, F, B]`, or ids `[T, B]` below F in place of one-hot features.
    kernel: the input kernel `[F, cell.num_inputs]`.
    recurrent_kernel: `[H, cell.num_recurrent]`.
    parameters: further weights of the cell, `[rows]`.
    state: tensors `[B, H]` before the first time step.
    product_dtype: the type of the matrix products, factors and results.

  Returns the outputs `[B, T, H]`, and the final value `[B, H]` of each tensor
    of the state but the first, whose final value is the last output.
  """

  @tf.custom_gradient
  def run(
    features: tf.Tensor,
    kernel: tf.Tensor,
    recurrent_kernel: tf.Tensor,
    *weights_and_state: tf.Tensor,
  ) -> tuple[tuple[tf.Tensor, ...], Callable[..., object]]:
    """Returns the results of `scan`, and the function for the gradients."""
    by_id = features.dtype.is_integer  # int64 below: a gather takes no uint8
    features = tf.cast(features, tf.int64 if by_id else product_dtype)
    # Cast in here: outside, the kernels' gradients would be rounded, too.
    kernel = tf.cast(kernel, product_dtype)
    recurrent_kernel = tf.cast(recurrent_kernel, product_dtype)
    states, saved = _forward(
      cell,
      features=features,
      kernel=kernel,
      recurrent_kernel=recurrent_kernel,
      parameters=weights_and_state[: len(parameters)],
      state=weights_and_state[len(parameters) :],
    )
    # Only the outputs are stacked; the backward pass reads the arrays.
    outputs, *others = states
    forward = _ForwardPass(
      cell=cell,
      features=features,
      kernel=kernel,
      recurrent_kernel=recurrent_kernel,
      states=states,
      saved=saved,
    )
    last = [tf.transpose(each.read(each.size() - 1)) for each in others]
    outputs = tf.transpose(outputs.stack()[1:], [2, 0, 1])
    return (outputs, *last), forward.gradients

  # In a graph, a custom gradient takes only positional arguments.
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
  """Returns the T + 1 states, and the tensors saved for the backward pass."""
  dtype, units = state[0].dtype, state[0].shape[1]
  num_steps = tf.shape(features)[0]
  by_id = features.dtype.is_integer
  # Transposed once, not in each time step.
  kernel = kernel if by_id else tf.transpose(kernel)
  recurrent_kernel = tf.transpose(recurrent_kernel)
  # B can be static in the features but not in the state.
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
    saved: Sequence[tf.TensorArray],
  ) -> tuple[object, ...]:
    """Takes time step t with its `x`, and reads the `x` of the next one."""
    x = x if by_id else tf.matmul(kernel, x)
    h = tf.cast(state[0], recurrent_kernel.dtype)
    recurrent = tf.cast(tf.matmul(recurrent_kernel, h), dtype)
    state, values = cell.step(tf.cast(x, dtype), recurrent, state, parameters)
    for each in state:
      each.set_shape(shape)  # a loop's variables keep their shapes
    saved = _write_all(saved, t, values)
    # A step ahead, since XLA does not vectorise gates that it fuses with the
    # look-up of x. The last x is unused.
    x = read((t + 1) % num_steps)
    return t + 1, x, list(state), _write_all(states, t + 1, state), saved

  array = functools.partial(tf.TensorArray, dtype, clear_after_read=False)
  arrays = [array(num_steps + 1, element_shape=shape) for _ in state]
  saved_shapes = [[num_rows, shape[1]] for num_rows in cell.saved]
  _, _, _, states, saved = tf.while_loop(
    lambda t, *_: t < num_steps,
    step,
    (
      0,
      read(0),
      state,
      _write_all(arrays, 0, state),
      [array(num_steps, element_shape=each) for each in saved_shapes],
    ),
    parallel_iterations=1,  # each time step needs the previous one
  )
  return states, saved


def _write_all(
  arrays: Sequence[tf.TensorArray], t: _Size, values: Tensors
) -> list[tf.TensorArray]:
  pairs = zip(arrays, values, strict=True)
  return [array.write(t, value) for array, value in pairs]


class _Carried(NamedTuple):
  """The gradients that a time step hands to the previous one."""

  d_state: Tensors  # [H, B] each
  d_features: Sequence[tf.TensorArray]  # of elements [F, B]; empty for ids


class _ForwardPass(NamedTuple):
  """The inputs and results of the forward pass, and its backward pass."""

  cell: Cell
  features: tf.Tensor
  # The kernels, and features that are not ids, are in the products' dtype.
  kernel: tf.Tensor
  recurrent_kernel: tf.Tensor
  states: Sequence[tf.TensorArray]  # each of T + 1 elements [H, B]
  saved: Sequence[tf.TensorArray]  # each of T elements

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
    """Backpropagates the gradients of the results of `scan` through time.

    Each chunk of time steps adds to a kernel's gradient with a single product.
    This is faster than a product per time step, and takes less memory than one
    for all of them.

    Returns the gradients of features (None if they are ids), kernel, recurrent
      kernel, parameters, and state.
    """
    dtype = d_outputs.dtype
    num_steps = self.features.shape[0] or tf.shape(self.features)[0]
    size = 1  # if T is not static: XLA needs a static size that divides it
    if isinstance(num_steps, int):
      # 64, the default of `Config`, if the batch size is unknown.
      length = chunk_length(self.features.shape[-1] or 64, self.units)
      size = min(length, num_steps)
    num_chunks, rest = num_steps // size, num_steps % size

    def step(
      i: tf.Tensor, sums: Tensors, carried: _Carried
    ) -> tuple[tf.Tensor, Tensors, _Carried]:
      """Backpropagates through chunk `i`."""
      sums, carried = self._chunk_gradients(
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
      (num_chunks - 1, self._zero_sums(dtype), carried),
      parallel_iterations=1,
    )
    if isinstance(rest, int) and rest:
      sums, carried = self._chunk_gradients(
        d_outputs=d_outputs, start=0, size=rest, sums=sums, carried=carried
      )
    d_kernel, d_recurrent, *d_parameters = sums
    d_features = carried.d_features
    # In the order of the arguments of `run`.
    return (
      None if self.by_id else tf.cast(d_features[0].stack(), dtype),
      tf.transpose(d_kernel),
      d_recurrent,
      *d_parameters,
      *map(tf.transpose, carried.d_state),
    )

  def _zero_sums(self, dtype: tf.DType) -> list[tf.Tensor]:
    """Returns zeros in the shapes of the kernels' and parameters' gradients."""
    cell = self.cell
    no_rows = tf.zeros([cell.num_gradients, 0], dtype)
    return [
      tf.zeros([cell.num_inputs, self.depth], dtype),
      tf.zeros([self.units, cell.num_recurrent], dtype),
      *cell.parameter_gradients(no_rows, dtype),
    ]

  def _chunk_gradients(
    self,
    *,
    d_outputs: tf.Tensor,
    start: _Size,
    size: _Size,
    sums: Tensors,
    carried: _Carried,
  ) -> tuple[list[tf.Tensor], _Carried]:
    """Backpropagates through the `size` time steps from `start` on.

    Returns the sums, with the chunk's gradients of kernel `[num_inputs, F]`,
    recurrent kernel, and parameters added; and the gradients that go to the
    previous chunk.
    """
    dtype, cell = d_outputs.dtype, self.cell
    d_outputs = tf.slice(d_outputs, [0, start, 0], [-1, size, -1])
    d_outputs = tf.transpose(d_outputs, [1, 2, 0])  # [S, H, B]
    d_gates, carried = self._gate_gradients(
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
    gradients = [
      tf.matmul(d_gates[: cell.num_inputs], inputs),
      tf.matmul(previous, d_recurrent_rows, transpose_b=True),
      *cell.parameter_gradients(d_gates, dtype),
    ]
    pairs = zip(sums, gradients, strict=True)
    return [total + tf.cast(x, dtype) for total, x in pairs], carried

  def _gate_gradients(
    self, *, d_outputs: tf.Tensor, start: _Size, size: _Size, carried: _Carried
  ) -> tuple[tf.Tensor, _Carried]:
    """Backpropagates the gradient of a chunk's outputs `[S, H, B]`.

    Returns the gates' gradients `[num_gradients, S * B]`, and the gradients
    that go to the previous chunk.
    """
    product_dtype, cell = self.kernel.dtype, self.cell
    shape = self.states[0].element_shape

    def step(
      i: tf.Tensor, d_gates: tf.TensorArray, carried: _Carried
    ) -> tuple[tf.Tensor, tf.TensorArray, _Carried]:
      """Backpropagates through time step `start + i`."""
      t, ((d_h, *d_others), d_features) = start + i, carried
      rows, (d_before, *d_others) = cell.step_backward(
        saved=[array.read(t) for array in self.saved],
        before=[array.read(t) for array in self.states],
        # Two gradients meet: h is output t, and step t + 1 starts from it.
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
  """Puts the time steps of x `[S, N, B]` side by side: `[N, S * B]`."""
  num_rows = x.shape[1] or tf.shape(x)[1]
  return tf.reshape(tf.transpose(x, [1, 0, 2]), [num_rows, -1])


class CellLayer(RecurrentLayer):
  """A layer whose time step is a `Cell`; subclasses also inherit from Keras'.

  Sampling runs the cell step by step. In a `ScannedLayer`, training and scoring
  run the same cell.
  """

  plain: ClassVar[type[keras.layers.RNN]]  # Keras' own layer

  def __init__(self, units: int, **options: Any) -> None:
    """Takes `name` and `dtype` as Keras does."""
    super().__init__(units, return_sequences=True, return_state=True, **options)

  def equation(self) -> Cell:
    """Returns the cell."""
    raise NotImplementedError

  def parameters(self) -> list[tf.Tensor]:
    """Returns the cell's further weights, each `[rows]`."""
    return []

  def step(
    self, projected: tf.Tensor, state: LayerState
  ) -> tuple[tf.Tensor, LayerState]:
    """Returns the output `[B, H]` and the next state."""
    flat = tf.nest.flatten(state)
    recurrent = tf.matmul(flat[0], self.cell.recurrent_kernel)
    parameters = self.parameters()
    after, _ = self.equation().step(
      projected, recurrent, flat, parameters, axis=1
    )
    return after[0], tf.nest.pack_sequence_as(state, list(after))

  def matrices(self) -> list[tuple[keras.Variable, int]]:
    """Lists both kernels, each with its number of gates."""
    kernels = self.cell.kernel, self.cell.recurrent_kernel
    return [(kernel, kernel.shape[1] // self.units) for kernel in kernels]

  def keras_layer(self) -> keras.layers.Layer:
    """Returns Keras' own layer."""
    return self.plain(
      self.units, return_sequences=True, return_state=True, name=self.name
    )


class ScannedLayer(CellLayer):
  """A layer that runs its cell with `scan`, in place of Keras' loop.

  Results and weights are those of Keras' layer, and checkpoints are
  interchangeable (except .weights.h5 files of functional models, which name
  layers by their class). It has no second derivatives.

  `precision` applies only in training: `bfloat16` rounds the factors and the
  result of each matrix product, but only the result of the table of `call_ids`.
  """

  options: ClassVar[tuple[str, ...]] = ("precision",)
  fast_with_xla: ClassVar[bool] = True

  def __init__(
    self, units: int, precision: str = "float32", **options: Any
  ) -> None:
    """Takes `name` and `dtype`, too, but no other arguments of Keras."""
    super().__init__(units, **options)
    self.precision = precision

  def input_kernel(self) -> tf.Tensor:
    """Returns the kernel `[D + 1, num_inputs]`, whose last row is the bias."""
    raise NotImplementedError

  def call(
    self,
    sequences: tf.Tensor,
    initial_state: LayerState = None,
    training: bool = False,
  ) -> tuple[tf.Tensor, LayerState]:
    """Runs over a window `[B, T, D]`, T at least 1.

    Returns the outputs `[B, T, H]`, and the state after the last one.
    """
    if sequences.shape[0] == 1 and not training:
      # For a single text, one product for all time steps is faster than one per
      # time step. Its rows become the table, and the time steps the ids.
      num_steps = sequences.shape[1] or tf.shape(sequences)[1]
      return self._run(
        features=tf.range(num_steps)[:, None],
        kernel=self.project(sequences[0]),
        state=initial_state,
        training=training,
      )
    # A constant feature of 1 multiplies the bias, the last row of the kernel.
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
    """Computes `call(tf.gather(embeddings, ids))` faster.

    Up to a V of `MAX_TABLE`, it projects each embedding once, into a table, and
    not at each occurrence.

    Ids `[B, T]` must be below V, the number of embeddings `[V, D]`: others
    cause an error or a wrong result.
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
    """Runs over features `[T, D + 1, B]`, given their kernel.

    Or over ids `[T, B]`, given a table `[V, num_inputs]` as the kernel.
    """
    zeros = self.initial_state(tf.shape(features)[-1])
    flat = tf.nest.flatten(zeros if state is None else state)
    in_bfloat16 = {"float32": False, "bfloat16": training}[self.precision]
    outputs, *others = scan(
      self.equation(),
      features=features,
      kernel=kernel,
      recurrent_kernel=tf.convert_to_tensor(self.cell.recurrent_kernel),
      parameters=self.parameters(),
      state=[tf.cast(each, self.compute_dtype) for each in flat],
      product_dtype=tf.as_dtype(
        "bfloat16" if in_bfloat16 else self.compute_dtype
      ),
    )
    outputs.set_shape([features.shape[-1], features.shape[0], self.units])
    last = [outputs[:, -1], *others]
    return outputs, tf.nest.pack_sequence_as(zeros, last)
