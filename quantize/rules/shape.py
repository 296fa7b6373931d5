"""Operators that move or cut axes; the rules follow the time axis through them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgernn.quantize.graph import array_of, attribute
from edgernn.quantize.streaming import (
    Kind,
    StepBuilder,
    Stepped,
    refusal,
    rule,
    summed_up,
    values_of,
)
from edgernn.quantize.timing import Timing

__all__: list[str] = []

LAST_FRAME = 2**31 - 2  # a Slice that ends behind it goes on to the end


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


@rule("Split", kind=Kind.POINTWISE)
def split(node: ir.Node, inputs: Sequence[Stepped | None], step: StepBuilder) -> Sequence[Stepped]:
    """Parts of each frame."""
    timing = _first(inputs)[1]
    if int(attribute(node, "axis", 0)) % _rank(node) == timing.axis:
        raise refusal(node, "it cuts the sequence into parts", "split the features of each frame (axis=-1)")
    return _copy(node, inputs, step, timing.axis)


@rule("Tile", kind=Kind.POINTWISE)
def tile(node: ir.Node, inputs: Sequence[Stepped | None], step: StepBuilder) -> Sequence[Stepped]:
    """The features of a frame again and again."""
    axis = _first(inputs)[1].axis
    if axis is not None and array_of(node.inputs[1])[axis] != 1:
        raise refusal(node, "it repeats the sequence", "a stream does not begin again: repeat the features")
    return _copy(node, inputs, step, axis)


@rule("Gather", kind=Kind.CAUSAL)
def last_frame(node: ir.Node, inputs: Sequence[Stepped | None], step: StepBuilder) -> Sequence[Stepped]:
    """Taking the last frame of the sequence gives, at each step, the newest frame: a prefix value."""
    if inputs[1] is not None and inputs[1].timing is not None:
        return _look_up(node, inputs, step)
    _, timing = _first(inputs)
    index = array_of(node.inputs[1])
    if int(attribute(node, "axis", 0)) % _rank(node) != timing.axis:
        return _copy(node, inputs, step, _gather_axis(timing, int(attribute(node, "axis", 0)) % _rank(node), index))
    if index.shape != () or int(index) != -1:
        raise refusal(node, f"it takes frame {index} of the sequence", "only the last frame (-1) exists in a stream")
    assert inputs[0] is not None
    value, timing = _first([summed_up(node, node.inputs[0], inputs[0], step, whole_steps=False)])
    newest = step.op("Gather", value, step.constant(np.array(timing.frames - 1), "newest"), axis=timing.axis)
    return [Stepped(newest, timing.on_axis(None))]


def _look_up(node: ir.Node, inputs: Sequence[Stepped | None], step: StepBuilder) -> Sequence[Stepped]:
    """Rows of a constant table, for the whole numbers of each frame."""
    table, places = inputs
    assert table is not None
    assert places is not None
    assert places.timing is not None
    if table.timing is not None:
        raise refusal(node, "it takes computed places of frames", "take constant places, or use an Embedding")
    axis = None if places.timing.axis is None else places.timing.axis + int(attribute(node, "axis", 0)) % _rank(node)
    return [Stepped(value, places.timing.on_axis(axis)) for value in step.copy(node, [table.value, places.value])]


def _gather_axis(timing: Timing, axis: int, index: np.ndarray) -> int | None:
    return None if timing.axis is None else timing.axis + (index.ndim - 1 if axis < timing.axis else 0)


@rule("Pad", kind=Kind.WINDOW)
def pad(node: ir.Node, inputs: Sequence[Stepped | None], step: StepBuilder) -> Sequence[Stepped]:
    """Zeros around the sequence only change what its frames are called; around features, they are put there.

    Zeros before the first frame make the stream ahead of the sequence (a negative delay). A window that follows begins
    with these zeros in its state; anything else gets a delay line full of them. Where the stream begins with frames
    that mean nothing, such a line must put the zeros between these and the rest.
    """
    source, original = inputs[0], node.inputs[0]
    assert source is not None
    assert original is not None
    value, timing = _first(inputs)
    ends = array_of(node.inputs[1]).copy().reshape(2, -1)
    blank = float(array_of(node.inputs[2])) if len(node.inputs) > 2 and node.inputs[2] is not None else 0.0
    axes = list(range(_rank(node))) if len(node.inputs) < 4 else _axes(ir.Node("", "", node.inputs[2:]), _rank(node))
    place = axes.index(timing.axis) if timing.axis in axes else None
    before, after = (0, 0) if place is None else (int(end) for end in ends[:, place])
    mode = attribute(node, "mode", "constant")
    if (mode != "constant" or blank) and (before or after):
        raise refusal(
            node,
            "it continues the sequence beyond its ends with something other than zeros",
            "pad with zeros, as ZeroPadding1D does",
        )
    if place is not None:
        ends[:, place] = 0
    if ends.any():
        value, timing = _first([step.delay(source, max(-timing.delay, 0), original) if blank else source])
        bounds = step.constant(_over_all_axes(ends, axes, _rank(node)), "pads")
        value = step.op("Pad", value, bounds, *([step.constant(blank, "blank")] if blank else []), mode=mode)
    if before > 0 and timing.delay > 0:
        value, timing = _first([step.insert_zeros(Stepped(value, timing), before, node.outputs[0])])
        before = 0
    return [Stepped(value, timing.without_first(-before).without_last(-after))]


def _over_all_axes(ends: NDArray[np.int64], axes: Sequence[int], rank: int) -> NDArray[np.int64]:
    pads = np.zeros((2, rank), np.int64)
    pads[:, list(axes)] = ends
    return pads.ravel()


def _every(node: ir.Node) -> int:
    """Return of how many frames a Slice over time keeps one."""
    if any(value is not None and ir.convenience.get_const_tensor(value) is None for value in node.inputs[1:]):
        return 1  # of a length, as positions are cut: it is refused where it meets frames
    shape = () if node.inputs[0] is None else node.inputs[0].shape or ()
    if len(node.inputs) < 5 or node.inputs[4] is None:  # where it begins and ends may be computed, and refused later
        return 1
    _, _, axes, steps = _bounds(node)
    return max([1, *(step for axis, step in zip(axes, steps, strict=True) if not isinstance(shape[axis], int))])


@rule("Slice", kind=Kind.WINDOW, stride=_every)
def cut(node: ir.Node, inputs: Sequence[Stepped | None], step: StepBuilder) -> Sequence[Stepped]:
    """Cutting features is pointwise; dropping the first or last frames only changes what the frames are called.

    Taking every second frame is a window of one that moves by two: a step has as many, in places that do not change.
    """
    value, timing = _first(inputs)
    starts, stops, axes, steps = _bounds(node)
    if timing.axis not in axes:
        return _copy(node, inputs, step, timing.axis)
    place = axes.index(timing.axis)
    start, stop, every = (int(bounds[place]) for bounds in (starts, stops, steps))
    endless = stop > LAST_FRAME
    if every < 0:
        raise refusal(node, "it turns the sequence around", "a stream runs forward only: turn it around twice, or not")
    if start < 0 or (stop >= 0 and not endless):
        kept = f"{start}:{'' if endless else stop}"
        raise refusal(node, f"it keeps the frames [{kept}]", "a stream can drop the first and the last frames: [n:-m]")
    others = [other for other in range(len(axes)) if other != place]
    if others:
        arrays = (np.array([bounds[other] for other in others], np.int64) for bounds in (starts, stops, axes, steps))
        value = step.op("Slice", value, *(step.constant(array, "bound") for array in arrays))
    rest = Stepped(value, timing.without_first(start).without_last(0 if endless else -stop))
    return [rest if every == 1 else _subsampled(node, rest, every, step)]


def _subsampled(node: ir.Node, source: Stepped, every: int, step: StepBuilder) -> Stepped:
    assert node.inputs[0] is not None
    assert source.timing is not None
    missing = max(-source.timing.delay, 0)  # zeros before the sequence are frames, too
    source = step.delay(source, missing, node.inputs[0])
    timing = source.timing
    assert timing is not None
    assert timing.axis is not None
    value = step.cut(source.value, timing.axis, timing.delay % every, timing.frames, every)
    return Stepped(value, timing.window(1, every, 0))


def _bounds(node: ir.Node) -> tuple[list[int], list[int], list[int], list[int]]:
    """Return the starts, stops, axes and steps of a Slice."""
    starts, stops = (array_of(value).ravel().tolist() for value in node.inputs[1:3])
    optional = [None if len(node.inputs) <= place else node.inputs[place] for place in (3, 4)]
    axes = list(range(len(starts))) if optional[0] is None else array_of(optional[0]).ravel().tolist()
    steps = [1] * len(starts) if optional[1] is None else array_of(optional[1]).ravel().tolist()
    return starts, stops, [axis % _rank(node) for axis in axes], steps
