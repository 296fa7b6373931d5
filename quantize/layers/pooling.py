"""Pooling over a window of frames and over all of them, with or without another axis."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from edgernn.quantize.from_keras import Call, Emitter, emits
from edgernn.quantize.layers.convolution import channels_first, channels_last, padding

__all__: list[str] = []

NEVER = 1e9  # below any other score: its share is zero


@emits("AveragePooling1D", "MaxPooling1D", "AveragePooling2D", "MaxPooling2D")
def _pool(layer: Any, call: Call, graph: Emitter) -> ir.Value:
    op_type = "AveragePool" if type(layer).__name__.startswith("Average") else "MaxPool"
    size = list(layer.pool_size)
    value = channels_first(call[0], len(size), graph)
    value = graph.op(op_type, value, kernel_shape=size, strides=list(layer.strides), **padding(layer, size))
    return channels_last(value, len(size), graph)


@emits("GlobalAveragePooling1D", masked=True)
def _mean_of_all(layer: Any, call: Call, graph: Emitter) -> ir.Value:
    """Under a mask, of the frames that count: a Softmax of scores that are all one gives each the same share.

    Where none has counted yet it is zero, for which Keras divides zero by zero.
    """
    if call.mask is None:
        return graph.op("ReduceMean", call[0], axes=list(range(1, call.rank - 1)), keepdims=int(layer.keepdims))
    axis = graph.constant([2], "axis")
    counts = graph.op("Unsqueeze", call.mask, axis)
    scores = graph.op("Where", counts, graph.constant(0.0, "zero"), graph.constant(-NEVER, "never"))
    kept = graph.op("Where", counts, call[0], graph.constant(0.0, "zero"))
    shared = graph.op("Mul", graph.op("Softmax", scores, axis=1), kept)
    return graph.op("ReduceSum", shared, graph.constant([1], "time"), keepdims=int(layer.keepdims))


@emits("GlobalMaxPooling1D", "GlobalAveragePooling2D", "GlobalMaxPooling2D")
def _pool_all(layer: Any, call: Call, graph: Emitter) -> ir.Value:
    op_type = "ReduceMean" if type(layer).__name__.startswith("GlobalAverage") else "ReduceMax"
    return graph.op(op_type, call[0], axes=list(range(1, call.rank - 1)), keepdims=int(layer.keepdims))
