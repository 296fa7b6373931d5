"""What depends on the length of the sequence alone: a stream has none, but what is made of it may have a meaning.

So it stays pending: a mask of attention that is made from it is evaluated for a sequence of some length (`masks`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgernn.quantize.graph import attribute
from edgernn.quantize.streaming import Kind, Pending, StepBuilder, Stepped, refusal, rule, step_shape

__all__ = ["Lengths"]


@dataclass(frozen=True)
class Lengths(Pending):
    """A value computed from constants and from the length of the sequence."""

    def follow(self, node: ir.Node, inputs: Sequence[Stepped | None], step: StepBuilder) -> Sequence[Stepped]:
        """Pass on, or let other pending inputs take it; with frames it has no meaning."""
        other = next((item for item in inputs if isinstance(item, Pending) and not isinstance(item, Lengths)), None)
        if other is not None:
            return other.follow(node, inputs, step)
        if any(item is not None and item.timing is not None for item in inputs):
            raise refusal(
                node,
                "it joins frames with something that depends on how long the sequence is, or where in it a frame is",
                "a stream has no length, and its beginning is long gone: use attention that sees distances only (a "
                "bias by distance), or a recurrent or causal convolution layer in place of absolute positions",
            )
        return [Lengths(value) for value in node.outputs]

    def refused(self, name: str) -> str:
        """Say why it can be no output."""
        return f"the output {name} depends on how long the sequence is, which a stream does not know"


@rule("Shape", "Size", kind=Kind.POINTWISE)
def shape(node: ir.Node, inputs: Sequence[Stepped | None], step: StepBuilder) -> Sequence[Stepped]:
    """The shape of frames has the length in it; a part of it without time is the same in every step."""
    source, original = inputs[0], node.inputs[0]
    assert source is not None
    assert source.timing is not None
    assert original is not None
    sizes = step_shape(original, source.timing, step.batch)
    part = range(len(sizes))[attribute(node, "start", 0) : attribute(node, "end", len(sizes))]
    if node.op_type == "Size" or source.timing.axis in part:
        return [Lengths(node.outputs[0])]
    return [Stepped(step.constant(np.array([sizes[axis] for axis in part], np.int64), "sizes"))]
