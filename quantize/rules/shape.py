"""Operators that move or cut axes; the rules follow the time axis through them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from edgernn.quantize.graph import array_of, attribute
from edgernn.quantize.streaming import Kind, StepBuilder, Stepped, refusal, rule, values_of
from edgernn.quantize.timing import Timing

__all__: list[str] = []


def _first(inputs: Sequence[Stepped | None]) -> tuple[ir.Value, Timing]:
    assert inputs[0] is not None
    assert inputs[0].timing is not None
    return inputs[0].value, inputs[0].timing


def _rank(node: ir.Node) -> int:
    assert node.inputs[0] is not None
    return len(node.inputs[0].shape or ())


def _axes(node: ir.Node, rank: int) -> list[int]:
    return [int(axis) % rank for axis in array_of(node.inputs[1]).ravel()]


def _copy(node: ir.Node, inputs: Sequence[Stepped | None], step: StepBuilder, axis: int | None) -> list[Stepped]:
    timing = _first(inputs)[1].on_axis(axis)
    return [Stepped(value, timing) for value in step.copy(node, values_of(inputs))]


@rule("Transpose", kind=Kind.POINTWISE)
def transpose(node: ir.Node, inputs: Sequence[Stepped | None], step: StepBuilder) -> Sequence[Stepped]:
    """Time goes where the permutation puts it."""
    axis = _first(inputs)[1].axis
    permutation = list(attribute(node, "perm", range(_rank(node))[::-1]))
    return _copy(node, inputs, step, None if axis is None else permutation.index(axis))


@rule("Squeeze", kind=Kind.POINTWISE)
def squeeze(node: ir.Node, inputs: Sequence[Stepped | None], step: StepBuilder) -> Sequence[Stepped]:
    """Axes before time go away, and time moves down."""
    axis, gone = _first(inputs)[1].axis, _axes(node, _rank(node))
    if axis in gone:
        raise refusal(node, "it removes the time axis")
    return _copy(node, inputs, step, None if axis is None else axis - sum(other < axis for other in gone))


@rule("Unsqueeze", kind=Kind.POINTWISE)
def unsqueeze(node: ir.Node, inputs: Sequence[Stepped | None], step: StepBuilder) -> Sequence[Stepped]:
    """Time moves up past the new axes."""
    axis, new = _first(inputs)[1].axis, set(_axes(node, _rank(node) + array_of(node.inputs[1]).size))
    kept = [place for place in range(_rank(node) + len(new)) if place not in new]
    return _copy(node, inputs, step, None if axis is None else kept[axis])


@rule("Gather", kind=Kind.CAUSAL)
def last_frame(node: ir.Node, inputs: Sequence[Stepped | None], step: StepBuilder) -> Sequence[Stepped]:
    """Taking the last frame of the sequence gives, at each step, the newest frame: a prefix value."""
    value, timing = _first(inputs)
    index = array_of(node.inputs[1])
    if int(attribute(node, "axis", 0)) % _rank(node) != timing.axis:
        return _copy(node, inputs, step, _gather_axis(timing, int(attribute(node, "axis", 0)) % _rank(node), index))
    if index.shape != () or int(index) != -1:
        raise refusal(node, f"it takes frame {index} of the sequence", "only the last frame (-1) exists in a stream")
    newest = step.op("Gather", value, step.constant(np.array(timing.frames - 1), "newest"), axis=timing.axis)
    return [Stepped(newest, timing.on_axis(None))]


def _gather_axis(timing: Timing, axis: int, index: np.ndarray) -> int | None:
    return None if timing.axis is None else timing.axis + (index.ndim - 1 if axis < timing.axis else 0)


@rule("Pad", kind=Kind.CAUSAL)
def pad(node: ir.Node, inputs: Sequence[Stepped | None], step: StepBuilder) -> Sequence[Stepped]:
    """Zeros before the first frame: the stream is ahead of the sequence by so many frames (a negative delay).

    A convolution that follows begins with these zeros in its state; anything else gets a delay line full of them.
    Where the stream begins with frames that mean nothing, such a line must put the zeros between these and the rest.
    """
    value, timing = _first(inputs)
    pads, rank = array_of(node.inputs[1]), _rank(node)
    before = 0 if timing.axis is None else int(pads[timing.axis])
    if attribute(node, "mode", "constant") != "constant" or before < 0 or pads.sum() != before:
        raise refusal(
            node,
            f"it pads by {pads.tolist()} ({rank} axes, before and after)",
            "only zeros before the first frame can be streamed, as in ZeroPadding1D((n, 0))",
        )
    if timing.delay > 0:
        assert node.inputs[0] is not None
        return [step.insert_zeros(Stepped(value, timing), before, node.inputs[0])]
    return [Stepped(value, replace(timing, delay=timing.delay - before, lag=timing.lag - before))]


@rule("Slice", kind=Kind.POINTWISE)
def cut(node: ir.Node, inputs: Sequence[Stepped | None], step: StepBuilder) -> Sequence[Stepped]:
    """Cutting features is pointwise; dropping the first frames only changes what the frames are called."""
    value, timing = _first(inputs)
    starts, stops = array_of(node.inputs[1]), array_of(node.inputs[2])
    axes = _axes(ir.Node("", "", [node.inputs[0], node.inputs[3]]), _rank(node))
    if timing.axis not in axes:
        return _copy(node, inputs, step, timing.axis)
    place = axes.index(timing.axis)
    start, stop = int(starts[place]), int(stops[place])
    if len(node.inputs) > 4 and array_of(node.inputs[4])[place] < 0:
        raise refusal(node, "it turns the sequence around", "a stream runs forward only: turn it around twice, or not")
    if len(node.inputs) > 4 and array_of(node.inputs[4])[place] > 1:
        raise refusal(node, "it takes every second frame or fewer", "pool with strides instead")
    if len(axes) > 1 or start < 0 or stop < np.iinfo(np.int32).max:
        raise refusal(node, f"it keeps frames [{start}:{stop}]", "only the first frames can be dropped from a stream")
    return [Stepped(value, replace(timing, delay=timing.delay + start, lag=timing.lag + start))]
