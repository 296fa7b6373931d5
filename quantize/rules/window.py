"""A window that moves over time: the frames that it still needs become a state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from edgernn.quantize.graph import attribute
from edgernn.quantize.streaming import StepBuilder, Stepped, refusal, step_shape
from edgernn.quantize.timing import Timing

__all__ = ["STATISTICS", "Begin", "Window", "in_each_frame", "over_time", "roll_window", "window_stride"]

STATISTICS = "running"  # nodes whose scope ends in this stay in float when the rest is quantized
MAY_OVERFLOW = ("Div", "Exp", "Log", "Pow", "Reciprocal", "Sqrt")
Begin = Callable[[ir.Value, ir.Value, int], ir.Value]
"""Of the past and the step's frames (both with channels last) and the axis of time, makes the past that is used."""


@dataclass(frozen=True)
class Window:
    """A window over time, in frames."""

    span: int
    """From its first frame to its last."""
    stride: int = 1
    """By how many frames it moves."""
    before: int = 0
    """Frames that the whole sequence is padded with at its beginning,"""
    after: int = 0
    """and behind its end."""


def window_stride(node: ir.Node) -> int:
    """Return by how many frames the window of a Conv or a pool over the sequence graph moves."""
    assert node.inputs[0] is not None
    sizes = tuple(node.inputs[0].shape or ())[2:]
    place = next((place for place, size in enumerate(sizes) if not isinstance(size, int)), None)
    return 1 if place is None else int(attribute(node, "strides", [1] * len(sizes))[place])


def in_each_frame(source: Stepped) -> bool:
    """Tell whether a Conv or a pool goes over the features of each frame: time is where it has its examples."""
    return source.timing is not None and source.timing.axis in (0, None)


def over_time(node: ir.Node, kernel: Sequence[int], timing: Timing | None) -> tuple[Window, dict[str, Any]]:
    """Take a Conv or a pool over `(batch, channels, axes...)` apart: its window over time, and what is left.

    Returns the window and the attributes that a node over one step's window needs: the padding of all axes but time.
    """
    assert node.inputs[0] is not None
    if timing is None or timing.axis is None or timing.axis < 2:
        raise refusal(node, "time is not an axis that it moves along", "give it (batch, time, features)")
    place, rank = timing.axis - 2, len(kernel)
    strides, dilations = (list(attribute(node, name, [1] * rank)) for name in ("strides", "dilations"))
    spans = [dilation * (size - 1) + 1 for dilation, size in zip(dilations, kernel, strict=True)]
    sizes = list(node.inputs[0].shape or ())[2:]
    sizes[place] = -timing.lag  # its length, but for a multiple of the chunk and so of the stride
    pads = [_padding(node, axis, spans[axis], strides[axis], sizes[axis]) for axis in range(rank)]
    ends = zip(sizes, pads, spans, strides, strict=True)
    if attribute(node, "ceil_mode", 0) and any((size + sum(pad) - span) % move for size, pad, span, move in ends):
        raise refusal(node, "its last window goes beyond the padding (ceil_mode)", "use ceil_mode=False")
    window = Window(spans[place], strides[place], *pads[place])
    pads[place] = (0, 0)
    edges = [pair[side] for side in (0, 1) for pair in pads]
    return window, {"strides": strides, "dilations": dilations, "pads": edges, "kernel_shape": list(kernel)}


def _padding(node: ir.Node, place: int, span: int, stride: int, size: Any) -> tuple[int, int]:
    """Return the padding at both ends of an axis of this size."""
    auto = attribute(node, "auto_pad", "NOTSET")
    if auto == "NOTSET":
        pads = attribute(node, "pads", [0, 0] * (place + 1))
        return int(pads[place]), int(pads[len(pads) // 2 + place])
    if auto == "VALID":
        return 0, 0
    total = max(span - (size % stride or stride), 0)  # as many outputs as strides begin within the axis
    small, large = total // 2, total - total // 2
    return (small, large) if auto == "SAME_UPPER" else (large, small)


def roll_window(
    node: ir.Node, source: Stepped, window: Window, step: StepBuilder, begin: Begin | None = None
) -> tuple[ir.Value, Timing]:
    """Put the past that a window needs before the step's frames.

    Takes and gives `(batch, channels, axes...)`, time among the axes; returns also the timing of what the window gives.
    The past begins with zeros, like the padding of the whole sequence, unless `begin` makes something else of it.
    """
    original = node.inputs[0]
    assert original is not None
    assert source.timing is not None
    late = window.before > 0 and source.timing.delay > 0 and source.timing.delay % source.timing.frames > 0
    # what the stream gives before the first frame must not stand where the padding belongs
    if late and not _is_finite(original):
        source, late = step.align(source, original), False
    timing, rank = source.timing, len(original.shape or ())
    assert timing is not None
    assert timing.axis is not None
    given = timing.window(window.span, window.stride, window.before, window.after)
    past = given.delay * window.stride + window.before - timing.delay
    # with channels last: the layout of the frames themselves, and of TFLite
    sizes, axis = _channels_last(step_shape(original, timing, step.batch)), timing.axis - 1
    value = step.op("Transpose", source.value, perm=_channels_last(range(rank)))
    if late:
        value = _blanked(value, axis, rank, timing, step)
    if past < 0:
        value = step.cut(value, axis, -past, timing.frames)
    elif past > 0:
        state = step.state("past", (*sizes[:axis], past, *sizes[axis + 1 :]), timing.hold_steps)
        value = step.op("Concat", begin(state.input, value, axis) if begin else state.input, value, axis=axis)
        state.output = step.cut(value, axis, timing.frames, timing.frames + past)
    if past >= window.span:  # zeros before the sequence, for which nothing must be given
        value = step.cut(value, axis, 0, timing.frames - window.stride + window.span)
    return step.op("Transpose", value, perm=[0, rank - 1, *range(1, rank - 1)]), given


def _channels_last(items: Sequence[int]) -> list[int]:
    return [items[0], *items[2:], items[1]]


def _is_finite(value: ir.Value) -> bool:
    """Whether zero times this value is zero even where it is made of frames that mean nothing."""
    seen: set[ir.Node | None] = {None}
    nodes = [value.producer()]
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        if node.op_type in MAY_OVERFLOW:
            return False
        seen.add(node)
        nodes.extend(item.producer() for item in node.inputs if item is not None)
    return True


def _blanked(value: ir.Value, axis: int, rank: int, timing: Timing, step: StepBuilder) -> ir.Value:
    """Put zeros in place of what comes before the first frame, in the step that has both."""
    scope, step.scope = step.scope, f"{step.scope}/{STATISTICS}"
    begun = step.state("begun", [step.batch] + [1] * (rank - 1), timing.hold_steps)
    valid = np.arange(timing.frames) >= timing.delay % timing.frames
    along_time = [timing.frames if place == axis else 1 for place in range(rank)]
    mask = step.op("Max", begun.input, step.constant(valid.astype(np.float32).reshape(along_time), "valid"))
    begun.output = step.cut(mask, axis, timing.frames - 1, timing.frames)
    step.scope = scope
    return step.op("Mul", value, mask)
