"""Conv over time, alone or together with other axes."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from edgernn.quantize.graph import array_of, attribute
from edgernn.quantize.rules.window import in_each_frame, over_time, roll_window, window_stride
from edgernn.quantize.streaming import Kind, StepBuilder, Stepped, rule, values_of

__all__: list[str] = []


@rule("Conv", kind=Kind.WINDOW, stride=window_stride)
def convolution(node: ir.Node, inputs: Sequence[Stepped | None], step: StepBuilder) -> Sequence[Stepped]:
    """The same convolution over the past and the step's frames."""
    source, weights, *bias = inputs
    assert source is not None
    assert weights is not None
    if in_each_frame(source):
        return [Stepped(value, source.timing) for value in step.copy(node, values_of(inputs))]
    window, attributes = over_time(node, array_of(node.inputs[1]).shape[2:], source.timing)
    value, timing = roll_window(node, source, window, step)
    constants = [item.value for item in (weights, *bias) if item is not None]
    return [Stepped(step.op("Conv", value, *constants, **attributes, group=attribute(node, "group", 1)), timing)]
