"""What the documentation of ONNX Runtime's own operators says they compute, for onnx.reference.

github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from tests.quantize.networks import Array

__all__ = ["evaluate"]


class DynamicQuantizeMatMul(OpRun):
    """Quantizes A to uint8 by its range, zero included, and multiplies."""

    op_domain = "com.microsoft"

    def _run(self, a: Array, b: Any, scales: Array, zero: Any, bias: Any = None) -> tuple[Array]:
        low, high = min(float(a.min()), 0.0), max(float(a.max()), 0.0)
        scale = np.float32((high - low) / 255)
        offset = np.rint(-low / scale)
        levels = np.clip(np.rint(a / scale) + offset, 0, 255) - offset
        product = levels @ (b.astype(np.float64) - zero) * scale * scales
        return ((product if bias is None else product + bias).astype(np.float32),)


class MatMulIntegerToFloat(OpRun):
    """Multiplies integers, and gives what they stand for."""

    op_domain = "com.microsoft"

    def _run(self, a: Any, b: Any, a_scale: Any, scales: Any, a_zero: Any, zero: Any, bias: Any = None) -> tuple[Array]:
        product = (a.astype(np.float64) - a_zero) @ (b.astype(np.float64) - zero) * a_scale * scales
        return ((product if bias is None else product + bias).astype(np.float32),)


class MatMulNBits(OpRun):
    """Multiplies with blocks of nibbles, two a byte and the lower one first, 8 of them standing for zero."""

    op_domain = "com.microsoft"

    def _run(self, a: Array, b: Any, scales: Any, **attributes: int) -> tuple[Array]:
        nibbles = np.stack([b & 15, b >> 4], axis=-1).reshape(*b.shape[:2], -1).astype(np.float32) - 8
        matrix = (nibbles * scales.reshape(*b.shape[:2], 1)).reshape(attributes["N"], -1)[:, : attributes["K"]]
        return ((a @ matrix.T).astype(np.float32),)


def evaluate(model: ir.Model, fed: dict[str, Array]) -> dict[str, Array]:
    """Run a graph by the reference of its operators."""
    operators = [DynamicQuantizeMatMul, MatMulIntegerToFloat, MatMulNBits]
    results = ReferenceEvaluator(ir.to_proto(model), new_ops=operators).run(None, fed)
    return {value.name or "": result for value, result in zip(model.graph.outputs, results, strict=True)}
