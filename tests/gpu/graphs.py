"""Looks into graphs as a GPU would run them; no GPU is needed.

TensorFlow's wheel lists the kernels that it has for GPUs. The devices are CPU
devices: `CPU:1` and those after it stand for GPUs, and `CPU:0` for the host.
"""

import collections
import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

from tensorflow.python.framework import kernels, op_def_registry

Graph = Any  # a function in the form that TensorFlow's `tf.function` traces
_LOOPS = ("While", "StatelessWhile")
# These start no kernel on a GPU: they pass tensors on, or read shapes.
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
  """A node that runs, and where."""

  name: str
  op: str
  attr: Any
  depth: int  # how many loops it is in
  node: Any
  nodes: dict[str, Any]  # those of its function, by name


def walk(function: Graph) -> Iterator[Node]:
  """Yields what a traced function runs, but for what XLA compiles."""
  graph = function.graph.as_graph_def()
  library = {f.signature.name: f for f in graph.library.function}

  def visit(nodes: Any, depth: int) -> Iterator[Node]:
    """Yields nodes, and those of the functions that they call."""
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
  """Returns an operation's kernels for GPUs, those for all devices last."""
  found = kernels.get_registered_kernels_for_op(op).kernel
  here = [k for k in found if k.device_type in ("GPU", "DEFAULT")]
  return sorted(here, key=lambda kernel: kernel.device_type != "GPU")


def _kernel(node: Any) -> Any:
  """Returns the kernel of a GPU for a node's types, None if there is none."""
  op = op_def_registry.get(node.op)
  defaults = {attr.name: attr.default_value for attr in op.attr}

  def types(name: str) -> set[int]:
    """Returns the types that a node has for an attribute."""
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
  """Returns the operations for whose types GPUs have no kernel."""
  return {
    n.op
    for n in walk(function)
    if op_def_registry.get(n.op) and not _kernel(n.node)
  }


def operations(function: Graph) -> collections.Counter[str]:
  """Counts the operations, each function as often as it is called."""
  return collections.Counter(node.op for node in walk(function))


def num_of_step(function: Graph) -> int:
  """Counts the operations of a step of the loop over steps.

  Not those that only pass tensors on, nor what XLA compiles.
  """
  return sum(node.depth > 0 and node.op not in _FREE for node in walk(function))
