"""Weights of a TFLite file in 16 bits: half the size, computed in float32."""

from __future__ import annotations

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgernn.quantize.tflite_graph import TFLiteGraph
from edgernn.quantize.tflite_kinds import LEAST_WEIGHTS, in_front_end

__all__ = ["half_weights"]


def half_weights(content: bytes) -> bytes:
    """Return a float32 file with its weights as float16 behind a DEQUANTIZE, which XNNPACK computes once, at load.

    Those of a front end inside the model stay as they are: its spectrum needs every bit.
    """
    graph = TFLiteGraph(content)
    widened: dict[int, int] = {}
    first = []
    for op in graph.operators:
        for place, tensor in enumerate(op.inputs):
            weights = graph.constant(tensor)
            if weights is None or weights.dtype != np.float32 or weights.size < LEAST_WEIGHTS:
                continue
            if in_front_end(graph, op):
                continue
            if tensor not in widened:
                half = graph.add(tensor, "float16", data=weights.astype(np.float16).tobytes())
                widened[tensor] = graph.add(tensor, "float32")
                options = schema.DequantizeOptionsT()
                first.append(graph.operator("DEQUANTIZE", 3, [half], [widened[tensor]], options))
            op.inputs[place] = widened[tensor]
    graph.operators[:0] = first
    return graph.content()
