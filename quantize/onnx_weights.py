"""Weights of ONNX files in fewer bits, computed in float: smaller files, the arithmetic of the source."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgernn.quantize.graph import MICROSOFT, Builder, array_of, rebuild
from edgernn.quantize.products import Floats, in_front_end, is_large, matrix_of

__all__ = ["byte_weights", "half_weights", "nibble_products"]

# where weights enter, and the axes that are summed over: all others have a scale for each element
SUMMED = {("MatMul", 1): (-2,), ("Conv", 1): (1, 2), ("Gather", 0): (1,)} | {
    (op_type, place): (2,) for op_type in ("LSTM", "GRU", "RNN") for place in (1, 2)
}
BLOCKS = (32, 16)  # inputs that share a scale, in four bits
INT8_PRODUCT = 4  # accuracy_level of MatMulNBits: the input is quantized as it comes, block by block
SHRINK = np.linspace(0.7, 1.0, 13)

Place = tuple[str, int]
"""Type of an operator, and which of its inputs a constant is."""
Store = Callable[[Floats, Place, Builder], ir.Value | None]


def half_weights(model: ir.Model) -> ir.Model:
    """Store constants as float16 behind a Cast, which ONNX Runtime computes once, when it loads the file."""

    def store(array: Floats, place: Place, graph: Builder) -> ir.Value:
        return graph.op("Cast", graph.constant(array.astype(np.float16), "half"), to=int(ir.DataType.FLOAT))

    return _stored(model, store)


def byte_weights(model: ir.Model) -> ir.Model:
    """Store weights as int8, with a scale for each output, behind a Cast and a Mul: computed once, at load.

    (A DequantizeLinear would say the same, but ONNX Runtime leaves it where it is, to be computed in each step.)
    """

    def store(array: Floats, place: Place, graph: Builder) -> ir.Value | None:
        axes = SUMMED.get(place)
        if axes is None or array.ndim <= max(axes):
            return None
        scales = np.maximum(np.abs(array).max(axis=axes, keepdims=True), 1e-12).astype(np.float32) / np.float32(127)
        levels = graph.constant(np.rint(array / scales).astype(np.int8), "int8")
        return graph.op("Mul", graph.op("Cast", levels, to=int(ir.DataType.FLOAT)), graph.constant(scales, "scales"))

    return _stored(model, store)


def _stored(model: ir.Model, store: Store) -> ir.Model:
    """Let `store` say how each large constant is written; None leaves it as it is."""
    written: dict[ir.Value, ir.Value | None] = {}

    def visit(node: ir.Node, inputs: Sequence[ir.Value | None], graph: Builder) -> Sequence[ir.Value] | None:
        entered = list(inputs)
        if in_front_end(node):
            return None
        for place, old in enumerate(node.inputs):
            if old is not None and old.is_initializer() and is_large(array_of(old)):
                if old not in written:
                    written[old] = store(array_of(old), (node.op_type, place), graph)
                entered[place] = written[old] or inputs[place]
        return graph.copy(node, entered)

    return rebuild(model, visit)


def nibble_products(model: ir.Model) -> ir.Model:
    """Replace products with constant matrices by MatMulNBits: four bits a weight, a scale for each 16 or 32 of them."""

    def visit(node: ir.Node, inputs: Sequence[ir.Value | None], graph: Builder) -> Sequence[ir.Value] | None:
        matrix = matrix_of(node)
        if matrix is None:
            return None
        rows, columns = matrix.shape
        block = min(BLOCKS, key=lambda size: -(-rows // size) * size)  # the one that fills up with fewer zeros
        sizes = {"K": rows, "N": columns, "bits": 4, "block_size": block, "accuracy_level": INT8_PRODUCT}
        packed, scales = _nibbles(matrix, block)
        constants = [graph.constant(packed, "kernel_int4"), graph.constant(scales, "scales")]
        return graph.ops(f"{MICROSOFT}::MatMulNBits", [inputs[0], *constants], 1, sizes)

    return rebuild(model, visit)


def _nibbles(matrix: Floats, block: int) -> tuple[NDArray[np.uint8], Floats]:
    """Quantize `(in, out)` to levels 0..15 around 8; return them two a byte, `(out, blocks, block / 2)`, and scales.

    The largest element of a block is at level 0, that is -8: there is none at +8. Of several scales that are a little
    finer, at the cost of this element, the one with the least squared error is taken.
    """
    rows, columns = matrix.shape
    padded = np.zeros((-(-rows // block) * block, columns), np.float32)
    padded[:rows] = matrix
    blocks: Floats = padded.T.reshape(columns, -1, block)
    largest = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=-1, keepdims=True), -1)
    tried: Floats = (np.where(largest == 0, 1, largest) / -8 * SHRINK).astype(np.float32)  # (out, blocks, shares)
    errors = [((_levels(blocks, scale) * scale - blocks) ** 2).sum(-1) for scale in np.split(tried, len(SHRINK), -1)]
    scales = np.take_along_axis(tried, np.argmin(errors, axis=0)[..., None], -1)
    levels = (_levels(blocks, scales) + 8).astype(np.uint8)
    return np.bitwise_or(levels[..., 0::2], levels[..., 1::2] << 4, dtype=np.uint8), scales[..., 0]


def _levels(blocks: Floats, scales: Floats) -> Floats:
    levels: Floats = np.clip(np.rint(blocks / scales), -8, 7)
    return levels
