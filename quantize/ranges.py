"""The int8 scale of what the products of a step graph read, for back ends that fix it beforehand."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from edgernn.quantize.calibrate import Ranges
from edgernn.quantize.products import matrix_of
from edgernn.quantize.streaming import StepGraph
from edgernn.spec import QuantParams

__all__ = ["choose", "product_inputs", "state_values"]

MOST_LEVELS = 255


def product_inputs(step: StepGraph) -> set[ir.Value]:
    """Return what products with constant matrices read."""
    read = {node.inputs[0] for node in step.model.graph.all_nodes() if matrix_of(node) is not None}
    return {value for value in read if value is not None and _is_float(value)}


def choose(ranges: Ranges, values: Iterable[ir.Value]) -> dict[ir.Value, QuantParams]:
    """Return the int8 quantization of each value in `values`: all that was observed, and exactly zero."""
    return {value: _params(*ranges[value.name or ""]) for value in values}


def _params(low: float, high: float) -> QuantParams:
    low, high = min(0.0, low), max(0.0, high)
    scale = (high - low) / MOST_LEVELS or 1.0 / MOST_LEVELS
    return QuantParams(scale, round(-128 - low / scale))


def state_values(step: StepGraph) -> list[tuple[ir.Value, ir.Value]]:
    """Return for each state the values that bring it in and take it out."""
    graph = step.model.graph
    return list(zip(graph.inputs[step.inputs :], graph.outputs[len(step.timings) :], strict=True))


def _is_float(value: ir.Value) -> bool:
    return value.dtype == ir.DataType.FLOAT and not value.is_initializer()
