"""Arithmetic, element by element: merging layers, Python operators, and functions of keras.ops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir

from edgernn.quantize.from_keras import Call, Emitter, emits, refuse
from edgernn.quantize.graph import Builder

__all__ = ["cast"]

UNARY = {
    "Abs": "Abs", "Absolute": "Abs", "Ceil": "Ceil", "Cos": "Cos", "Erf": "Erf", "Exp": "Exp", "Floor": "Floor",
    "Log": "Log", "LogicalNot": "Not", "Negative": "Neg", "Round": "Round", "Sign": "Sign", "Sin": "Sin",
    "Sqrt": "Sqrt",
}  # fmt: skip
BINARY = {
    "Add": "Add", "Divide": "Div", "Fmax": "Max", "Fmin": "Min", "LogicalAnd": "And", "LogicalOr": "Or",
    "LogicalXor": "Xor", "Maximum": "Max", "Minimum": "Min", "Multiply": "Mul", "Power": "Pow", "Subtract": "Sub",
    "TrueDivide": "Div",
}  # fmt: skip
COMPARISONS = {
    "Equal": "Equal", "Greater": "Greater", "GreaterEqual": "GreaterOrEqual", "Less": "Less",
    "LessEqual": "LessOrEqual",
}  # fmt: skip


def _scaled(op_type: str, factor: float) -> Callable[[Builder, ir.Value], ir.Value]:
    return lambda graph, x: graph.op("Mul", graph.op(op_type, x), graph.constant(factor))


def _logarithm_above_one(graph: Builder, x: ir.Value) -> ir.Value:
    return graph.op("Log", graph.op("Add", x, graph.constant(1.0)))


def _exponential_of_two(graph: Builder, x: ir.Value) -> ir.Value:
    return graph.op("Exp", graph.op("Mul", x, graph.constant(np.log(2.0))))


COMPOSED: dict[str, Callable[[Builder, ir.Value], ir.Value]] = {
    "Exp2": _exponential_of_two,
    "Expm1": lambda graph, x: graph.op("Sub", graph.op("Exp", x), graph.constant(1.0)),
    "Log10": _scaled("Log", 1 / np.log(10.0)),
    "Log1p": _logarithm_above_one,
    "Log2": _scaled("Log", 1 / np.log(2.0)),
    "Reciprocal": lambda graph, x: graph.op("Div", graph.constant(1.0), x),
    "Rsqrt": lambda graph, x: graph.op("Div", graph.constant(1.0), graph.op("Sqrt", x)),
    "Square": lambda graph, x: graph.op("Mul", x, x),
    "Tan": lambda graph, x: graph.op("Div", graph.op("Sin", x), graph.op("Cos", x)),
}


@emits(*UNARY, *COMPOSED, of="ops")
def _unary(operation: Any, call: Call, graph: Emitter) -> ir.Value:
    (x,) = call.operands(graph)
    name = type(operation).__name__
    return COMPOSED[name](graph, x) if name in COMPOSED else graph.op(UNARY[name], x)


@emits("Add", "Multiply", "Subtract", "Maximum", "Minimum")
@emits(*BINARY, of="ops")
def _binary(operation: Any, call: Call, graph: Emitter) -> ir.Value:
    """A merging layer (a list of tensors), or an operator between a tensor and a tensor or number."""
    value, *others = call.operands(graph)
    for other in others:
        value = graph.op(BINARY[type(operation).__name__], value, other)
    return value


@emits("FloorDivide", of="ops")
def _floor_divide(operation: Any, call: Call, graph: Emitter) -> ir.Value:
    return graph.op("Floor", graph.op("Div", *call.operands(graph)))


@emits("Logaddexp", of="ops")
def _log_add_exp(operation: Any, call: Call, graph: Emitter) -> ir.Value:
    left, right = call.operands(graph)
    apart = graph.op("Abs", graph.op("Sub", left, right))
    return graph.op("Add", graph.op("Max", left, right), graph.op("Softplus", graph.op("Neg", apart)))


@emits("Average")
def _average(layer: Any, call: Call, graph: Emitter) -> ir.Value:
    total, *others = call
    for other in others:
        total = graph.op("Add", total, other)
    return graph.op("Mul", total, graph.constant(1 / len(call), "share"))


@emits(*COMPARISONS, "NotEqual", of="ops")
def _compare(operation: Any, call: Call, graph: Emitter) -> ir.Value:
    operands = call.operands(graph, call.common_dtype)
    name = type(operation).__name__
    return (
        graph.op("Not", graph.op("Equal", *operands)) if name == "NotEqual" else graph.op(COMPARISONS[name], *operands)
    )


@emits("Where", of="ops")
def _where(operation: Any, call: Call, graph: Emitter) -> ir.Value:
    if len(call.args) != 3:
        raise refuse(operation, "it looks for the places where something is true", "give it the two values too")
    condition, *_ = call.operands(graph, "bool")
    _, *values = call.operands(graph)
    return graph.op("Where", condition, *values)


@emits("Clip", of="ops")
def _clip(operation: Any, call: Call, graph: Emitter) -> ir.Value:
    bounds = [np.asarray(bound, call.dtypes[0]) for bound in (operation.x_min, operation.x_max)]
    if any(bound.ndim for bound in bounds):
        raise refuse(operation, "its bounds differ from element to element", "use keras.ops.minimum and maximum")
    return graph.op("Clip", call.operands(graph)[0], *(graph.constant(bound, "bound") for bound in bounds))


@emits("Cast", "SaturateCast", of="ops")
def _cast(operation: Any, call: Call, graph: Emitter) -> ir.Value:
    return cast(call[0], call.tensors[0].dtype, call.dtypes[0], graph)


@emits("StopGradient", "Copy", "ConvertToTensor", of="ops")
def _nothing(operation: Any, call: Call, graph: Emitter) -> ir.Value:
    return call[0]


@emits("OnesLike", "ZerosLike", of="ops")
def _filled(operation: Any, call: Call, graph: Emitter) -> ir.Value:
    """A constant that follows the shape of what it is like, by arithmetic on that."""
    like = graph.op("Mul", call[0], graph.constant(np.zeros((), call.dtypes[0]), "zero"))
    ones = type(operation).__name__ == "OnesLike"
    return graph.op("Add", like, graph.constant(np.ones((), call.dtypes[0]), "one")) if ones else like


def cast(x: ir.Value, before: str, after: str, graph: Builder) -> ir.Value:
    """Return `x`, of the dtype `before`, as the dtype `after`."""
    return x if before == after else graph.op("Cast", x, to=int(ir.DataType.from_numpy(np.dtype(after))))
