"""Functions of keras.ops that make one number of several."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from edgernn.quantize.from_keras import Call, Emitter, emits, refuse
from edgernn.quantize.graph import Builder

__all__ = ["epsilon", "mean", "summed"]

ATTRIBUTED = {"Amax": "ReduceMax", "Amin": "ReduceMin", "Max": "ReduceMax", "Mean": "ReduceMean", "Min": "ReduceMin"}


def summed(x: ir.Value, axes: list[int], keep: bool, graph: Builder) -> ir.Value:
    """Return the sum along some axes."""
    return graph.op("ReduceSum", x, graph.constant(np.array(axes), "axes"), keepdims=int(keep))


def mean(x: ir.Value, axes: list[int], keep: bool, graph: Builder) -> ir.Value:
    """Return the mean along some axes."""
    return graph.op("ReduceMean", x, axes=axes, keepdims=int(keep))


def epsilon(settings: Any) -> float:
    """Return the `epsilon` of a layer or operation."""
    return 1e-7 if settings.epsilon is None else float(settings.epsilon)  # keras.backend.epsilon


@emits(*ATTRIBUTED, of="ops")
def _reduce(operation: Any, call: Call, graph: Emitter) -> ir.Value:
    if getattr(operation, "initial", None) is not None:
        raise refuse(operation, "it begins with an initial value", "use keras.ops.maximum or minimum on the result")
    op_type, axes = ATTRIBUTED[type(operation).__name__], call.axes(operation.axis)
    return graph.op(op_type, call.operands(graph)[0], axes=axes, keepdims=int(operation.keepdims))


@emits("Sum", of="ops")
def _sum(operation: Any, call: Call, graph: Emitter) -> ir.Value:
    return summed(call.operands(graph)[0], call.axes(operation.axis), operation.keepdims, graph)


@emits("Prod", of="ops")
def _prod(operation: Any, call: Call, graph: Emitter) -> ir.Value:
    return graph.op(
        "ReduceProd", call.operands(graph)[0], axes=call.axes(operation.axis), keepdims=int(operation.keepdims)
    )


@emits("Var", "Std", of="ops")
def _spread(operation: Any, call: Call, graph: Emitter) -> ir.Value:
    axes = call.axes(operation.axis)
    variance = _variance(call.operands(graph)[0], axes, operation.keepdims, graph)
    return graph.op("Sqrt", variance) if type(operation).__name__ == "Std" else variance


@emits("Moments", of="ops")
def _moments(operation: Any, call: Call, graph: Emitter) -> list[ir.Value]:
    axes = call.axes(operation.axes)
    return [part(call[0], axes, operation.keepdims, graph) for part in (mean, _variance)]


def _variance(x: ir.Value, axes: list[int], keep: bool, graph: Builder) -> ir.Value:
    centred = graph.op("Sub", x, mean(x, axes, True, graph))
    return mean(graph.op("Mul", centred, centred), axes, keep, graph)


@emits("Logsumexp", of="ops")
def _log_sum_exp(operation: Any, call: Call, graph: Emitter) -> ir.Value:
    axes = call.axes(operation.axis)
    largest = graph.op("ReduceMax", call[0], axes=axes, keepdims=1)
    total = summed(graph.op("Exp", graph.op("Sub", call[0], largest)), axes, True, graph)
    value = graph.op("Add", graph.op("Log", total), largest)
    return value if operation.keepdims else graph.op("Squeeze", value, graph.constant(np.array(axes), "axes"))


@emits("Norm", of="ops")
def _norm(operation: Any, call: Call, graph: Emitter) -> ir.Value:
    axes = call.axes(operation.axis)
    return _length(call[0], axes, operation.ord, operation.keepdims, operation, graph)


def _length(x: ir.Value, axes: list[int], order: Any, keep: bool, operation: Any, graph: Builder) -> ir.Value:
    if len(axes) > 1 and order not in (None, "fro"):
        raise refuse(operation, "it is the norm of a matrix", "take the norm along one axis")
    if order in (None, 2, "euclidean", "fro"):
        return graph.op("Sqrt", summed(graph.op("Mul", x, x), axes, keep, graph))
    if order == 1:
        return summed(graph.op("Abs", x), axes, keep, graph)
    if order == np.inf:
        return graph.op("ReduceMax", graph.op("Abs", x), axes=axes, keepdims=int(keep))
    raise refuse(operation, f"a norm of order {order}", "use order 1, 2 or infinity")


@emits("Normalize", of="ops")
def _normalize(operation: Any, call: Call, graph: Emitter) -> ir.Value:
    """Divided by its norm, or by `epsilon` where that is more (for order 2: of the square, as Keras has it)."""
    axes = call.axes(operation.axis)
    least = graph.constant(epsilon(operation), "epsilon")
    if operation.order == 2:
        squares = graph.op("Max", summed(graph.op("Mul", call[0], call[0]), axes, True, graph), least)
        return graph.op("Div", call[0], graph.op("Sqrt", squares))
    length = _length(call[0], axes, operation.order, True, operation, graph)
    return graph.op("Div", call[0], graph.op("Max", length, least))


@emits("Any", "All", of="ops")
def _logical(operation: Any, call: Call, graph: Emitter) -> ir.Value:
    op_type = "ReduceMax" if type(operation).__name__ == "Any" else "ReduceMin"
    numbers = graph.op("Cast", call.operands(graph, "bool")[0], to=int(ir.DataType.FLOAT))
    reduced = graph.op(op_type, numbers, axes=call.axes(operation.axis), keepdims=int(operation.keepdims))
    return graph.op("Greater", reduced, graph.constant(0.5))
