"""Cleaning the step graph: with static shapes, most moving of axes is nothing at all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgernn.quantize.graph import Builder, array_of, attribute, rebuild, shape_of

__all__ = ["simplify"]


def simplify(model: ir.Model) -> ir.Model:
    """Return the step graph without idle nodes; every shape must be static.

    1. A Transpose that moves only axes of size one, a Squeeze, an Unsqueeze, a Gather of the only element, a
       mean over one element: a Reshape.
    2. Two Reshapes: one. Two Transposes: one. One that changes nothing: none.
    3. A Conv that gives one frame: a product with its flattened window. One that looks at a single place: a product
       with the channels there.
    """
    for visit in (_as_reshape, _conv_as_product, _as_reshape, _join, _join):
        model = rebuild(model, visit)
    return model


def _reshape(graph: Builder, value: ir.Value, shape: Sequence[int]) -> ir.Value:
    return graph.op("Reshape", value, graph.constant(np.array(shape, np.int64), "shape"))


def _as_reshape(node: ir.Node, inputs: Sequence[ir.Value | None], graph: Builder) -> Sequence[ir.Value] | None:
    if node.op_type in ("Squeeze", "Unsqueeze") or _moves_nothing(node) or _takes_the_only(node) or _reduces_one(node):
        assert inputs[0] is not None
        return [_reshape(graph, inputs[0], shape_of(node.outputs[0]))]
    return None


def _moves_nothing(node: ir.Node) -> bool:
    """Whether a Transpose keeps the order of the axes that are longer than one."""
    if node.op_type != "Transpose" or node.inputs[0] is None:
        return False
    shape = shape_of(node.inputs[0])
    moved = [axis for axis in attribute(node, "perm", range(len(shape))[::-1]) if shape[axis] != 1]
    return moved == sorted(moved)


def _takes_the_only(node: ir.Node) -> bool:
    if node.op_type != "Gather" or node.inputs[0] is None:
        return False
    shape = shape_of(node.inputs[0])
    return shape[int(attribute(node, "axis", 0))] == 1 and array_of(node.inputs[1]).ndim == 0


def _reduces_one(node: ir.Node) -> bool:
    if node.op_type not in ("ReduceMean", "ReduceMax") or node.inputs[0] is None:
        return False
    shape = shape_of(node.inputs[0])
    return all(shape[axis] == 1 for axis in attribute(node, "axes", range(len(shape))))


def _join(node: ir.Node, inputs: Sequence[ir.Value | None], graph: Builder) -> Sequence[ir.Value] | None:
    value = inputs[0] if inputs else None
    if value is None or node.op_type not in ("Reshape", "Transpose", "Identity"):
        return None
    if node.op_type == "Identity":
        return [value]
    before = value.producer()
    if before is not None and before.op_type == node.op_type and before.inputs[0] is not None:
        value = before.inputs[0]
    else:
        before = None
    if node.op_type == "Reshape":
        target = shape_of(node.outputs[0])
        return [value] if _known_shape(value) == target else [_reshape(graph, value, target)]
    order: Any = attribute(node, "perm", None)
    if before is not None:
        order = [attribute(before, "perm", None)[axis] for axis in order]
    return [value] if list(order) == sorted(order) else [graph.op("Transpose", value, perm=list(order))]


def _known_shape(value: ir.Value) -> tuple[int, ...] | None:
    shape = value.shape
    return None if shape is None else tuple(size for size in shape if isinstance(size, int))


def _conv_as_product(node: ir.Node, inputs: Sequence[ir.Value | None], graph: Builder) -> Sequence[ir.Value] | None:
    if node.op_type != "Conv" or attribute(node, "group", 1) != 1:
        return None
    weights = array_of(node.inputs[1])
    if weights.ndim == 3 and shape_of(node.outputs[0])[2] == 1 and not any(attribute(node, "pads", [])):
        return [_window_product(node, inputs, weights, graph)]
    moves = any(attribute(node, "pads", [])) or set(attribute(node, "strides", [1])) != {1}
    return None if moves or weights[0, 0].size > 1 else [_channel_product(inputs, weights, graph)]


def _window_product(
    node: ir.Node, inputs: Sequence[ir.Value | None], weights: NDArray[Any], graph: Builder
) -> ir.Value:
    """(batch, channels, frames) * (out, channels, span) as (batch, span * channels) @ (span * channels, out)."""
    assert inputs[0] is not None
    assert node.inputs[0] is not None
    out, channels, span = weights.shape
    step = int(attribute(node, "dilations", [1])[0])
    reach = step * (span - 1) + 1
    window = graph.op("Transpose", inputs[0], perm=[0, 2, 1])
    if shape_of(node.inputs[0])[2] != reach or step != 1:
        bounds = ([0], [reach], [1], [step])
        window = graph.op("Slice", window, *(graph.constant(bound, "bound") for bound in bounds))
    batch = shape_of(node.inputs[0])[0]
    flat = _reshape(graph, window, (batch, span * channels))
    product = _product(flat, weights.transpose(2, 1, 0).reshape(span * channels, out), inputs, graph)
    return _reshape(graph, product, (batch, out, 1))


def _channel_product(inputs: Sequence[ir.Value | None], weights: NDArray[Any], graph: Builder) -> ir.Value:
    """(batch, channels, axes...) * (out, channels, 1...) as (batch, axes..., channels) @ (channels, out)."""
    rank = weights.ndim
    last = graph.op("Transpose", inputs[0], perm=[0, *range(2, rank), 1])
    product = _product(last, weights.reshape(weights.shape[:2]).T, inputs, graph)
    return graph.op("Transpose", product, perm=[0, rank - 1, *range(1, rank - 1)])


def _product(x: ir.Value, matrix: NDArray[Any], inputs: Sequence[ir.Value | None], graph: Builder) -> ir.Value:
    """Return `x @ matrix`, with the bias of the Conv that had these inputs."""
    product = graph.op("MatMul", x, graph.constant(np.ascontiguousarray(matrix), "kernel"))
    return graph.op("Add", product, inputs[2]) if len(inputs) > 2 else product
