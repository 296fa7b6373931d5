"""Pooling over a window of frames, and over all frames so far."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from edgernn.quantize.graph import attribute
from edgernn.quantize.rules.convolution import roll_window, window_stride
from edgernn.quantize.streaming import Kind, StepBuilder, Stepped, batch_axis, refusal, rule, step_shape
from edgernn.quantize.timing import Timing

__all__ = ["COUNT_LIMIT", "STATISTICS"]

COUNT_LIMIT = float(2**23)  # float32 still counts by ones here; beyond, the mean forgets slowly
STATISTICS = "running"  # nodes whose scope ends in this stay in float when the rest is quantized


@rule("AveragePool", "MaxPool", kind=Kind.CAUSAL, stride=window_stride)
def window_pool(node: ir.Node, inputs: Sequence[Stepped | None], step: StepBuilder) -> Sequence[Stepped]:
    """A valid pool over the past and the step's frames."""
    assert inputs[0] is not None
    span, stride = int(attribute(node, "kernel_shape", [1])[0]), window_stride(node)
    if any(attribute(node, "pads", [0, 0])) or attribute(node, "ceil_mode", 0):
        raise refusal(node, "it pads, so that it looks ahead", "use padding='valid'")
    value, timing = roll_window(node, inputs[0], span, 0, step)
    return [Stepped(step.op(node.op_type, value, kernel_shape=[span], strides=[stride]), timing)]


@rule("ReduceMean", "ReduceMax", kind=Kind.WHOLE)
def pool_over_time(node: ir.Node, inputs: Sequence[Stepped | None], step: StepBuilder) -> Sequence[Stepped]:
    """Over time: the mean or maximum of all frames so far, a prefix value. Over features: pointwise."""
    source = inputs[0]
    assert source is not None
    assert source.timing is not None
    assert node.inputs[0] is not None
    rank = len(node.inputs[0].shape or ())
    axes = [int(axis) % rank for axis in attribute(node, "axes", range(rank))]
    keep = bool(attribute(node, "keepdims", 1))
    if source.timing.axis not in axes:
        axis = source.timing.axis
        moved = axis if axis is None or keep else axis - sum(other < axis for other in axes)
        values = step.copy(node, [source.value])
        return [Stepped(value, source.timing.on_axis(moved)) for value in values]
    if len(axes) > 1 or keep:
        raise refusal(node, "it reduces time together with other axes, or keeps it", "use GlobalAveragePooling1D")
    source = step.align(source, node.inputs[0])
    running = _running_mean if node.op_type == "ReduceMean" else _running_max
    assert source.timing is not None
    return [Stepped(running(node, source, step), source.timing.on_axis(None))]


def _without_time(value: ir.Value, timing: Timing, step: StepBuilder) -> tuple[list[int], int]:
    """Return shape and batch axis of a value of the step graph when its time axis is gone."""
    shape, streams = list(step_shape(value, timing, step.batch)), batch_axis(value, timing)
    assert timing.axis is not None
    del shape[timing.axis]
    return shape, streams - (timing.axis < streams)


def _running_mean(node: ir.Node, source: Stepped, step: StepBuilder) -> ir.Value:
    """mean += (mean of the step's frames - mean) / steps so far: exact, and no sum that grows."""
    assert source.timing is not None
    assert node.inputs[0] is not None
    axis, hold = source.timing.axis, source.timing.delay // source.timing.frames
    shape, streams = _without_time(node.inputs[0], source.timing, step)
    step.scope = f"{step.scope}/{STATISTICS}"
    mean = step.state("mean", shape, hold, batch_axis=streams)
    ones = [size if place == streams else 1 for place, size in enumerate(shape)]
    count = step.state("count", ones, hold, batch_axis=streams)
    newest = step.op("ReduceMean", source.value, axes=[axis], keepdims=0)
    raised = step.op("Add", count.input, step.constant(1.0, "one"))
    count.output = step.op("Min", raised, step.constant(COUNT_LIMIT, "limit"))
    change = step.op("Div", step.op("Sub", newest, mean.input), count.output)
    mean.output = step.op("Add", mean.input, change)
    return mean.output


def _running_max(node: ir.Node, source: Stepped, step: StepBuilder) -> ir.Value:
    assert source.timing is not None
    assert node.inputs[0] is not None
    axis, hold = source.timing.axis, source.timing.delay // source.timing.frames
    shape, streams = _without_time(node.inputs[0], source.timing, step)
    step.scope = f"{step.scope}/{STATISTICS}"
    largest = step.state("max", shape, hold, initial=float(np.finfo(np.float32).min), batch_axis=streams)
    newest = step.op("ReduceMax", source.value, axes=[axis], keepdims=0)
    largest.output = step.op("Max", largest.input, newest)
    return largest.output
