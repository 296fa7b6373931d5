"""Convolutions over time, alone (1D) or together with another axis (2D)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from edgernn.quantize.from_keras import Call, Emitter, emits
from edgernn.quantize.layers.activation import activate

__all__ = ["channels_first", "channels_last", "padding"]


@emits("Conv1D", "Conv2D")
def _conv(layer: Any, call: Call, graph: Emitter) -> ir.Value:
    kernel, *bias = layer.get_weights()  # (spans..., in / groups, out)
    weights = kernel.transpose(-1, -2, *range(kernel.ndim - 2))
    return activate(layer, _convolve(layer, call[0], weights, bias, layer.groups, graph), graph)


@emits("DepthwiseConv1D", "DepthwiseConv2D")
def _depthwise(layer: Any, call: Call, graph: Emitter) -> ir.Value:
    kernel, *bias = layer.get_weights()
    return activate(layer, _convolve(layer, call[0], _by_channel(kernel), bias, kernel.shape[-2], graph), graph)


@emits("SeparableConv1D", "SeparableConv2D")
def _separable(layer: Any, call: Call, graph: Emitter) -> ir.Value:
    depth, point, *bias = layer.get_weights()
    value = _convolve(layer, call[0], _by_channel(depth), [], depth.shape[-2], graph)
    value = graph.op("MatMul", value, graph.constant(point.reshape(point.shape[-2:]), "pointwise"))
    if bias:
        value = graph.op("Add", value, graph.constant(bias[0], "bias"))
    return activate(layer, value, graph)


def _by_channel(kernel: NDArray[Any]) -> NDArray[Any]:
    """(spans..., channels, multiplier) to ONNX' (channels * multiplier, 1, spans...)."""
    *spans, channels, multiplier = kernel.shape
    return kernel.transpose(-2, -1, *range(len(spans))).reshape(channels * multiplier, 1, *spans)


def _convolve(
    layer: Any, x: ir.Value, weights: NDArray[Any], bias: Sequence[NDArray[Any]], groups: int, graph: Emitter
) -> ir.Value:
    axes = weights.ndim - 2
    value = graph.op(
        "Conv",
        channels_first(x, axes, graph),
        graph.constant(weights, "kernel"),
        *(graph.constant(array, "bias") for array in bias),
        **padding(layer, weights.shape[2:]),
        strides=list(layer.strides),
        dilations=list(layer.dilation_rate),
        group=groups,
    )
    return channels_last(value, axes, graph)


def padding(layer: Any, kernel: Sequence[int]) -> dict[str, Any]:
    """Return the attribute of a Conv or a pool that says what `layer` pads with."""
    if layer.padding == "causal":
        return {"pads": [layer.dilation_rate[0] * (kernel[0] - 1), 0]}
    return {"auto_pad": "SAME_UPPER" if layer.padding == "same" else "VALID"}


def channels_first(x: ir.Value, axes: int, graph: Emitter) -> ir.Value:
    """(batch, axes..., channels), as Keras has it, to (batch, channels, axes...)."""
    return graph.op("Transpose", x, perm=[0, axes + 1, *range(1, axes + 1)])


def channels_last(x: ir.Value, axes: int, graph: Emitter) -> ir.Value:
    """(batch, channels, axes...) to (batch, axes..., channels)."""
    return graph.op("Transpose", x, perm=[0, *range(2, axes + 2), 1])
