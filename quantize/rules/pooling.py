"""Pooling over a window of frames, over all frames so far, and over the last of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from edgernn.quantize.graph import attribute
from edgernn.quantize.rules.window import (
    STATISTICS,
    Begin,
    Window,
    in_each_frame,
    over_time,
    roll_window,
    window_stride,
)
from edgernn.quantize.streaming import (
    Kind,
    State,
    StepBuilder,
    Stepped,
    batch_axis,
    refusal,
    rule,
    step_shape,
    summed_up,
)

__all__ = ["COUNT_LIMIT", "LEAST", "STATISTICS", "recent"]

COUNT_LIMIT = float(2**23)  # float32 still counts by ones here; beyond, the mean forgets slowly
LEAST = float(np.finfo(np.float32).min)
NEVER_NEGATIVE = ("Abs", "Exp", "HardSigmoid", "Relu", "Sigmoid", "Softmax", "Softplus", "Sqrt")
ONLY_MOVES = ("AveragePool", "MaxPool", "Reshape", "Squeeze", "Transpose", "Unsqueeze")


@rule("AveragePool", "MaxPool", kind=Kind.WINDOW, stride=window_stride)
def window_pool(node: ir.Node, inputs: Sequence[Stepped | None], step: StepBuilder) -> Sequence[Stepped]:
    """The same pool over the past and the step's frames; what it pads with does not take part in it."""
    source, original = inputs[0], node.inputs[0]
    assert source is not None
    assert original is not None
    if any(output.consumers() for output in node.outputs[1:]):
        raise refusal(node, "the places of its maxima are used", "use its values alone")
    if in_each_frame(source):
        return [Stepped(value, source.timing) for value in step.copy(node, [source.value])[:1]]
    window, attributes = over_time(node, attribute(node, "kernel_shape", [1]), source.timing)
    counted = bool(attribute(node, "count_include_pad", 0))
    if node.op_type == "AveragePool":
        attributes["count_include_pad"] = int(counted)
        del attributes["dilations"]
    if not window.before or counted or _never_negative(original, node):
        value, timing = roll_window(node, source, window, step)
        return [Stepped(step.op(node.op_type, value, **attributes), timing)]
    source = step.align(source, original)
    if node.op_type == "MaxPool":
        value, timing = roll_window(node, source, window, step, _first_repeated(original, source, step))
        return [Stepped(step.op("MaxPool", value, **attributes), timing)]
    value, timing = roll_window(node, source, window, step)
    mean = step.op("AveragePool", value, **attributes)
    return [Stepped(_of_real_frames(node, mean, source, window, step), timing)]


def _never_negative(value: ir.Value, pool: ir.Node) -> bool:
    """Whether zeros before the sequence are as good as nothing: to a maximum over values that are not below zero."""
    node = value.producer()
    while node is not None and node.op_type in ONLY_MOVES and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    return pool.op_type == "MaxPool" and node is not None and node.op_type in NEVER_NEGATIVE


def _first_repeated(original: ir.Value, source: Stepped, step: StepBuilder) -> Begin:
    """Before the first frame, repeat that: every window that begins there has it, so the maximum is the same."""

    def begin(past: ir.Value, fresh: ir.Value, axis: int) -> ir.Value:
        assert source.timing is not None
        ones = [step.batch] + [1] * (len(original.shape or ()) - 1)
        scope, step.scope = step.scope, f"{step.scope}/{STATISTICS}"
        first = step.state("first", ones, source.timing.hold_steps, 1.0)
        first.output = step.op("Relu", step.op("Sub", first.input, step.constant(1.0, "one")))  # 1, then 0
        frame = fresh if source.timing.frames == 1 else step.cut(fresh, axis, 0, 1)
        begun = step.op("Add", past, step.op("Mul", frame, first.input))
        step.scope = scope
        return begun

    return begin


def _of_real_frames(node: ir.Node, mean: ir.Value, source: Stepped, window: Window, step: StepBuilder) -> ir.Value:
    """Divide a mean that took zeros before the sequence for frames by the share of real ones among them."""
    timing = source.timing
    assert timing is not None
    assert timing.axis is not None
    assert node.inputs[0] is not None
    rank = len(node.inputs[0].shape or ())

    def along_time(size: int) -> list[int]:
        return [size if axis == timing.axis else 1 for axis in range(rank)]

    past = timing.window(window.span, window.stride, window.before).delay * window.stride + window.before - timing.delay
    scope, step.scope = step.scope, f"{step.scope}/{STATISTICS}"
    real = step.state("real", [step.batch, *along_time(past)[1:]], timing.hold_steps)
    fresh = step.constant(np.ones([step.batch, *along_time(timing.frames)[1:]], np.float32), "real")
    joined = step.op("Concat", real.input, fresh, axis=timing.axis)
    real.output = step.cut(joined, timing.axis, timing.frames, timing.frames + past)
    share = step.op(
        "AveragePool", joined, kernel_shape=along_time(window.span)[2:], strides=along_time(window.stride)[2:]
    )
    result = step.op("Div", mean, share)
    step.scope = scope
    return result


