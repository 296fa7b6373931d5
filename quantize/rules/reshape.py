"""Reshape: the time axis must come out whole."""

from __future__ import annotations

import math
from collections.abc import Sequence

import onnx_ir as ir

from edgernn.quantize.graph import array_of
from edgernn.quantize.streaming import Kind, StepBuilder, Stepped, refusal, rule
from edgernn.quantize.timing import Timing

__all__: list[str] = []

FRAME_BY_FRAME = "keep (batch, time) and reshape the features only, in Keras by TimeDistributed"
BATCH, TIME = 1_000_003, 1_000_033  # two primes in the place of what is open: they can be told in every product


def _stacked(node: ir.Node) -> int:
    """Return how many frames are put side by side into one: `(batch, time, …)` to `(batch, time / n, n, …)`."""
    original = node.inputs[0]
    sizes = list(original.shape or ()) if original is not None else []
    wanted = [int(size) for size in array_of(node.inputs[1]).ravel()]
    features = [size for size in sizes[2:] if isinstance(size, int)]
    if wanted[:2] != [0, -1] or len(features) != len(sizes) - 2 or any(isinstance(size, int) for size in sizes[:2]):
        return 1
    frames, rest = divmod(math.prod(wanted[2:]), math.prod(features))
    return frames if frames > 1 and not rest else 1


@rule("Reshape", kind=Kind.POINTWISE, stride=_stacked)
def reshape(node: ir.Node, inputs: Sequence[Stepped | None], step: StepBuilder) -> Sequence[Stepped]:
    """Axes before and behind time may be split and joined; time may move, or give several frames to one."""
    source, original = inputs[0], node.inputs[0]
    assert source is not None
    assert source.timing is not None
    assert original is not None
    frames = _stacked(node)
    if frames > 1 and source.timing.axis == 1:
        return [_stack(node, step.delay(source, -source.timing.delay % frames, original), frames, step)]
    sizes = _sizes(original, source.timing)
    target = _target(node, sizes)
    axis = _time_axis(sizes, target, source.timing)
    if source.timing.axis is not None and axis is None:
        raise refusal(node, "it mixes time with other axes", FRAME_BY_FRAME)
    shape = [_in_step(size, place == axis, source.timing, step) for place, size in enumerate(target)]
    return [Stepped(step.op("Reshape", source.value, step.constant(shape, "shape")), source.timing.on_axis(axis))]


def _stack(node: ir.Node, source: Stepped, frames: int, step: StepBuilder) -> Stepped:
    assert source.timing is not None
    timing = source.timing.window(frames, frames, 0)
    shape = [step.batch, timing.frames, *(int(size) for size in array_of(node.inputs[1]).ravel()[2:])]
    return Stepped(step.op("Reshape", source.value, step.constant(shape, "shape")), timing)


def _sizes(value: ir.Value, timing: Timing) -> list[int]:
    return [
        TIME if axis == timing.axis else size if isinstance(size, int) else BATCH
        for axis, size in enumerate(value.shape or ())
    ]


def _target(node: ir.Node, sizes: Sequence[int]) -> list[int]:
    wanted = [int(size) for size in array_of(node.inputs[1]).ravel()]
    target = [sizes[place] if size == 0 else size for place, size in enumerate(wanted)]
    if -1 in target:
        left = math.prod(sizes) / -math.prod(target)
        target[target.index(-1)] = int(left)
    if math.prod(target) != math.prod(sizes):
        raise refusal(node, f"its shape {wanted} mixes time with other axes, or is made for one length", FRAME_BY_FRAME)
    return target


def _time_axis(sizes: Sequence[int], target: Sequence[int], timing: Timing) -> int | None:
    if timing.axis is None:
        return None
    before = math.prod(sizes[: timing.axis])
    return next((a for a, size in enumerate(target) if size == TIME and math.prod(target[:a]) == before), None)


def _in_step(size: int, is_time: bool, timing: Timing, step: StepBuilder) -> int:
    if is_time:
        return timing.frames
    return size // BATCH * step.batch if size % BATCH == 0 else size
