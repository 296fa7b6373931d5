"""Streams and heads as one axis, as PyTorch's attention lays them out: brought over as the two axes that they are.

`(streams * heads, time, size)` becomes `(batch, heads, time, size)`, so that batch stays an axis of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from edgernn.quantize.graph import attribute, plain_attributes
from edgernn.quantize.onnx_files.importer import Importer, copied, refuse
from edgernn.quantize.onnx_files.operators import target_shape

__all__ = ["bring_over", "is_merged"]

BY_ELEMENT = ("Add", "Cast", "Div", "Exp", "Identity", "IsNaN", "MatMul", "Mul", "Neg", "Sub", "Where")


def is_merged(node: ir.Node, graph: Importer) -> bool:
    """Tell whether a value that a node takes or gives has streams and something else on one axis."""
    known = [v for v in (*node.inputs, *node.outputs) if v is not None and v.name and not graph.is_constant(v)]
    return any(graph.merged_axis(value) is not None for value in known)


def bring_over(node: ir.Node, graph: Importer) -> Sequence[ir.Value]:
    """Bring over a node that takes or gives such values."""
    source, result = node.inputs[0], node.outputs[0]
    assert source is not None
    if node.op_type == "Reshape":
        before, after = graph.spread(source), graph.spread(result)
        value = graph.data(node)
        shape = graph.constant(np.array(target_shape(node, before, after), np.int64), "shape")
        return [value if before == after else graph.op("Reshape", value, shape)]
    if node.op_type == "Transpose":
        return [graph.op("Transpose", graph.data(node), perm=_spread_order(node, source, graph))]
    behind = [_from_the_right(value, graph) for value in (*node.inputs, result) if value is not None]
    if node.op_type in BY_ELEMENT and len(set(behind) - {None}) == 1 and behind[-1] is not None:
        return copied(node, graph)
    if node.op_type == "Softmax":
        axis = int(attribute(node, "axis", -1)) % len(graph.sizes(source)) - len(graph.sizes(source))
        return [graph.op("Softmax", graph.data(node), **{**plain_attributes(node), "axis": axis})]
    raise refuse(
        node,
        f"it works on {graph.sizes(source)}, where streams and something else are one axis",
        "keep the batch an axis of its own, as scaled_dot_product_attention does",
    )


def _spread_order(node: ir.Node, source: ir.Value, graph: Importer) -> list[int]:
    axis, rank = graph.merged_axis(source), len(graph.sizes(source))
    places = [[place + (axis is not None and place > axis)] for place in range(rank)]
    if axis is not None:
        places[axis] = [axis, axis + 1]
    return [place for old in attribute(node, "perm", list(range(rank))[::-1]) for place in places[old]]


def _from_the_right(value: ir.Value, graph: Importer) -> int | None:
    """Return how far from the right the axis is; what is not merged broadcasts over it, as masks do."""
    axis = None if graph.is_constant(value) else graph.merged_axis(value)
    return None if axis is None else len(graph.sizes(value)) - axis
