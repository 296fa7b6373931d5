"""Activation functions, as layers and inside layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from edgernn.quantize.cells import Activation
from edgernn.quantize.from_keras import Emitter, emits, refuse
from edgernn.quantize.graph import Builder

__all__ = ["activate", "recurrent_activation"]

Function = Callable[[Builder, ir.Value], ir.Value]


def _unary(op_type: str, **attributes: Any) -> Function:
    return lambda graph, x: graph.op(op_type, x, **attributes)


def _silu(graph: Builder, x: ir.Value) -> ir.Value:
    return graph.op("Mul", x, graph.op("Sigmoid", x))


def _clip(low: float, high: float) -> Function:
    return lambda graph, x: graph.op("Clip", x, graph.constant(low), graph.constant(high))


def _hard_silu(graph: Builder, x: ir.Value) -> ir.Value:
    return graph.op("Mul", x, graph.op("HardSigmoid", x, alpha=1 / 6, beta=0.5))


def _mish(graph: Builder, x: ir.Value) -> ir.Value:
    return graph.op("Mul", x, graph.op("Tanh", graph.op("Softplus", x)))


def _gelu(graph: Builder, x: ir.Value) -> ir.Value:
    """The exact form, Keras' default (Hendrycks and Gimpel 2016, arXiv:1606.08415, section 2)."""
    erf = graph.op("Erf", graph.op("Mul", x, graph.constant(np.sqrt(0.5))))
    half = graph.op("Mul", x, graph.constant(0.5))
    return graph.op("Mul", half, graph.op("Add", erf, graph.constant(1.0)))


# Keras' name to its function of a value
FUNCTIONS: dict[str, Function] = {
    "linear": lambda graph, x: x,
    "relu": _unary("Relu"),
    "relu6": _clip(0.0, 6.0),
    "sigmoid": _unary("Sigmoid"),
    "tanh": _unary("Tanh"),
    "softmax": _unary("Softmax", axis=-1),
    "log_softmax": _unary("LogSoftmax", axis=-1),
    "elu": _unary("Elu", alpha=1.0),
    "selu": _unary("Selu", alpha=1.6732632423543772, gamma=1.0507009873554805),
    "softplus": _unary("Softplus"),
    "softsign": _unary("Softsign"),
    "exponential": _unary("Exp"),
    "hard_sigmoid": _unary("HardSigmoid", alpha=1 / 6, beta=0.5),
    "hard_silu": _hard_silu,
    "leaky_relu": _unary("LeakyRelu", alpha=0.2),
    "silu": _silu,
    "mish": _mish,
    "gelu": _gelu,
}

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


def activate(layer: Any, x: ir.Value, graph: Builder, name: str = "activation") -> ir.Value:
    """Apply the activation that `layer` has under the attribute `name`."""
    known = _name_of(getattr(layer, name))
    if known not in FUNCTIONS:
        raise refuse(layer, f"its activation {known} has no rule", f"use one of {', '.join(FUNCTIONS)}")
    return FUNCTIONS[known](graph, x)


def recurrent_activation(layer: Any, name: str) -> Activation:
    """Return what the ONNX recurrent operators call an activation of `layer`."""
    known = _name_of(getattr(layer, name))
    if known not in RECURRENT:
        raise refuse(layer, f"its {name} {known} has no rule", f"use one of {', '.join(RECURRENT)}")
    return RECURRENT[known]


def _name_of(function: Any) -> str:
    """Return the name of an activation of Keras; of anything else one that no rule has."""
    name, module = str(getattr(function, "__name__", type(function).__name__)), getattr(function, "__module__", "")
    if module.split(".")[0] != "keras":
        return f"{name} of your own"
    return "keras.ops.gelu" if name == "gelu" and ".ops." in module else name  # that one is the tanh form


@emits("Activation")
def _activation(layer: Any, inputs: Sequence[ir.Value], graph: Emitter) -> ir.Value:
    return activate(layer, inputs[0], graph)


@emits("ReLU")
def _relu(layer: Any, inputs: Sequence[ir.Value], graph: Emitter) -> ir.Value:
    if layer.threshold:
        raise refuse(layer, f"a threshold of {layer.threshold}", "use threshold=0")
    slope = float(layer.negative_slope or 0.0)
    value = graph.op("LeakyRelu", inputs[0], alpha=slope) if slope else graph.op("Relu", inputs[0])
    if layer.max_value is None:
        return value
    return graph.op("Min", value, graph.constant(float(layer.max_value)))


@emits("LeakyReLU")
def _leaky(layer: Any, inputs: Sequence[ir.Value], graph: Emitter) -> ir.Value:
    return graph.op("LeakyRelu", inputs[0], alpha=float(layer.negative_slope))


@emits("PReLU")
def _prelu(layer: Any, inputs: Sequence[ir.Value], graph: Emitter) -> ir.Value:
    return graph.op("PRelu", inputs[0], graph.constant(layer.get_weights()[0], "alpha"))


@emits("ELU")
def _elu(layer: Any, inputs: Sequence[ir.Value], graph: Emitter) -> ir.Value:
    return graph.op("Elu", inputs[0], alpha=float(layer.alpha))


@emits("Softmax")
def _softmax(layer: Any, inputs: Sequence[ir.Value], graph: Emitter) -> ir.Value:
    if layer.axis not in (-1, len(inputs[0].shape or ()) - 1):
        raise refuse(layer, f"a softmax along axis {layer.axis}", "let it work along the features (axis=-1)")
    return graph.op("Softmax", inputs[0], axis=-1)


@emits("Relu", of="ops")
def _relu_op(layer: Any, inputs: Sequence[ir.Value], graph: Emitter) -> ir.Value:
    return graph.op("Relu", inputs[0])


@emits("Sigmoid", of="ops")
def _sigmoid_op(layer: Any, inputs: Sequence[ir.Value], graph: Emitter) -> ir.Value:
    return graph.op("Sigmoid", inputs[0])


@emits("Tanh", of="ops")
def _tanh_op(layer: Any, inputs: Sequence[ir.Value], graph: Emitter) -> ir.Value:
    return graph.op("Tanh", inputs[0])
