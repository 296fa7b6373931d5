"""Pooling over a window of frames and over all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir

from edgernn.quantize.from_keras import Emitter, emits, refuse

__all__: list[str] = []


@emits("AveragePooling1D", "MaxPooling1D")
def _pool(layer: Any, inputs: Sequence[ir.Value], graph: Emitter) -> ir.Value:
    if layer.padding != "valid":
        raise refuse(layer, f"padding='{layer.padding}' looks ahead", "train it with padding='valid'")
    op_type = "AveragePool" if type(layer).__name__ == "AveragePooling1D" else "MaxPool"
    value = graph.op("Transpose", inputs[0], perm=[0, 2, 1])
    value = graph.op(op_type, value, kernel_shape=list(layer.pool_size), strides=list(layer.strides))
    return graph.op("Transpose", value, perm=[0, 2, 1])


@emits("GlobalAveragePooling1D", "GlobalMaxPooling1D")
def _pool_all(layer: Any, inputs: Sequence[ir.Value], graph: Emitter) -> ir.Value:
    if layer.keepdims:
        raise refuse(layer, "keepdims=True", "use keepdims=False")
    op_type = "ReduceMean" if type(layer).__name__ == "GlobalAveragePooling1D" else "ReduceMax"
    return graph.op(op_type, inputs[0], axes=[1], keepdims=0)
