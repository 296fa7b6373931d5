"""BatchNormalization (folded), LayerNormalization and Normalization."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgernn.quantize.from_keras import Call, Emitter, emits, refuse
from edgernn.quantize.graph import array_of, plain_attributes, scope_of

__all__ = ["affine"]


@emits("BatchNormalization")
def _batch(layer: Any, inputs: Sequence[ir.Value], graph: Emitter) -> ir.Value:
    if layer.axis not in (-1, 2):
        raise refuse(layer, f"it normalizes axis {layer.axis}", "let it normalize the features (axis=-1)")
    weights = iter(layer.get_weights())
    width = layer.moving_mean.shape[0]
    gamma = next(weights) if layer.scale else np.ones(width, np.float32)
    beta = next(weights) if layer.center else np.zeros(width, np.float32)
    mean, variance = next(weights), next(weights)
    scale = gamma / np.sqrt(variance + layer.epsilon)
    return affine(inputs[0], scale, beta - mean * scale, graph)


@emits("Normalization")
def _normalization(layer: Any, inputs: Call, graph: Emitter) -> ir.Value:
    rank = len(inputs.shape)
    if [axis % rank for axis in layer.axis] not in ([], [rank - 1]):
        raise refuse(layer, f"it normalizes the axes {list(layer.axis)}", "let it normalize the features (axis=-1)")
    mean, variance = np.asarray(layer.mean).ravel(), np.asarray(layer.variance).ravel()
    deviation = np.maximum(np.sqrt(variance), 1e-7)  # keras.backend.epsilon, as the layer has it
    if layer.invert:
        return affine(inputs[0], deviation, mean, graph)
    return affine(inputs[0], 1 / deviation, -mean / deviation, graph)


@emits("LayerNormalization")
def _layer(layer: Any, inputs: Call, graph: Emitter) -> ir.Value:
    rank = len(inputs.shape)
    axes = list(layer.axis) if isinstance(layer.axis, list | tuple) else [layer.axis]
    if getattr(layer, "rms_scaling", False):
        raise refuse(layer, "it divides by the root mean square", "use rms_scaling=False")
    if [axis % rank for axis in axes] != [rank - 1]:
        raise refuse(layer, f"it normalizes the axes {axes}", "let it normalize the features (axis=-1)")
    width = inputs.shape[-1]
    gamma = np.asarray(layer.gamma) if layer.scale else np.ones(int(width or 1), np.float32)
    constants = [graph.constant(gamma, "gamma")]
    if layer.center:
        constants.append(graph.constant(np.asarray(layer.beta), "beta"))
    return graph.op("LayerNormalization", inputs[0], *constants, axis=-1, epsilon=float(layer.epsilon))


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
    if node.op_type == "Transpose" and list(node.attributes["perm"].value) == [0, 2, 1]:
        inner = node.inputs[0]
        conv = None if inner is None else inner.producer()
        if conv is not None and conv.op_type == "Conv":
            return graph.op("Transpose", _scaled_conv(conv, scale, offset, graph), perm=[0, 2, 1])
    if node.op_type == "Add" and node.inputs[0] is not None:
        product, bias = node.inputs[0].producer(), node.inputs[1]
        if product is not None and product.op_type == "MatMul" and bias is not None and bias.is_initializer():
            return _scaled_product(product, scale, array_of(bias) * scale + offset, graph)
    if node.op_type == "MatMul":
        return _scaled_product(node, scale, offset, graph)
    return None


def _scaled_conv(conv: ir.Node, scale: NDArray[Any], offset: NDArray[Any], graph: Emitter) -> ir.Value:
    weights = array_of(conv.inputs[1]) * scale[:, None, None]
    bias = array_of(conv.inputs[2]) * scale if len(conv.inputs) > 2 else 0.0
    constants = (graph.constant(weights, "kernel"), graph.constant(bias + offset, "bias"))
    return graph.ops("Conv", [conv.inputs[0], *constants], 1, plain_attributes(conv))[0]


def _scaled_product(product: ir.Node, scale: NDArray[Any], bias: NDArray[Any], graph: Emitter) -> ir.Value:
    weights = graph.constant(array_of(product.inputs[1]) * scale, "kernel")
    return graph.op("Add", graph.op("MatMul", product.inputs[0], weights), graph.constant(bias, "bias"))
