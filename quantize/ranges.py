"""Which values of a step graph are quantized, and with what scale.

Values that one quantization must serve form a group: a state's input and output, so that a state is carried bit for
bit, and the two sides of operators that only move data. Inside TFLite, sigmoid, tanh and softmax have fixed scales.
"""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from edgernn.quantize.calibrate import Ranges
from edgernn.quantize.cells import IN_FLOAT
from edgernn.quantize.graph import scope_of
from edgernn.quantize.products import in_front_end, matrix_of
from edgernn.quantize.rules.attention import ATTENTION
from edgernn.quantize.rules.pooling import STATISTICS
from edgernn.quantize.streaming import StepGraph
from edgernn.spec import QuantParams

__all__ = ["FIXED", "choose", "everything", "product_inputs", "state_values"]

FIXED = {"Sigmoid": QuantParams(1 / 256, -128), "Softmax": QuantParams(1 / 256, -128), "Tanh": QuantParams(1 / 128, 0)}
"""What TFLite's int8 kernels of these operators give (tensorflow.org/lite/performance/quantization_spec)."""

MOVES = ("Concat", "Gather", "MaxPool", "AveragePool", "Reshape", "Slice", "Split", "Transpose")
COMPUTES = ("Add", "Conv", "LeakyRelu", "MatMul", "Mul", "Relu", "Sub", *FIXED)
MOST_LEVELS = 255


def everything(step: StepGraph) -> set[ir.Value]:
    """Choose every value between operators that have an int8 kernel: whole runs of the graph stay in integers.

    Not chosen: what is fused away (a product before its bias, a sum before its ReLU), statistics over all frames so
    far, the cell state of an LSTM, and operators such as LayerNormalization that eight bits would ruin; these stay in
    float between two conversions.
    """
    chosen: set[ir.Value] = set()
    for node in step.model.graph:
        if _in_integers(node):
            chosen.update(value for value in (*node.inputs, *node.outputs) if value is not None)
    return {value for value in chosen if _is_float(value) and not _is_fused(value)}


def product_inputs(step: StepGraph) -> set[ir.Value]:
    """Choose what products with constant matrices read, and nothing else."""
    read = {node.inputs[0] for node in step.model.graph if matrix_of(node) is not None}
    return {value for value in read if value is not None and _is_float(value)}


def choose(step: StepGraph, ranges: Ranges, values: Iterable[ir.Value]) -> dict[ir.Value, QuantParams]:
    """Return the int8 quantization of each value in `values`."""
    wanted = set(values)
    root = _groups(step, wanted)
    members: dict[ir.Value, list[ir.Value]] = {}
    for value in wanted:
        members.setdefault(root(value), []).append(value)
    return {value: params for group in members.values() for params in [_params(group, ranges)] for value in group}


def _params(group: Iterable[ir.Value], ranges: Ranges) -> QuantParams:
    low = min(0.0, *(ranges[value.name or ""][0] for value in group))
    high = max(0.0, *(ranges[value.name or ""][1] for value in group))
    producers = [value.producer() for value in group]
    for fixed in {FIXED[node.op_type] for node in producers if node is not None and node.op_type in FIXED}:
        least, most = ((level - fixed.zero_point) * fixed.scale for level in (-128, 127))
        if least <= low and high <= most + fixed.scale:  # 1.0 itself is one level beyond: it saturates to 127/128
            return fixed
    scale = (high - low) / MOST_LEVELS or 1.0 / MOST_LEVELS
    return QuantParams(scale, round(-128 - low / scale))


def _groups(step: StepGraph, wanted: set[ir.Value]):  # type: ignore[no-untyped-def]
    parent: dict[ir.Value, ir.Value] = {}

    def root(value: ir.Value) -> ir.Value:
        while value in parent:
            value = parent[value]
        return value

    def join(first: ir.Value, second: ir.Value) -> None:
        if first in wanted and second in wanted and root(first) is not root(second):
            parent[root(first)] = root(second)

    for entering, leaving in state_values(step):
        join(entering, leaving)
    for node in step.model.graph:
        if node.op_type in MOVES:
            moved = [v for v in (*node.inputs, *node.outputs) if v is not None and not v.is_initializer()]
            for value in moved[1:]:
                join(moved[0], value)
    return root


def state_values(step: StepGraph) -> list[tuple[ir.Value, ir.Value]]:
    """Return for each state the value that brings it in, and the one that computes what goes out."""
    graph = step.model.graph
    pairs = zip(graph.inputs[step.inputs :], graph.outputs[len(step.timings) :], strict=True)
    return [(entering, _computed(leaving)) for entering, leaving in pairs]


def _computed(value: ir.Value) -> ir.Value:
    """See through the Identity that gives a value a second name as an output."""
    node = value.producer()
    return node.inputs[0] if node is not None and node.op_type == "Identity" and node.inputs[0] else value


def _in_integers(node: ir.Node) -> bool:
    if _in_float(node):
        return False
    if node.op_type == "MatMul":
        return node.inputs[1] is not None and node.inputs[1].is_initializer()
    return node.op_type in (*MOVES, *COMPUTES)


def _in_float(node: ir.Node) -> bool:
    return in_front_end(node) or scope_of(node).rpartition("/")[2] in (ATTENTION, STATISTICS, IN_FLOAT)


def _is_float(value: ir.Value) -> bool:
    return value.dtype == ir.DataType.FLOAT and not value.is_initializer()


def _is_fused(value: ir.Value) -> bool:
    """Whether TFLite computes this value only inside another operator."""
    node, uses = value.producer(), value.consumers()
    if node is None or len(uses) != 1 or value.is_graph_output():
        return False
    adds_constant = uses[0].op_type == "Add" and any(v is not None and v.is_initializer() for v in uses[0].inputs)
    if node.op_type in ("MatMul", "Conv") and adds_constant:
        return True
    return uses[0].op_type == "Relu" and node.op_type in ("Add", "MatMul", "Conv", "Sub", "Mul")
