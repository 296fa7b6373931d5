"""What a SavedModel serves: the part of its graph that its signature runs, once every operator in it is known.

Only the file is read; nothing in it is run. What runs when TensorFlow loads such a folder itself, its initializers and
what restores its variables, is left out, as are functions that nothing calls.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgernn.errors import ConversionError, EdgeRNNError, UnsupportedLayerError
from edgernn.files import read_file
from edgernn.quantize.saved_graphs.operators import HARMLESS, REASONS
from edgernn.quiet import quiet_stderr
from edgernn.text import one_line

__all__ = ["Served", "read_served", "served_of"]

LARGEST = 2**31 - 1  # bytes: what a protobuf message can have
SIGNATURE = "serving_default"
SAVE = "save the model itself, with model.save('model.keras')"
CALLS = ("PartitionedCall", "StatefulPartitionedCall")


@dataclass(frozen=True)
class Served:
    """A graph that computes outputs from inputs and variables."""

    graph: Any
    """`GraphDef`: nodes and functions that the outputs need, each operator on the list of the harmless ones."""
    inputs: Mapping[str, Any]
    """`TensorInfo` (tensor, dtype, shape) by name."""
    outputs: Mapping[str, str]
    """Tensors by name."""
    variables: Mapping[str, tuple[str, ...]]
    """Where in the checkpoint, from its root, the variable is that each tensor stands for."""


def read_served(folder: Path) -> Served:
    """Read `saved_model.pb` in a folder.

    Raises `ConversionError` where it is damaged or serves nothing, `UnsupportedLayerError` naming an operator that is
    not run from files.
    """
    with quiet_stderr():
        from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    try:
        model = SavedModel.FromString(read_file(folder / "saved_model.pb", LARGEST))
        return served_of(model)
    except EdgeRNNError as error:
        raise type(error)(f"{folder}: {error}") from error
    except Exception as error:  # a message may be valid and still contradict itself in ways that nobody thought of
        reason = one_line(f"{type(error).__name__}: {error}")
        raise ConversionError(f"{folder} cannot be read as a SavedModel: {reason}") from error


def served_of(model: Any) -> Served:
    """Take out of a `SavedModel` message what it serves; see `read_served`."""
    meta = next((item for item in model.meta_graphs if "serve" in item.meta_info_def.tags), None)
    if meta is None or SIGNATURE not in meta.signature_def:
        found = [name for item in model.meta_graphs for name in item.signature_def if not name.startswith("__")]
        raise ConversionError(
            f"it has no signature {SIGNATURE} to be run ({', '.join(found) or 'nor any other'}): export the model anew "
            f"with model.export(folder), or {SAVE}"
        )
    signature = meta.signature_def[SIGNATURE]
    inputs, outputs = _ordered(signature.inputs), {key: info.name for key, info in _ordered(signature.outputs).items()}
    graph = type(meta.graph_def)()
    graph.versions.CopyFrom(meta.graph_def.versions)
    graph.node.extend(_needed({node.name: node for node in meta.graph_def.node}, outputs.values()))
    variables = _variables(graph, meta.object_graph_def)
    graph.library.function.extend(_called(graph, meta.graph_def.library, variables))
    for nodes in (graph.node, *(function.node_def for function in graph.library.function)):
        _forget_hints(nodes)
    return Served(graph, inputs, outputs, variables)


def _ordered(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a signature names in the order of the numbers in the names: output_2 before output_10."""

    def place(name: str) -> list[tuple[int, str]]:
        return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"([0-9]+)", name)]

    return {name: tensors[name] for name in sorted(tensors, key=place)}


def _node_of(tensor: str) -> str:
    return tensor.lstrip("^").partition(":")[0]


def _needed(nodes: Mapping[str, Any], tensors: Iterable[str]) -> Iterator[Any]:
    """Yield the nodes that tensors come from, each once."""
    waiting, seen = [_node_of(tensor) for tensor in tensors], set()
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting.extend(map(_node_of, nodes[name].input))
            yield nodes[name]


def _variables(graph: Any, objects: Any) -> dict[str, tuple[str, ...]]:
    """Tell which variable each handle of a call stands for: a function lists its own behind its arguments."""
    nodes, paths, found = {node.name: node for node in graph.node}, _paths(objects), {}
    for node in graph.node:
        if node.op not in CALLS:
            continue
        bound = objects.concrete_functions[node.attr["f"].func.name].bound_inputs
        tensors = [tensor for tensor in node.input if not tensor.startswith("^")]
        for tensor, number in zip(tensors[len(tensors) - len(bound) :], bound, strict=True):
            if nodes[_node_of(tensor)].op == "VarHandleOp":
                found[f"{_node_of(tensor)}:0"] = paths[number]
    return found


def _paths(objects: Any) -> dict[int, tuple[str, ...]]:
    """Return a way to each object from the root, by the names of attributes."""
    paths: dict[int, tuple[str, ...]] = {0: ()}
    waiting = [0]
    while waiting:
        number = waiting.pop()
        for child in objects.nodes[number].children:
            if child.node_id not in paths:
                paths[child.node_id] = (*paths[number], child.local_name)
                waiting.append(child.node_id)
    return paths


def _called(graph: Any, library: Any, variables: Mapping[str, Any]) -> Iterator[Any]:
    """Yield the functions that a graph calls, and those that these call; refuse operators that are not harmless."""
    functions, seen = {item.signature.name: item for item in library.function}, set()
    waiting = [node for node in graph.node if f"{node.name}:0" not in variables]
    while waiting:
        node = waiting.pop()
        names = [name for name in (node.op, *_function_names(node)) if name in functions]
        if node.op not in HARMLESS and node.op not in functions:
            raise UnsupportedLayerError(_refusal(node))
        _check_size(node)
        for name in names:
            if name not in seen:
                seen.add(name)
                waiting.extend(functions[name].node_def)
                yield functions[name]


def _check_size(node: Any) -> None:
    """Refuse a constant that says to be larger than any file: one number, repeated, is enough for that."""
    sizes = [dim.size for dim in node.attr["value"].tensor.tensor_shape.dim] if node.op == "Const" else []
    if min(sizes, default=0) < 0 or math.prod(sizes) > LARGEST // 4:
        raise ConversionError(
            f"its node {one_line(node.name, 100)} is a constant of {sizes[:9]} numbers: it is damaged"
        )


def _function_names(node: Any) -> Iterator[str]:
    for value in node.attr.values():
        yield value.func.name
        yield from (function.name for function in value.list.func)


def _refusal(node: Any) -> str:
    reason = next((text for start, text in REASONS.items() if node.op.startswith(start)), None)
    return (
        f"its node {one_line(node.name, 100)} is {one_line(node.op, 60)}, which is not among the operators that are "
        f"run from a file (arithmetic, shapes, layers, loops): {reason or SAVE}"
    )


def _forget_hints(nodes: Iterable[Any]) -> None:
    """Leave out where and how a node should be run: on which device, compiled, with which session's settings."""
    for node in nodes:
        node.device = ""
        for name in [name for name in node.attr if name.startswith("_")]:
            del node.attr[name]
        if "config_proto" in node.attr:
            node.attr["config_proto"].s = b""
