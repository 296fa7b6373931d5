"""Conv over time: the frames that its window still needs become a state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import onnx_ir as ir

from edgernn.quantize.graph import array_of, attribute
from edgernn.quantize.streaming import Kind, State, StepBuilder, Stepped, refusal, rule, step_shape
from edgernn.quantize.timing import Timing

__all__ = ["roll_window", "window_stride"]


def window_stride(node: ir.Node) -> int:
    """Return by how many frames the window of a Conv or a pool moves."""
    return int(attribute(node, "strides", [1])[0])


def roll_window(node: ir.Node, source: Stepped, span: int, padding: int, step: StepBuilder) -> tuple[ir.Value, Timing]:
    """Put the past that a window over `span` frames needs before the step's frames.

    Takes and gives `(batch, channels, frames)`; returns also the timing of what the window gives. In the step's own
    frames, output `i` is the window that begins at `(i - ahead) * stride - padding`, with `ahead` the outputs by which
    it is late; so this much past is kept, and the zeros it begins with are the padding of the whole sequence.
    """
    assert source.timing is not None
    assert node.inputs[0] is not None
    if source.timing.axis != 2:
        raise refusal(node, "time is not the axis that it moves along")
    if not 0 <= padding < span:
        raise refusal(node, f"it pads {padding} frames before a window of {span}")
    stride = window_stride(node)
    source, padding = _with_padding(source, span, padding, step, node.inputs[0])
    timing = source.timing
    assert timing is not None
    ahead = -(-(span - padding) // stride) - 1
    past = ahead * stride + padding
    value = source.value
    if past:
        # kept as (batch, frames, channels): the layout of the frames themselves, and of TFLite
        channels = step_shape(node.inputs[0], timing, step.batch)[1]
        state = step.state("past", (step.batch, past, channels), timing.delay // timing.frames)
        value = _joined(state, value, timing.frames, past, step)
    return value, timing.window(span, stride, padding)


def _with_padding(
    source: Stepped, span: int, padding: int, step: StepBuilder, original: ir.Value
) -> tuple[Stepped, int]:
    """Take over zeros that stand before the sequence as padding, then align what is left to whole steps."""
    timing = source.timing
    assert timing is not None
    zeros = min(max(-timing.delay, 0), span - 1 - padding)
    timing = replace(timing, delay=timing.delay + zeros, lag=timing.lag + zeros)
    return step.align(Stepped(source.value, timing), original), padding + zeros


def _joined(state: State, value: ir.Value, frames: int, past: int, step: StepBuilder) -> ir.Value:
    fresh = step.op("Transpose", value, perm=[0, 2, 1])
    joined = step.op("Concat", state.input, fresh, axis=1)
    state.output = step.cut(joined, 1, frames, frames + past)
    return step.op("Transpose", joined, perm=[0, 2, 1])


@rule("Conv", kind=Kind.CAUSAL, stride=window_stride)
def convolution(node: ir.Node, inputs: Sequence[Stepped | None], step: StepBuilder) -> Sequence[Stepped]:
    """A causal or valid convolution over the past and the step's frames."""
    source, weights, *bias = inputs
    assert source is not None
    assert weights is not None
    kernel = array_of(node.inputs[1])
    if kernel.ndim != 3:
        raise refusal(node, f"it convolves over {kernel.ndim - 2} axes", "only Conv1D over time is streamed")
    before, after = attribute(node, "pads", [0, 0])
    if after:
        raise refusal(node, f"it looks {after} frames ahead", "use padding='causal' or 'valid'")
    dilation = int(attribute(node, "dilations", [1])[0])
    span = dilation * (kernel.shape[2] - 1) + 1
    value, timing = roll_window(node, source, span, before, step)
    attributes = {"dilations": [dilation], "strides": [window_stride(node)], "group": attribute(node, "group", 1)}
    constants = [item.value for item in (weights, *bias) if item is not None]
    return [Stepped(step.op("Conv", value, *constants, **attributes), timing)]
