"""Layers that give more frames than they take."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from edgernn.quantize.from_keras import Call, Emitter, emits, refuse
from edgernn.quantize.layers.activation import activate
from edgernn.quantize.layers.convolution import channels_first, channels_last

__all__: list[str] = []


@emits("UpSampling1D", "UpSampling2D")
def _repeat(layer: Any, call: Call, graph: Emitter) -> ir.Value:
    if getattr(layer, "interpolation", "nearest") != "nearest":
        raise refuse(layer, f"it interpolates ({layer.interpolation})", "use interpolation='nearest'")
    factors = layer.size if isinstance(layer.size, list | tuple) else [layer.size]
    scales = np.array([1] * (1 + call.outer) + [*factors, 1], np.float32)
    nearest = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return graph.op("Resize", call[0], None, graph.constant(scales, "scales"), **nearest)


@emits("Conv1DTranspose")
def _spread(layer: Any, call: Call, graph: Emitter) -> ir.Value:
    """Cropped as the gradient of a convolution with the same padding would be."""
    kernel, *bias = layer.get_weights()  # (span, out, in)
    stride, dilation = layer.strides[0], layer.dilation_rate[0]
    tail = dilation * (kernel.shape[0] - 1) + 1 - stride
    if layer.output_padding is not None:
        raise refuse(layer, f"output_padding={layer.output_padding}", "use output_padding=None and ZeroPadding1D")
    crop = max(tail, 0) if layer.padding == "same" else 0
    value = graph.op(
        "ConvTranspose",
        channels_first(call[0], 1, graph),
        graph.constant(kernel.transpose(2, 1, 0), "kernel"),
        *(graph.constant(array, "bias") for array in bias),
        strides=[stride],
        dilations=[dilation],
        pads=[crop // 2, crop - crop // 2],
        output_padding=[max(-tail, 0)],
    )
    return activate(layer, channels_last(value, 1, graph), graph)
