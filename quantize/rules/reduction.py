"""Sums, products and minima along the features of each frame."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from edgernn.quantize.graph import array_of, attribute
from edgernn.quantize.streaming import Kind, StepBuilder, Stepped, refusal, rule, values_of

__all__: list[str] = []


@rule("ReduceMin", "ReduceProd", "ReduceSum", kind=Kind.POINTWISE)
def reduce_features(node: ir.Node, inputs: Sequence[Stepped | None], step: StepBuilder) -> Sequence[Stepped]:
    """Pointwise along features; along time there is no end to it."""
    source = inputs[0]
    assert source is not None
    assert source.timing is not None
    assert node.inputs[0] is not None
    rank, axis = len(node.inputs[0].shape or ()), source.timing.axis
    given = array_of(node.inputs[1]).tolist() if len(node.inputs) > 1 else attribute(node, "axes", range(rank))
    axes = [int(place) % rank for place in given]
    if axis in axes:
        raise refusal(
            node,
            f"{node.op_type} over all frames so far has no end",
            "use the mean or the maximum over time, which a stream can carry on",
        )
    keep = bool(attribute(node, "keepdims", 1))
    moved = axis if axis is None or keep else axis - sum(place < axis for place in axes)
    return [Stepped(value, source.timing.on_axis(moved)) for value in step.copy(node, values_of(inputs))]
