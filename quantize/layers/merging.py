"""Layers and operators that join branches, and slices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from edgernn.quantize.from_keras import Call, Emitter, emits, refuse

__all__: list[str] = []

OPERATORS = {"Add": "Add", "Subtract": "Sub", "Multiply": "Mul", "Maximum": "Max", "Minimum": "Min", "Divide": "Div"}


@emits(*OPERATORS, "TrueDivide", of="layers ops")
def _elementwise(layer: Any, call: Call, graph: Emitter) -> ir.Value:
    """A merging layer (a list of tensors), or an operator between a tensor and a tensor or number."""
    op_type = OPERATORS.get(type(layer).__name__, "Div")
    operands = call.operands(graph)
    value = operands[0]
    for other in operands[1:]:
        value = graph.op(op_type, value, other)
    return value


@emits("Average")
def _average(layer: Any, inputs: Sequence[ir.Value], graph: Emitter) -> ir.Value:
    total = inputs[0]
    for other in inputs[1:]:
        total = graph.op("Add", total, other)
    return graph.op("Mul", total, graph.constant(1 / len(inputs), "share"))


@emits("Concatenate", of="layers ops")
def _concatenate(layer: Any, inputs: Call, graph: Emitter) -> ir.Value:
    if layer.axis not in (-1, inputs.rank - 1):
        raise refuse(layer, f"it joins along axis {layer.axis}", "join along the features (axis=-1)")
    return graph.op("Concat", *inputs, axis=-1)


@emits("GetItem", of="ops")
def _get_item(layer: Any, inputs: Call, graph: Emitter) -> ir.Value:
    """x[:, -1] (the last frame) and x[:, n:] (all but the first frames)."""
    key = inputs.args[1]
    parts = list(key) if isinstance(key, tuple | list) else [key]
    if parts[-1] is Ellipsis:  # stands for the axes that are left
        parts.pop()
    everything = slice(None)
    if len(parts) > 1 and parts[0] == everything and all(part == everything for part in parts[2:]):
        if parts[1] == -1 and inputs.rank == 3:
            return graph.op("Gather", inputs[0], graph.constant(np.array(-1), "last"), axis=1)
        if isinstance(parts[1], slice) and parts[1].stop is None and parts[1].step in (None, 1):
            start = parts[1].start or 0
            if start >= 0:
                return _drop_first(inputs[0], start, graph) if start else inputs[0]
    raise refuse(layer, f"it takes [{key}]", "a stream has x[:, -1] (the newest frame) and x[:, n:]")


def _drop_first(x: ir.Value, frames: int, graph: Emitter) -> ir.Value:
    """Drop the first frames of a sequence."""
    bounds = ([frames], [np.iinfo(np.int64).max], [1])
    return graph.op("Slice", x, *(graph.constant(np.array(bound), "bound") for bound in bounds))
