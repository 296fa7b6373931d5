"""The backward half of a bidirectional layer, in its bounded form: blocks of frames with a look-ahead.

Each step reads its `chunk + lookahead` newest frames backwards from a zero state (what is zero in the source, too) and
keeps the outputs for the oldest `chunk` of them, so that the output is late by exactly `lookahead` frames. The forward
half is exact, and waits in a delay line where both meet. Blocks end `lookahead` frames before the end of a step: for a
look-ahead that is a multiple of the chunk, they begin at frames 0, chunk, 2 × chunk and so on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from edgernn.quantize.bounds import Bounds
from edgernn.quantize.graph import attribute, plain_attributes
from edgernn.quantize.streaming import StepBuilder, Stepped, refusal, values_of

__all__ = ["backward", "block_frames", "is_backward"]


def is_backward(node: ir.Node) -> bool:
    """Tell whether a recurrent operator reads the sequence from its end."""
    return bool(attribute(node, "direction", "forward") == "reverse")


def block_frames(node: ir.Node, bounds: Bounds) -> int:
    """Return how many of its frames a recurrent operator takes at once."""
    return bounds.bidirectional.chunk if bounds.bidirectional and is_backward(node) else 1


def backward(
    node: ir.Node, inputs: Sequence[Stepped | None], initial: Sequence[float], step: StepBuilder
) -> list[Stepped]:
    """Return the output of a recurrent operator of direction "reverse"; `initial` has a number for each state."""
    source, original, bound = inputs[0], node.inputs[0], step.bounds.bidirectional
    assert source is not None
    assert original is not None
    if bound is None:
        raise refusal(
            node,
            "its backward half needs the end of the sequence first",
            "bound how far it looks ahead with --bidirectional chunk=C,lookahead=L, or train it forward only",
        )
    if any(value.consumers() or value.is_graph_output() for value in node.outputs[1:]):
        raise refusal(
            node,
            "the final state of its backward half is that of the first frame, which a stream has left behind",
            "use its output for every frame instead, or that of the last frame",
        )
    step.approximate("bidirectional", f"blocks of {bound.chunk} frames, {bound.lookahead} frames of look-ahead")
    source = step.align(source, original)
    timing = source.timing
    assert timing is not None
    joined = step.remember(source, bound.lookahead, original, "ahead")
    weights = [*values_of(inputs)[1:4], None][:3]
    states = [_state(node, value, step) for value in initial]
    blocks = []
    for start in range(0, timing.frames, bound.chunk):
        window = step.cut(joined, 0, start, start + bound.chunk + bound.lookahead)
        every = step.ops(node.op_type, [window, *weights, None, *states], 1, plain_attributes(node))[0]
        blocks.append(step.cut(every, 0, 0, bound.chunk) if bound.lookahead else every)
    value = blocks[0] if len(blocks) == 1 else step.op("Concat", *blocks, axis=0)
    seen = {"delay": timing.delay + bound.lookahead, "settled": timing.settled + bound.lookahead}
    return [Stepped(value, replace(timing, **seen))]


def _state(node: ir.Node, value: float, step: StepBuilder) -> ir.Value:
    hidden = int(attribute(node, "hidden_size", 0))
    return step.constant(np.full((1, step.batch, hidden), value, np.float32), "initial")
