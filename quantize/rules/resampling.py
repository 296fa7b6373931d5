"""More frames than come in: each repeated (Resize), or spread over several (ConvTranspose)."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgernn.quantize.graph import array_of, attribute
from edgernn.quantize.rules.window import Window, roll_window
from edgernn.quantize.streaming import Kind, StepBuilder, Stepped, refusal, rule
from edgernn.quantize.timing import Timing

__all__: list[str] = []

REPEATING = (("asymmetric", "floor"), ("half_pixel", "round_prefer_floor"), ("half_pixel", "round_prefer_ceil"))
"""How a Resize by whole factors takes the nearest value: all of these repeat each one."""


def _repeats(node: ir.Node) -> list[int]:
    """Return how often a Resize repeats what is along each axis."""
    known = len(node.inputs) > 2 and node.inputs[2] is not None
    scales = array_of(node.inputs[2]).tolist() if known else []
    nearest = attribute(node, "mode", "nearest") == "nearest"
    way = attribute(node, "coordinate_transformation_mode", "half_pixel")
    whole = scales and all(scale >= 1 and scale == int(scale) for scale in scales)
    if not nearest or not whole or (way, attribute(node, "nearest_mode", "round_prefer_floor")) not in REPEATING:
        raise refusal(
            node,
            f"it resizes by {scales or 'a size that is computed'}, and not by repeating values",
            "use the nearest value and whole factors, as UpSampling1D(2) does",
        )
    return [int(scale) for scale in scales]


def _repeat_stride(node: ir.Node) -> Fraction:
    assert node.inputs[0] is not None
    *_, time = (axis for axis, size in enumerate(node.inputs[0].shape or ()) if not isinstance(size, int))
    return Fraction(1, _repeats(node)[time])


@rule("Resize", kind=Kind.POINTWISE, stride=_repeat_stride)
def resize(node: ir.Node, inputs: Sequence[Stepped | None], step: StepBuilder) -> Sequence[Stepped]:
    """Each frame, and each value along other axes, as often as the factor says."""
    source, original = inputs[0], node.inputs[0]
    assert source is not None
    assert original is not None
    assert source.timing is not None
    timing, value, factors = source.timing, source.value, _repeats(node)
    for axis, (factor, size) in enumerate(zip(factors, original.shape or (), strict=True)):
        if factor > 1:
            count = timing.frames if axis == timing.axis else size
            if not isinstance(count, int):
                raise refusal(node, "it repeats the batch", "repeat frames or features")
            places = np.repeat(np.arange(count), factor)
            value = step.op("Gather", value, step.constant(places, "places"), axis=axis)
    return [Stepped(value, timing if timing.axis is None else timing.faster(factors[timing.axis]))]


def _spread_stride(node: ir.Node) -> Fraction:
    return Fraction(1, int(attribute(node, "strides", [1])[0]))


@rule("ConvTranspose", kind=Kind.CAUSAL, stride=_spread_stride)
def transposed_convolution(node: ir.Node, inputs: Sequence[Stepped | None], step: StepBuilder) -> Sequence[Stepped]:
    """A convolution that gives `stride` frames at once, side by side: frame `n` for each phase `n % stride`.

    `y[t * stride + p] = sum over m of x[t - m] * w[m * stride + p]`, so that the past which is kept is that of the
    input (fewer frames than what overlaps in the output, and no sum that is carried on).
    """
    source, original = inputs[0], node.inputs[0]
    assert source is not None
    assert original is not None
    assert source.timing is not None
    weights, groups = _spread(node), int(attribute(node, "group", 1))
    if weights.ndim != 3 or source.timing.axis != 2:
        raise refusal(node, "it spreads over other axes than time", "use Conv1DTranspose over (batch, time, features)")
    stride, reach = int(attribute(node, "strides", [1])[0]), weights.shape[2]
    kernel = _phases(weights, stride, groups)
    taps, width = kernel.shape[2], weights.shape[1] * groups
    value, timing = roll_window(node, source, Window(taps, before=taps - 1), step)
    constants = [step.constant(kernel, "kernel")]
    if len(inputs) > 2 and node.inputs[2] is not None:
        bias = array_of(node.inputs[2]).reshape(groups, 1, -1)
        constants.append(step.constant(np.tile(bias, (1, stride, 1)).ravel(), "bias"))
    value = step.op("Conv", value, *constants, group=groups, kernel_shape=[taps])
    value = _side_by_side(value, (step.batch, timing.frames, groups, stride, width // groups), step)
    return [Stepped(value, _cropped(node, timing.faster(stride), reach - stride))]


def _spread(node: ir.Node) -> NDArray[np.float32]:
    """Return the weights `(in, out / groups, reach)` with the zeros of the dilation between them."""
    weights = array_of(node.inputs[1])
    dilation = int(attribute(node, "dilations", [1])[0])
    spread = np.zeros((*weights.shape[:2], dilation * (weights.shape[2] - 1) + 1), np.float32)
    spread[:, :, ::dilation] = weights
    return spread


def _phases(weights: NDArray[np.float32], stride: int, groups: int) -> NDArray[np.float32]:
    """Return the kernel of a Conv with `stride` times the channels: (groups * stride * out, in / groups, taps)."""
    channels, out, reach = weights.shape
    taps = -(-reach // stride)
    padded = np.pad(weights, ((0, 0), (0, 0), (0, taps * stride - reach)))
    parts = padded.reshape(groups, channels // groups, out, taps, stride)
    return parts.transpose(0, 4, 2, 1, 3)[..., ::-1].reshape(groups * stride * out, channels // groups, taps)


def _side_by_side(value: ir.Value, sizes: tuple[int, int, int, int, int], step: StepBuilder) -> ir.Value:
    """(batch, groups * stride * out, frames) to (batch, groups * out, frames * stride)."""
    batch, frames, groups, stride, out = sizes
    value = step.op("Transpose", value, perm=[0, 2, 1])
    if groups > 1:
        value = step.op("Reshape", value, step.constant([batch, frames, groups, stride, out], "shape"))
        value = step.op("Transpose", value, perm=[0, 1, 3, 2, 4])
    value = step.op("Reshape", value, step.constant([batch, frames * stride, groups * out], "shape"))
    return step.op("Transpose", value, perm=[0, 2, 1])


def _cropped(node: ir.Node, timing: Timing, tail: int) -> Timing:
    """Return the timing once the ends are cut; `tail` is how far the source's frames go beyond `stride` for each."""
    if attribute(node, "auto_pad", "NOTSET") not in ("NOTSET", "VALID") or attribute(node, "output_shape", None):
        raise refusal(node, "how it crops its output depends on its length", "give it pads instead of auto_pad")
    before, after = attribute(node, "pads", [0, 0])
    more = int(attribute(node, "output_padding", [0])[0])
    return timing.without_first(before).without_last(after - tail - more)
