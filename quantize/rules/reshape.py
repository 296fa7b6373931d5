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


@rule("Reshape", kind=Kind.POINTWISE)
def reshape(node: ir.Node, inputs: Sequence[Stepped | None], step: StepBuilder) -> Sequence[Stepped]:
    """Axes before and behind time may be split and joined, time itself may only move."""
    source, original = inputs[0], node.inputs[0]
    assert source is not None
    assert source.timing is not None
    assert original is not None
    sizes = _sizes(original, source.timing)
    target = _target(node, sizes)
    axis = _time_axis(sizes, target, source.timing)
    if source.timing.axis is not None and axis is None:
        raise refusal(node, "it mixes time with other axes", FRAME_BY_FRAME)
    shape = [_in_step(size, place == axis, source.timing, step) for place, size in enumerate(target)]
    return [Stepped(step.op("Reshape", source.value, step.constant(shape, "shape")), source.timing.on_axis(axis))]


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
