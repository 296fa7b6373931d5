"""Activation functions: layers, functions of keras.ops, and those inside layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from edgernn.quantize.cells import Activation
from edgernn.quantize.from_keras import Call, Emitter, emit_layer, emit_trace, emits, refuse
from edgernn.quantize.graph import Builder
from edgernn.quantize.layer_call import Tensor
from edgernn.quantize.trace import trace

__all__ = ["activate", "recurrent_activation"]

Function = Callable[[Any, Builder, ir.Value], ir.Value]
"""Of the operation (for its settings), the graph and the value."""


def _silu(operation: Any, graph: Builder, x: ir.Value) -> ir.Value:
    return graph.op("Mul", x, graph.op("Sigmoid", x))


def _clip(low: float, high: float) -> Function:
    return lambda operation, graph, x: graph.op("Clip", x, graph.constant(low), graph.constant(high))


def _hard_silu(operation: Any, graph: Builder, x: ir.Value) -> ir.Value:
    return graph.op("Mul", x, graph.op("HardSigmoid", x, alpha=1 / 6, beta=0.5))


def _mish(operation: Any, graph: Builder, x: ir.Value) -> ir.Value:
    return graph.op("Mul", x, graph.op("Tanh", graph.op("Softplus", x)))


def _gelu(operation: Any, graph: Builder, x: ir.Value) -> ir.Value:
    """Hendrycks and Gimpel 2016, arXiv:1606.08415, section 2: exact, or with their approximation by tanh."""
    if operation.approximate:
        cube = graph.op("Mul", graph.op("Mul", x, x), graph.op("Mul", x, graph.constant(0.044715)))
        scaled = graph.op("Mul", graph.op("Add", x, cube), graph.constant(np.sqrt(2 / np.pi)))
        inner = graph.op("Tanh", scaled)
    else:
        inner = graph.op("Erf", graph.op("Mul", x, graph.constant(np.sqrt(0.5))))
    half = graph.op("Mul", x, graph.constant(0.5))
    return graph.op("Mul", half, graph.op("Add", inner, graph.constant(1.0)))


def _celu(operation: Any, graph: Builder, x: ir.Value) -> ir.Value:
    """Barron 2017, arXiv:1704.07483: ELU of x / alpha, times alpha; the same above zero."""
    below = graph.op("Elu", graph.op("Mul", x, graph.constant(1 / operation.alpha)), alpha=1.0)
    return graph.op("Mul", below, graph.constant(float(operation.alpha)))


def _squareplus(operation: Any, graph: Builder, x: ir.Value) -> ir.Value:
    root = graph.op("Sqrt", graph.op("Add", graph.op("Mul", x, x), graph.constant(float(operation.b))))
    return graph.op("Mul", graph.op("Add", x, root), graph.constant(0.5))


def _log_sigmoid(operation: Any, graph: Builder, x: ir.Value) -> ir.Value:
    return graph.op("Neg", graph.op("Softplus", graph.op("Neg", x)))


def _soft_shrink(operation: Any, graph: Builder, x: ir.Value) -> ir.Value:
    threshold = float(operation.threshold)
    return graph.op("Sub", x, _clip(-threshold, threshold)(operation, graph, x))


def _hard_shrink(operation: Any, graph: Builder, x: ir.Value) -> ir.Value:
    far = graph.op("Greater", graph.op("Abs", x), graph.constant(float(operation.threshold)))
    return graph.op("Where", far, x, graph.constant(0.0))


def _threshold(operation: Any, graph: Builder, x: ir.Value) -> ir.Value:
    above = graph.op("Greater", x, graph.constant(float(operation.threshold)))
    return graph.op("Where", above, x, graph.constant(float(operation.default_value)))


def _sparse_sigmoid(operation: Any, graph: Builder, x: ir.Value) -> ir.Value:
    raised = graph.op("Add", _clip(-1.0, 1.0)(operation, graph, x), graph.constant(1.0))
    return graph.op("Mul", raised, graph.constant(0.5))


def _sparse_plus(operation: Any, graph: Builder, x: ir.Value) -> ir.Value:
    """0 up to -1, x from 1 on, and between them a parabola: the square of `_sparse_sigmoid`."""
    bent = _sparse_sigmoid(operation, graph, x)
    straight = graph.op("Relu", graph.op("Sub", x, graph.constant(1.0)))
    return graph.op("Add", graph.op("Mul", bent, bent), straight)


def _glu(operation: Any, graph: Builder, x: ir.Value) -> ir.Value:
    """Dauphin et al. 2016, arXiv:1612.08083."""
    left, right = graph.ops("Split", [x], 2, {"axis": int(operation.axis)})
    return graph.op("Mul", left, graph.op("Sigmoid", right))


def _relu(operation: Any, graph: Builder, x: ir.Value) -> ir.Value:
    """ReLU with any slope below a threshold, and any ceiling, as in keras.activations.relu."""
    slope, threshold = float(operation.negative_slope or 0.0), float(operation.threshold or 0.0)
    if threshold:
        value = graph.op("Where", graph.op("Greater", x, graph.constant(threshold)), x, graph.constant(0.0))
        below = graph.op("Min", graph.op("Sub", x, graph.constant(threshold)), graph.constant(0.0))
        value = graph.op("Add", value, graph.op("Mul", below, graph.constant(slope))) if slope else value
    else:
        value = graph.op("LeakyRelu", x, alpha=slope) if slope else graph.op("Relu", x)
    return value if operation.max_value is None else graph.op("Min", value, graph.constant(float(operation.max_value)))


def _leaky(operation: Any, graph: Builder, x: ir.Value) -> ir.Value:
    return graph.op("LeakyRelu", x, alpha=float(operation.negative_slope))


# class of keras.ops to what it computes
FUNCTIONS: dict[str, Function] = {
    "Celu": _celu,
    "Elu": lambda operation, graph, x: graph.op("Elu", x, alpha=float(operation.alpha)),
    "Gelu": _gelu,
    "Glu": _glu,
    "HardShrink": _hard_shrink,
    "HardSigmoid": lambda operation, graph, x: graph.op("HardSigmoid", x, alpha=1 / 6, beta=0.5),
    "HardSilu": _hard_silu,
    "HardTanh": _clip(-1.0, 1.0),
    "LeakyRelu": _leaky,
    "LogSigmoid": _log_sigmoid,
    "LogSoftmax": lambda operation, graph, x: graph.op("LogSoftmax", x, axis=int(operation.axis)),
    "Relu": lambda operation, graph, x: graph.op("Relu", x),
    "Relu6": _clip(0.0, 6.0),
    "Selu": lambda operation, graph, x: graph.op("Selu", x, alpha=1.6732632423543772, gamma=1.0507009873554805),
    "Sigmoid": lambda operation, graph, x: graph.op("Sigmoid", x),
    "Silu": _silu,
    "SoftShrink": _soft_shrink,
    "Softplus": lambda operation, graph, x: graph.op("Softplus", x),
    "Softsign": lambda operation, graph, x: graph.op("Softsign", x),
    "SparsePlus": _sparse_plus,
    "SparseSigmoid": _sparse_sigmoid,
    "Squareplus": _squareplus,
    "Tanh": lambda operation, graph, x: graph.op("Tanh", x),
    "TanhShrink": lambda operation, graph, x: graph.op("Sub", x, graph.op("Tanh", x)),
    "Threshold": _threshold,
}

# those of Keras' that are not written with keras.ops, so that they cannot be traced
BY_NAME: dict[str, Function] = {"hard_silu": _hard_silu, "mish": _mish}

# Keras' name to the name that the ONNX recurrent operators have for it, and its parameters
RECURRENT: dict[str, Activation] = {
    "tanh": ("Tanh", {}),
    "sigmoid": ("Sigmoid", {}),
    "relu": ("Relu", {}),
    "linear": ("Affine", {"alpha": 1.0, "beta": 0.0}),
    "hard_sigmoid": ("HardSigmoid", {"alpha": 1 / 6, "beta": 0.5}),
    "softsign": ("Softsign", {}),
    "softplus": ("Softplus", {}),
    "elu": ("Elu", {"alpha": 1.0}),
}


def activate(layer: Any, x: ir.Value, graph: Emitter, name: str = "activation") -> ir.Value:
    """Apply the activation that `layer` has under the attribute `name`: Keras' own, a layer, or anybody's function."""
    function = getattr(layer, name)
    known = _name_of(function)
    if function is None or known == "linear":
        return x
    if known == "sparsemax":
        raise refuse(layer, "sparsemax sorts its input, which TFLite has no operator for", "use softmax")
    if known in BY_NAME:
        return BY_NAME[known](None, graph, x)
    entered = Tensor(x, (None, None, None), "float32")  # of any rank: what acts on an axis counts from the last one
    if hasattr(function, "weights"):
        emitted = emit_layer(function, Call(function, (entered,), {}), graph)
        return emitted if isinstance(emitted, ir.Value) else emitted[0]
    where = f"layer '{layer.name}' ({type(layer).__name__}), its {name} {known}"
    return emit_trace(trace(function, [entered], {}, where), graph)[0]


def recurrent_activation(layer: Any, name: str) -> Activation | None:
    """Return what the ONNX recurrent operators call an activation of `layer`; None for one that they do not have."""
    return RECURRENT.get(_name_of(getattr(layer, name)))


def _name_of(function: Any) -> str:
    """Return the name of an activation of Keras; of anything else one that no rule has."""
    name, module = str(getattr(function, "__name__", type(function).__name__)), getattr(function, "__module__", "")
    return name if module.startswith("keras.src.activations") else f"{name} of your own"


@emits(*FUNCTIONS, of="ops")
def _function(operation: Any, call: Call, graph: Emitter) -> ir.Value:
    return FUNCTIONS[type(operation).__name__](operation, graph, call[0])


@emits("Activation", masked=True)
def _activation(layer: Any, inputs: Sequence[ir.Value], graph: Emitter) -> ir.Value:
    return activate(layer, inputs[0], graph)


@emits("ReLU", of="layers activations")
def _relu_layer(layer: Any, inputs: Sequence[ir.Value], graph: Emitter) -> ir.Value:
    return _relu(layer, graph, inputs[0])


@emits("LeakyReLU")
def _leaky_layer(layer: Any, inputs: Sequence[ir.Value], graph: Emitter) -> ir.Value:
    return _leaky(layer, graph, inputs[0])


@emits("PReLU")
def _prelu(layer: Any, inputs: Sequence[ir.Value], graph: Emitter) -> ir.Value:
    return graph.op("PRelu", inputs[0], graph.constant(layer.get_weights()[0], "alpha"))


@emits("ELU")
def _elu(layer: Any, inputs: Sequence[ir.Value], graph: Emitter) -> ir.Value:
    return graph.op("Elu", inputs[0], alpha=float(layer.alpha))


@emits("Softmax", of="layers ops")
def _softmax(layer: Any, inputs: Call, graph: Emitter) -> ir.Value:
    axes = layer.axis if isinstance(layer.axis, list | tuple) else [layer.axis]
    if len(axes) == 1:
        return graph.op("Softmax", inputs[0], axis=inputs.axis(axes[0]))
    along = inputs.axes(axes)
    powers = graph.op("Exp", graph.op("Sub", inputs[0], graph.op("ReduceMax", inputs[0], axes=along)))
    return graph.op("Div", powers, graph.op("ReduceSum", powers, graph.constant(along, "axes")))