@rule("ReduceMean", "ReduceMax", "GlobalAveragePool", "GlobalMaxPool", kind=Kind.WHOLE)
def pool_over_time(node: ir.Node, inputs: Sequence[Stepped | None], step: StepBuilder) -> Sequence[Stepped]:
    """Over time: the mean or maximum of all frames so far, a prefix value. Over features: pointwise."""
    source, original = inputs[0], node.inputs[0]
    assert source is not None
    assert source.timing is not None
    assert original is not None
    rank, axis = len(original.shape or ()), source.timing.axis
    every = node.op_type.startswith("Global")
    axes = [int(item) % rank for item in attribute(node, "axes", range(2 if every else 0, rank))]
    keep = bool(attribute(node, "keepdims", 1))
    reduce = {"GlobalAveragePool": "ReduceMean", "GlobalMaxPool": "ReduceMax"}.get(node.op_type, node.op_type)
    if axis not in axes:
        moved = axis if axis is None or keep else axis - sum(other < axis for other in axes)
        return [Stepped(step.op(reduce, source.value, axes=axes, keepdims=int(keep)), source.timing.on_axis(moved))]
    if batch_axis(original, source.timing) in axes:
        raise refusal(node, "it pools over the batch, too", "pool over time and features alone")
    source = summed_up(node, original, source, step)
    assert source.timing is not None
    kind = _OVER_WINDOW if step.bounds.pooling_window else _OVER_ALL
    return [Stepped(kind[reduce](_Pooled(original, source, axes, keep), step), source.timing.on_axis(None))]


@dataclass(frozen=True)
class _Pooled:
    """What is pooled over time."""

    original: ir.Value
    source: Stepped
    axes: list[int]
    keep: bool

    def newest(self, op_type: str, step: StepBuilder) -> ir.Value:
        """Pool the step's own frames."""
        return step.op(op_type, self.source.value, axes=self.axes, keepdims=int(self.keep))

    def state(self, name: str, step: StepBuilder, initial: float = 0.0, one: bool = False) -> State:
        """Make a state as large as the result, or with one element for each stream."""
        timing = self.source.timing
        assert timing is not None
        sizes = list(step_shape(self.original, timing, step.batch))
        streams = batch_axis(self.original, timing)
        kept = [axis for axis in range(len(sizes)) if self.keep or axis not in self.axes]
        shape = [1 if axis in self.axes or (one and axis != streams) else sizes[axis] for axis in kept]
        return step.state(name, shape, timing.hold_steps, initial, kept.index(streams))


def _running_mean(pooled: _Pooled, step: StepBuilder) -> ir.Value:
    """mean += (mean of the step's frames - mean) / steps so far: exact, and no sum that grows."""
    step.scope = f"{step.scope}/{STATISTICS}"
    mean, count = pooled.state("mean", step), pooled.state("count", step, one=True)
    newest = pooled.newest("ReduceMean", step)
    raised = step.op("Add", count.input, step.constant(1.0, "one"))
    count.output = step.op("Min", raised, step.constant(COUNT_LIMIT, "limit"))
    change = step.op("Div", step.op("Sub", newest, mean.input), count.output)
    mean.output = step.op("Add", mean.input, change)
    return mean.output


def _running_max(pooled: _Pooled, step: StepBuilder) -> ir.Value:
    step.scope = f"{step.scope}/{STATISTICS}"
    largest = pooled.state("max", step, initial=LEAST)
    largest.output = step.op("Max", largest.input, pooled.newest("ReduceMax", step))
    return largest.output


def _window_mean(pooled: _Pooled, step: StepBuilder) -> ir.Value:
    """The sum of the last frames, zeros for those that have not come yet, over how many have."""
    frames = _windowed(step)
    assert pooled.source.timing is not None
    mean = replace(pooled, source=_recent(pooled, step)).newest("ReduceMean", step)
    come = pooled.source.timing.frames
    if frames <= come:
        return mean
    count = pooled.state("count", step, one=True)
    raised = step.op("Add", count.input, step.constant(float(come), "come"))
    count.output = step.op("Min", raised, step.constant(float(frames), "window"))
    return step.op("Mul", mean, step.op("Div", step.constant(float(frames), "window"), count.output))


def _window_max(pooled: _Pooled, step: StepBuilder) -> ir.Value:
    _windowed(step)
    return replace(pooled, source=_recent(pooled, step, LEAST)).newest("ReduceMax", step)


def _windowed(step: StepBuilder) -> int:
    frames = step.bounds.pooling_window
    assert frames is not None
    step.approximate("pooling_window", f"over the last {frames} frames")
    step.scope = f"{step.scope}/{STATISTICS}"
    return frames


def _recent(pooled: _Pooled, step: StepBuilder, initial: float = 0.0) -> Stepped:
    return Stepped(recent(pooled.source, pooled.original, step, initial), pooled.source.timing)


def recent(source: Stepped, original: ir.Value, step: StepBuilder, initial: float = 0.0) -> ir.Value:
    """Return the frames of `Bounds.pooling_window` up to the newest one; those before the beginning are `initial`."""
    timing, frames = source.timing, step.bounds.pooling_window
    assert timing is not None
    assert timing.axis is not None
    assert frames is not None
    if frames == timing.frames:
        return source.value
    if frames < timing.frames:
        return step.cut(source.value, timing.axis, timing.frames - frames, timing.frames)
    past = frames - timing.frames
    return step.remember(source, past, original, "past", timing.hold_steps, initial)


_OVER_ALL = {"ReduceMean": _running_mean, "ReduceMax": _running_max}
_OVER_WINDOW = {"ReduceMean": _window_mean, "ReduceMax": _window_max}
