"""Layers around other layers, and those that do nothing once training is over."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from edgernn.quantize.from_keras import Call, Emitted, Emitter, emit_layer, emits, refuse

__all__: list[str] = []


@emits("TimeDistributed", masked=True)
def _time_distributed(layer: Any, call: Call, graph: Emitter) -> Emitted:
    """The inner layer, whose axes are those of a single frame."""
    heeds = getattr(layer.layer, "_call_has_mask_arg", False) and type(layer.layer).__name__ != "BatchNormalization"
    if call.mask is not None and heeds:
        raise refuse(layer, "what it wraps heeds a mask", "let the masking begin behind it")
    return emit_layer(layer.layer, call.inside(layer.layer), graph)


@emits("SpectralNormalization")
def _spectral(layer: Any, call: Call, graph: Emitter) -> Emitted:
    """Its kernel was normalized by the training, and is kept so."""
    return emit_layer(layer.layer, call.of(layer.layer), graph)


@emits(
    *("ActivityRegularization", "AlphaDropout", "Dropout", "GaussianDropout", "GaussianNoise", "Identity"),
    *("SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D"),
    masked=True,
)
def _nothing(layer: Any, call: Call, graph: Emitter) -> ir.Value:
    return call[0]


@emits("Rescaling")
def _rescaling(layer: Any, call: Call, graph: Emitter) -> ir.Value:
    (x,) = call.operands(graph)
    scaled = graph.op("Mul", x, graph.constant(np.asarray(layer.scale, np.float32), "scale"))
    return graph.op("Add", scaled, graph.constant(np.asarray(layer.offset, np.float32), "offset"))
