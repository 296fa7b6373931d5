"""Products with constant matrices: what quantization is for."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgernn.quantize.graph import array_of, scope_of

__all__ = ["FRONT_END", "Floats", "bias_after", "in_front_end", "is_large", "matrix_of"]

Floats = NDArray[np.float32]
FRONT_END = "embedded_front_end"  # the scope of what turns sound into frames: in float in every scheme
LEAST_WEIGHTS = 256  # smaller constants are not worth an extra node


def matrix_of(node: ir.Node) -> Floats | None:
    """Return the matrix `(in, out)` of a MatMul with a constant that is worth quantizing; None for any other node."""
    if in_front_end(node):
        return None
    if node.op_type != "MatMul" or node.inputs[1] is None or not node.inputs[1].is_initializer():
        return None
    matrix = array_of(node.inputs[1])
    return matrix if is_large(matrix) and matrix.ndim == 2 else None


def in_front_end(node: ir.Node) -> bool:
    """Whether the node computes frames out of sound."""
    return scope_of(node) == FRONT_END


def is_large(array: NDArray[Any]) -> bool:
    """Whether these are weights, and enough of them."""
    return array.dtype == np.float32 and array.size >= LEAST_WEIGHTS


def bias_after(node: ir.Node) -> tuple[ir.Value, Floats] | None:
    """Return the sum of a product and a bias for each column, and the bias, where nothing else reads the product."""
    uses = node.outputs[0].consumers()
    if len(uses) != 1 or uses[0].op_type != "Add" or node.outputs[0].is_graph_output():
        return None
    other = next((v for v in uses[0].inputs if v is not node.outputs[0]), None)
    if other is None or not other.is_initializer() or array_of(other).shape != array_of(node.inputs[1]).shape[1:]:
        return None
    return uses[0].outputs[0], array_of(other)
