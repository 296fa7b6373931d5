"""Dense and the layers that do nothing once training is over."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from edgernn.quantize.from_keras import Call, Emitted, Emitter, emit_layer, emits, refuse
from edgernn.quantize.layers.activation import activate

__all__: list[str] = []

POINTWISE = ("Dense", "Activation", "ReLU", "LeakyReLU", "Dropout", "LayerNormalization", "BatchNormalization")


@emits("Dense")
def _dense(layer: Any, inputs: Sequence[ir.Value], graph: Emitter) -> ir.Value:
    weights = layer.get_weights()
    value = graph.op("MatMul", inputs[0], graph.constant(weights[0], "kernel"))
    if layer.use_bias:
        value = graph.op("Add", value, graph.constant(weights[1], "bias"))
    return activate(layer, value, graph)


@emits("TimeDistributed", masked=True)
def _time_distributed(layer: Any, call: Call, graph: Emitter) -> Emitted:
    inner = layer.layer
    if type(inner).__name__ not in POINTWISE:
        raise refuse(layer, f"it wraps {type(inner).__name__}", f"it may wrap {', '.join(POINTWISE)}")
    return emit_layer(inner, call.inside(inner), graph)


@emits(
    *("Dropout", "SpatialDropout1D", "GaussianNoise", "GaussianDropout", "AlphaDropout", "ActivityRegularization"),
    *("Identity",),
)
def _nothing(layer: Any, inputs: Sequence[ir.Value], graph: Emitter) -> ir.Value:
    return inputs[0]


@emits("Rescaling")
def _rescaling(layer: Any, inputs: Sequence[ir.Value], graph: Emitter) -> ir.Value:
    scaled = graph.op("Mul", inputs[0], graph.constant(np.asarray(layer.scale, np.float32), "scale"))
    return graph.op("Add", scaled, graph.constant(np.asarray(layer.offset, np.float32), "offset"))
