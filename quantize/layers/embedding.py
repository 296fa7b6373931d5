"""Embedding: whole numbers, such as the indices of words, become vectors."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from edgernn.quantize.from_keras import Call, Emitter, emits
from edgernn.quantize.layers.arithmetic import cast

__all__: list[str] = []

INDICES = ("int32", "int64")


@emits("Embedding")
def _embedding(layer: Any, call: Call, graph: Emitter) -> ir.Value:
    """A row of the table for each number. Numbers that are no whole ones lose what is behind the point, as in Keras."""
    dtype = call.tensors[0].dtype
    places = call[0] if dtype in INDICES else cast(call[0], dtype, "int32", graph)
    return graph.op("Gather", graph.constant(np.asarray(layer.embeddings, np.float32), "table"), places, axis=0)
