"""Conv1D, DepthwiseConv1D and SeparableConv1D over time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from edgernn.quantize.from_keras import Emitter, emits, refuse
from edgernn.quantize.layers.activation import activate

__all__: list[str] = []


@emits("Conv1D")
def _conv(layer: Any, inputs: Sequence[ir.Value], graph: Emitter) -> ir.Value:
    kernel, *bias = layer.get_weights()  # (span, in / groups, out)
    return activate(layer, _convolve(layer, inputs[0], kernel.transpose(2, 1, 0), bias, layer.groups, graph), graph)


@emits("DepthwiseConv1D")
def _depthwise(layer: Any, inputs: Sequence[ir.Value], graph: Emitter) -> ir.Value:
    kernel, *bias = layer.get_weights()
    return activate(layer, _convolve(layer, inputs[0], _by_channel(kernel), bias, kernel.shape[1], graph), graph)


@emits("SeparableConv1D")
def _separable(layer: Any, inputs: Sequence[ir.Value], graph: Emitter) -> ir.Value:
    depth, point, *bias = layer.get_weights()
    value = _convolve(layer, inputs[0], _by_channel(depth), [], depth.shape[1], graph)
    value = graph.op("MatMul", value, graph.constant(point[0], "pointwise"))
    if bias:
        value = graph.op("Add", value, graph.constant(bias[0], "bias"))
    return activate(layer, value, graph)


def _by_channel(kernel: NDArray[Any]) -> NDArray[Any]:
    """(span, channels, multiplier) to ONNX' (channels * multiplier, 1, span)."""
    span, channels, multiplier = kernel.shape
    return kernel.transpose(1, 2, 0).reshape(channels * multiplier, 1, span)


def _convolve(
    layer: Any, x: ir.Value, weights: NDArray[Any], bias: Sequence[NDArray[Any]], groups: int, graph: Emitter
) -> ir.Value:
    if layer.padding not in ("causal", "valid"):
        raise refuse(layer, f"padding='{layer.padding}' looks ahead", "train it with padding='causal' or 'valid'")
    dilation, stride = layer.dilation_rate[0], layer.strides[0]
    before = dilation * (weights.shape[2] - 1) if layer.padding == "causal" else 0
    value = graph.op(
        "Conv",
        graph.op("Transpose", x, perm=[0, 2, 1]),
        graph.constant(weights, "kernel"),
        *(graph.constant(array, "bias") for array in bias),
        pads=[before, 0],
        strides=[stride],
        dilations=[dilation],
        group=groups,
    )
    return graph.op("Transpose", value, perm=[0, 2, 1])
