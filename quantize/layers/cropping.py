"""Zeros around a sequence (and around the features of its frames), and the other way round: less of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from edgernn.quantize.from_keras import Call, Emitter, emits

__all__: list[str] = []

END = int(np.iinfo(np.int64).max)


@emits("Cropping1D", "Cropping2D")
def _cropping(layer: Any, call: Call, graph: Emitter) -> ir.Value:
    ends = np.reshape(layer.cropping, (-1, 2))
    bounds = (ends[:, 0], [-last if last else END for last in ends[:, 1]], range(1, 1 + len(ends)))
    return graph.op("Slice", call[0], *(graph.constant(np.array(bound, np.int64), "bound") for bound in bounds))


@emits("ZeroPadding1D", "ZeroPadding2D")
def _padding(layer: Any, call: Call, graph: Emitter) -> ir.Value:
    ends = np.pad(np.reshape(layer.padding, (-1, 2)), ((1, 1), (0, 0)))  # none for the batch, none for the channels
    return graph.op("Pad", call[0], graph.constant(ends.T.ravel().astype(np.int64), "pads"))
