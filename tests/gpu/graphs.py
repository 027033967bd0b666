"""Inspects the graphs that a GPU would run, without a GPU.

TensorFlow's wheel lists its GPU kernels. `CPU:1` and later CPU devices stand
for GPUs, and `CPU:0` for the host.
"""

import collections
import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

from tensorflow.python.framework import kernels, op_def_registry

Graph = Any  # a function traced by `tf.function`
_LOOPS = ("While", "StatelessWhile")
# These launch no GPU kernel: they forward tensors or read shapes.
_FREE = {
  *("NoOp", "Identity", "IdentityN", "Const", "Placeholder", "StopGradient"),
  *("Reshape", "ExpandDims", "Squeeze", "Shape", "ShapeN", "EnsureShape"),
  *("ReadVariableOp", "VarHandleOp", "Size", "Rank", "PreventGradient"),
  *("TensorListReserve", "TensorListGetItem", "TensorListSetItem"),
  *("TensorListLength", "TensorListElementShape", "TensorListFromTensor"),
  *("PartitionedCall", "StatefulPartitionedCall", "If", "StatelessIf"),
  *_LOOPS,
}


class Node(NamedTuple):
  """A node that runs, and its place in the graph."""

  name: str
  op: str
  attr: Any
  depth: int  # number of enclosing loops
  node: Any
  nodes: dict[str, Any]  # the nodes of its function by name


def walk(function: Graph) -> Iterator[Node]:
  """Yields the nodes that a traced function runs, except those under XLA."""
  graph = function.graph.as_graph_def()
  library = {f.signature.name: f for f in graph.library.function}

  def visit(nodes: Any, depth: int) -> Iterator[Node]:
    """Yields nodes and the nodes of the functions that they call."""
    by_name = {node.name: node for node in nodes}
    for node in nodes:
      yield Node(node.name, node.op, node.attr, depth, node, by_name)
      inner = depth + (node.op in _LOOPS)
      for value in node.attr.values():
        called = library.get(value.func.name)
        if called and not called.attr["_XlaMustCompile"].b:
          yield from visit(called.node_def, inner)

  yield from visit(graph.node, 0)


@functools.cache
def _registered(op: str) -> list[Any]:
  """Returns an operation's kernels for GPUs, then those for all devices."""
  registered = kernels.get_registered_kernels_for_op(op).kernel
  usable = [k for k in registered if k.device_type in ("GPU", "DEFAULT")]
  return sorted(usable, key=lambda kernel: kernel.device_type != "GPU")


def _kernel(node: Any) -> Any:
  """Returns the GPU kernel for a node's types, or None."""
  op = op_def_registry.get(node.op)
  defaults = {attr.name: attr.default_value for attr in op.attr}

  def types(name: str) -> set[int]:
    """Returns the node's types for an attribute."""
    value = node.attr[name] if name in node.attr else defaults[name]
    return set(value.list.type) or {value.type}

  for kernel in _registered(node.op):
    if all(
      types(each.name) <= set(each.allowed_values.list.type)
      for each in kernel.constraint
    ):
      return kernel
  return None


def without_kernel(function: Graph) -> set[str]:
  """Returns the operations without a GPU kernel for their types."""
  return {
    n.op
    for n in walk(function)
    if op_def_registry.get(n.op) and not _kernel(n.node)
  }


def operations(function: Graph) -> collections.Counter[str]:
  """Counts the operations, including those of each call to a function."""
  return collections.Counter(node.op for node in walk(function))


def num_of_step(function: Graph) -> int:
  """Counts the operations of one step in the loop over steps.

  Excludes those that only forward tensors, and those that XLA compiles.
  """
  return sum(node.depth > 0 and node.op not in _FREE for node in walk(function))
