"""Layers that centre and scale: BatchNormalization and Normalization (folded), LayerNormalization and its kin."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgernn.quantize.from_keras import Call, Emitter, emits, refuse
from edgernn.quantize.graph import array_of, plain_attributes, scope_of
from edgernn.quantize.layers.reduction import epsilon, mean

__all__ = ["affine"]


@emits("BatchNormalization", masked=True)
def _batch(layer: Any, call: Call, graph: Emitter) -> ir.Value:
    """The mask is for training: what was learned is the same for all frames."""
    weights = iter(layer.get_weights())
    width = layer.moving_mean.shape[0]
    gamma = next(weights) if layer.scale else np.ones(width, np.float32)
    beta = next(weights) if layer.center else np.zeros(width, np.float32)
    average, variance = next(weights), next(weights)
    scale = gamma / np.sqrt(variance + layer.epsilon)
    return _affine_along(call.axis(layer.axis), scale, beta - average * scale, call, graph)


@emits("Normalization")
def _normalization(layer: Any, call: Call, graph: Emitter) -> ir.Value:
    axes = call.axes(list(layer.axis)) if layer.axis else [call.rank - 1]
    if len(axes) > 1:
        raise refuse(layer, f"it normalizes the axes {list(layer.axis)}", "let it normalize one axis, or none")
    average, variance = np.asarray(layer.mean).ravel(), np.asarray(layer.variance).ravel()
    deviation = np.maximum(np.sqrt(variance), 1e-7)  # keras.backend.epsilon, as the layer has it
    scale, offset = (deviation, average) if layer.invert else (1 / deviation, -average / deviation)
    return _affine_along(axes[0], scale, offset, call, graph)


def _affine_along(axis: int, scale: NDArray[Any], offset: NDArray[Any], call: Call, graph: Emitter) -> ir.Value:
    """Return `x * scale + offset`, each element of these for one place along an axis."""
    behind = call.rank - 1 - axis % call.rank
    if not behind:
        return affine(call[0], scale, offset, graph)
    scale, offset = (np.asarray(item, np.float32).reshape(-1, *[1] * behind) for item in (scale, offset))
    scaled = graph.op("Mul", call[0], graph.constant(scale, "scale"))
    return graph.op("Add", scaled, graph.constant(offset, "offset"))


@emits("LayerNormalization")
def _layer(layer: Any, call: Call, graph: Emitter) -> ir.Value:
    beta = layer.beta if layer.center and not layer.rms_scaling else None
    return _layer_norm(layer, call, layer.gamma, beta, graph)


@emits("LayerNorm", of="ops")
def _layer_op(operation: Any, call: Call, graph: Emitter) -> ir.Value:
    gamma, beta = (*call.args[1:], None, None)[:2]
    return _layer_norm(operation, call, gamma, beta, graph)


def _layer_norm(settings: Any, call: Call, gamma: Any, beta: Any, graph: Emitter) -> ir.Value:
    """Over the last axes, the operator of that name; over other axes, or with `rms_scaling`, by its parts.

    `rms_scaling` divides by the standard deviation without taking the mean away, which is not the RMS norm.
    """
    x, axes = call[0], call.axes(settings.axis)
    if not settings.rms_scaling and axes == list(range(axes[0], call.rank)):
        shape = [call.size(axis) for axis in axes]
        weights = [np.ones(shape, np.float32) if gamma is None else np.asarray(gamma).reshape(shape)]
        weights += [] if beta is None else [np.asarray(beta).reshape(shape)]
        constants = (graph.constant(array, name) for array, name in zip(weights, ("gamma", "beta"), strict=False))
        return graph.op("LayerNormalization", x, *constants, axis=axes[0] - call.rank, epsilon=epsilon(settings))
    centred = graph.op("Sub", x, mean(x, axes, True, graph))
    variance = mean(graph.op("Mul", centred, centred), axes, True, graph)
    value = _divided(x if settings.rms_scaling else centred, variance, settings, graph)
    value = value if gamma is None else graph.op("Mul", value, _weight(gamma, axes, call, graph))
    return value if beta is None else graph.op("Add", value, _weight(beta, axes, call, graph))


@emits("RMSNorm", of="ops")
def _rms_norm(operation: Any, call: Call, graph: Emitter) -> ir.Value:
    """Zhang and Sennrich 2019, arXiv:1910.07467."""
    x, axes = call[0], call.axes(operation.axis)
    scale = call.kwargs.get("scale", (*call.args, None)[1])
    value = _divided(x, mean(graph.op("Mul", x, x), axes, True, graph), operation, graph)
    return value if scale is None else graph.op("Mul", value, graph.constant(np.asarray(scale, np.float32), "scale"))


@emits("GroupNormalization")
def _group(layer: Any, call: Call, graph: Emitter) -> ir.Value:
    """Of the features of a single frame; with frames or other axes beside them, those would be taken together."""
    if len(call.shape) != 2:
        raise refuse(
            layer,
            "it normalizes over all frames of the sequence together",
            "wrap it in TimeDistributed, so that it normalizes the groups of each frame",
        )
    width, groups, lead = call.size(-1), int(layer.groups), [0] * (1 + call.outer)
    x = graph.op("Reshape", call[0], graph.constant([*lead, groups, width // groups], "groups"))
    centred = graph.op("Sub", x, mean(x, [call.rank], True, graph))
    variance = mean(graph.op("Mul", centred, centred), [call.rank], True, graph)
    value = graph.op("Reshape", _divided(centred, variance, layer, graph), graph.constant([*lead, width], "features"))
    value = graph.op("Mul", value, graph.constant(np.asarray(layer.gamma), "gamma")) if layer.scale else value
    return graph.op("Add", value, graph.constant(np.asarray(layer.beta), "beta")) if layer.center else value


def _divided(x: ir.Value, variance: ir.Value, settings: Any, graph: Emitter) -> ir.Value:
    """Return `x / sqrt(variance + epsilon)`."""
    least = graph.constant(epsilon(settings), "epsilon")
    return graph.op("Div", x, graph.op("Sqrt", graph.op("Add", variance, least)))


def _weight(weight: Any, axes: list[int], call: Call, graph: Emitter) -> ir.Value:
    """Return weights for the axes that are normalized, with axes of one between and behind them."""
    array = np.asarray(weight, np.float32)
    shape = [call.size(axis) if axis in axes else 1 for axis in range(axes[0], call.rank)]
    return graph.constant(array.reshape(shape), "weight")


def affine(x: ir.Value, scale: NDArray[Any], offset: NDArray[Any], graph: Emitter) -> ir.Value:
    """Return `x * scale + offset` per feature, folded into the convolution or product that makes `x`."""
    scale, offset = np.asarray(scale, np.float32), np.asarray(offset, np.float32)
    folded = _fold(x, scale, offset, graph)
    if folded is not None:
        return folded
    scaled = graph.op("Mul", x, graph.constant(scale, "scale"))
    return graph.op("Add", scaled, graph.constant(offset, "offset"))


def _fold(x: ir.Value, scale: NDArray[Any], offset: NDArray[Any], graph: Emitter) -> ir.Value | None:
    """Build the producer of `x` anew with folded weights; the old one goes away unless somebody else uses it."""
    node = x.producer()
    if node is None:
        return None
    graph.scope = scope_of(node)  # what is folded keeps the name of the layer that it is folded into
    if node.op_type == "Transpose" and node.inputs[0] is not None:
        conv, perm = node.inputs[0].producer(), list(node.attributes["perm"].value)
        if conv is not None and conv.op_type == "Conv" and perm == [0, *range(2, len(perm)), 1]:
            return graph.op("Transpose", _scaled_conv(conv, scale, offset, graph), perm=perm)
    if node.op_type == "Add" and node.inputs[0] is not None:
        product, bias = node.inputs[0].producer(), node.inputs[1]
        if product is not None and product.op_type == "MatMul" and bias is not None and bias.is_initializer():
            return _scaled_product(product, scale, array_of(bias) * scale + offset, graph)
    if node.op_type == "MatMul":
        return _scaled_product(node, scale, offset, graph)
    return None


def _scaled_conv(conv: ir.Node, scale: NDArray[Any], offset: NDArray[Any], graph: Emitter) -> ir.Value:
    kernel = array_of(conv.inputs[1])
    weights = kernel * scale.reshape(-1, *[1] * (kernel.ndim - 1))
    bias = array_of(conv.inputs[2]) * scale if len(conv.inputs) > 2 else 0.0
    constants = (graph.constant(weights, "kernel"), graph.constant(bias + offset, "bias"))
    return graph.ops("Conv", [conv.inputs[0], *constants], 1, plain_attributes(conv))[0]


def _scaled_product(product: ir.Node, scale: NDArray[Any], bias: NDArray[Any], graph: Emitter) -> ir.Value:
    weights = graph.constant(array_of(product.inputs[1]) * scale, "kernel")
    return graph.op("Add", graph.op("MatMul", product.inputs[0], weights), graph.constant(bias, "bias"))
