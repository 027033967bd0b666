"""Looks into graphs as a GPU would run them; no GPU is needed.

TensorFlow's wheel lists the kernels that it has for GPUs. The devices are CPU
devices: `CPU:1` and those after it stand for GPUs, and `CPU:0` for the host.
"""

import collections
import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import tensorflow as tf
from tensorflow.python.framework import kernels, op_def_registry
from tensorflow.python.framework.convert_to_constants import (
  convert_variables_to_constants_v2,
)

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
# Their kernels hold them on the host, whatever kernel it is.
_HOST_TYPES = {
  dtype.as_datatype_enum
  for dtype in (tf.int32, tf.resource, tf.string, tf.variant)
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


def launches(function: Graph) -> collections.Counter[str]:
  """Counts the kernels that one step of the loop over steps starts.

  At most: TensorFlow removes some of them later. A loop inside of the step
  counts once.
  """
  counts: collections.Counter[str] = collections.Counter()
  for found in walk(function):
    if not found.depth or found.op in _FREE or _pinned(found.node):
      continue
    _, outputs = _arguments(found.node)
    on_host = [
      _on_host(found.nodes, found.name, i) for i in range(len(outputs))
    ]
    if not on_host or not all(on_host):
      counts[found.op] += 1
  return counts


def waits(function: Graph) -> set[str]:
  """Returns what in the loop reads on the host what a GPU has computed."""
  found = set()
  for each in walk(function):
    if not each.depth or each.op in _LOOPS or not op_def_registry.get(each.op):
      continue
    inputs, _ = _arguments(each.node)
    kernel = _kernel(each.node)
    host = set(kernel.host_memory_arg) if kernel else set()
    for source, (name, _) in zip(each.node.input, inputs, strict=False):
      if source.startswith("^") or not (name in host or _pinned(each.node)):
        continue
      producer, *where = source.split(":")
      index = _index(each.nodes.get(producer), where)
      if producer in each.nodes and not _on_host(each.nodes, producer, index):
        found.add(
          f"{each.nodes[producer].op} {producer} -> {each.op} {each.name}"
        )
  return found


def _index(node: Any, where: list[str]) -> int:
  """Returns the number of an output, of `name:output:i` or `name:i`."""
  if node is None or not where:
    return 0
  if len(where) == 1:
    return int(where[0])
  _, outputs = _arguments(node)
  names = [name for name, _ in outputs]
  return names.index(where[0]) + int(where[1])


def _pinned(node: Any) -> bool:
  """Tells whether a node was put on the host."""
  return node.device.endswith("CPU:0")


def _on_host(nodes: dict[str, Any], name: str, index: int) -> bool:
  """Tells whether an output of a node is in the host's memory."""
  node = nodes[name]
  _, outputs = _arguments(node)
  if _pinned(node) or index >= len(outputs) or _constant(nodes, name):
    return True
  argument, kind = outputs[index]
  kernel = _kernel(node)
  if node.op in ("Identity", "Placeholder") or node.op in _LOOPS:
    source = node.input[0].split(":")[0] if node.op == "Identity" else ""
    if source in nodes:
      where = node.input[0].split(":")[1:]
      return _on_host(nodes, source, _index(nodes[source], where))
    return kind in _HOST_TYPES
  return kind in _HOST_TYPES or argument in (
    set(kernel.host_memory_arg) if kernel else ()
  )


def _constant(nodes: dict[str, Any], name: str) -> bool:
  """Tells whether TensorFlow can compute a node before it runs the graph."""
  node = nodes.get(name)
  op = op_def_registry.get(node.op) if node else None
  if not op or op.is_stateful or node.op == "Placeholder":
    return False
  sources = [source.split(":")[0] for source in node.input if source[0] != "^"]
  return node.op == "Const" or (
    bool(sources) and all(_constant(nodes, source) for source in sources)
  )


def _arguments(node: Any) -> tuple[list[tuple[str, int]], ...]:
  """Returns names and types of a node's inputs and of its outputs."""
  op = op_def_registry.get(node.op)
  if not op:
    return [], []
  found: tuple[list[tuple[str, int]], ...] = ([], [])
  for args, kept in zip((op.input_arg, op.output_arg), found, strict=True):
    for arg in args:
      if arg.type_list_attr:
        kinds = list(node.attr[arg.type_list_attr].list.type)
      else:
        kind = arg.type or node.attr[arg.type_attr].type
        kinds = [kind] * (
          node.attr[arg.number_attr].i if arg.number_attr else 1
        )
      kept.extend((arg.name, kind) for kind in kinds)
  return found


def lower(function: Graph, arguments: list[tf.Tensor]) -> str:
  """Returns a traced function as XLA's HLO for a GPU.

  Raises an error of TensorFlow: XLA cannot compile it for a GPU.
  """
  frozen = convert_variables_to_constants_v2(function, lower_control_flow=False)
  compiled = tf.function(
    lambda *tensors: frozen(*tensors), jit_compile=True, autograph=False
  )
  make = compiled.experimental_get_compiler_ir(*arguments)
  return make(stage="hlo", platform_name="GPU")
